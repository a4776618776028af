#include "ops/attention/kernel_body.h"
