// The protocols of expert parallelism, for every machine.
#pragma once
#include "dist/expert_parallel/combine_protocol.h"
#include "dist/expert_parallel/dispatch_protocol.h"
