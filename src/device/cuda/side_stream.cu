#include "device/side_stream.h"

#include "device/cuda/runtime.cuh"
#include "device/cuda/stream.cuh"

namespace weft {

struct SideStream::Handles {
  CudaStream stream;
  CudaEvent forked, joined;
};

Result<SideStream> SideStream::create() {
  auto handles = std::make_shared<Handles>();
  WEFT_ASSIGN(handles->stream, make_stream());
  WEFT_ASSIGN(handles->forked, make_event());
  WEFT_ASSIGN(handles->joined, make_event());
  int device = 0, sms = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  SideStream side;
  side.sm_budget_ = sms / 2;
  side.handles_ = std::move(handles);
  return std::move(side);
}

Result<Exec> SideStream::fork(const Exec& exec) {
  WEFT_CUDA_TRY(cudaEventRecord(handles_->forked.get(), stream_of(exec)));
  WEFT_CUDA_TRY(cudaStreamWaitEvent(handles_->stream.get(), handles_->forked.get(), 0));
  return Exec::cuda(handles_->stream.get(), sm_budget_);
}

Result<Exec> SideStream::join(const Exec& exec) {
  WEFT_CUDA_TRY(cudaEventRecord(handles_->joined.get(), handles_->stream.get()));
  WEFT_CUDA_TRY(cudaStreamWaitEvent(stream_of(exec), handles_->joined.get(), 0));
  return Exec::cuda(exec.stream(), exec.sm_budget());
}

}  // namespace weft
