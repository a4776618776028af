// Plain C++: every machine's fallback, and the meaning of the others.
#include "ops/gemm/vector_generic.h"

namespace weft {

const GemmKernels kGemmGeneric = make_kernels<Generic>();

}  // namespace weft
