// Stands in for cuda_operator.cu where there is no CUDA compiler.
#include "python/operator.h"

namespace weft::python {

Result<std::unique_ptr<Operator>> make_cuda_operator(std::shared_ptr<World>, const OperatorSpec&) {
  return error(Code::kUnimplemented, "device: this package was built without CUDA");
}

bool built_with_cuda() {
  return false;
}

}  // namespace weft::python
