#include "ops/quantise/kernel_body.h"
