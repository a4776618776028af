// Stands in for what cuda_communicator.cu has of Communicator where there is no CUDA compiler.
#include "comm/communicator.h"

namespace weft {

Result<Communicator> Communicator::split_gpus(int, int) const {
  return error(Code::kUnimplemented, "split: this build has no CUDA");
}

}  // namespace weft
