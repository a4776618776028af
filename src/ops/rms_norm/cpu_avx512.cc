#include "ops/rms_norm/kernel_body.h"
