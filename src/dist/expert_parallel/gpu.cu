#include "dist/expert_parallel/cuda.cuh"
#include "dist/gpu.cuh"

namespace weft::gpu {

Result<std::shared_ptr<ep::CudaAllToAll>> make_all_to_all(Communicator& comm, const ep::AllToAllShape& shape,
                                                          const ep::AllToAllOptions& options) {
  return make_on_gpu<ep::CudaAllToAll>(comm, shape, options);
}

Status dispatch(ep::CudaAllToAll& op, const Exec& exec, const ep::DispatchArgs& args, bool send, bool receive) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  if (send && receive) return op.dispatch(stream, args);
  return send ? op.dispatch_send(stream, args) : op.dispatch_receive(stream, args);
}

Status combine(ep::CudaAllToAll& op, const Exec& exec, const ep::CombineArgs& args, bool send, bool receive) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  if (send && receive) return op.combine(stream, args);
  return send ? op.combine_send(stream, args) : op.combine_receive(stream, args);
}

TensorView row_begins(const ep::CudaAllToAll& op) {
  return op.row_begins();
}
i64 most_rows(const ep::CudaAllToAll& op) {
  return op.most_rows();
}
i64 capacity(const ep::CudaAllToAll& op) {
  return op.capacity();
}
ep::GatheredRows gathered(const ep::CudaAllToAll& op) {
  return op.gathered();
}
i64 dropped_pairs(const ep::CudaAllToAll& op) {
  return op.dropped_pairs();
}
Status report(const ep::CudaAllToAll& op) {
  return op.report();
}

}  // namespace weft::gpu
