#include "ops/swiglu/kernel_body.h"
