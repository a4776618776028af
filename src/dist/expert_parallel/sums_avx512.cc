#include "dist/expert_parallel/sums_body.h"
