// AVX-512 with VNNI and BF16.
#include "ops/gemm/vector_avx512vnni.h"

namespace weft {

const GemmKernels kGemmAvx512Vnni = make_kernels<Avx512Vnni>();

}  // namespace weft
