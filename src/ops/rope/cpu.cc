#include "ops/rope/kernel_body.h"
