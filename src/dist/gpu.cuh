// What the definitions behind dist/gpu.h share. Those of expert parallelism stand beside its kernels, so that a program
// that has no other operator holds no others.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "device/cuda/stream.cuh"
#include "dist/gpu.h"

namespace weft::gpu {

template <class Op, class... Args>
Result<std::shared_ptr<Op>> make_on_gpu(Communicator& comm, const Args&... args) {
  WEFT_ASSIGN(Op op, Op::create(comm.cuda(), args...));
  return std::make_shared<Op>(std::move(op));
}

inline Result<cudaStream_t> expect_stream(const Exec& exec) {
  if (exec.device() == DeviceKind::kCuda) return stream_of(exec);
  return error(Code::kInvalidArgument, "the communicator is one of GPUs, the Exec of a CPU");
}

}  // namespace weft::gpu
