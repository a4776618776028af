#include "comm/cuda_communicator.cuh"
#include "dist/expert_parallel/cuda.cuh"
#include "python/operator.h"

namespace weft::python {
namespace {

class CudaOperator final : public Operator {
 public:
  CudaOperator(std::shared_ptr<World> world, std::unique_ptr<CudaCommunicator> comm, ep::CudaAllToAll op)
      : world_(std::move(world)), comm_(std::move(comm)), op_(std::move(op)) {}

  DeviceKind device() const override { return DeviceKind::kCuda; }

  Status dispatch(const ep::DispatchArgs& args, Halves halves, void* stream) override {
    auto* order = static_cast<cudaStream_t>(stream);
    if (!halves.receive) return op_.dispatch_send(order, args);
    return halves.send ? op_.dispatch(order, args) : op_.dispatch_receive(order, args);
  }
  // The number of tokens of the dispatch is on the device: bound_m has nothing to add.
  Status combine(const ep::CombineArgs& args, const u32*, Halves halves, void* stream) override {
    auto* order = static_cast<cudaStream_t>(stream);
    if (!halves.receive) return op_.combine_send(order, args);
    return halves.send ? op_.combine(order, args) : op_.combine_receive(order, args);
  }

  Range local_experts() const override { return op_.local_experts(); }
  i64 capacity() const override { return op_.capacity(); }
  i64 dropped_pairs() const override { return op_.dropped_pairs(); }
  Status report() const override {
    WEFT_TRY(comm_->status());
    return op_.report();
  }

 private:
  const std::shared_ptr<World> world_;  // outlives the rest
  const std::unique_ptr<CudaCommunicator> comm_;
  ep::CudaAllToAll op_;
};

}  // namespace

Result<std::unique_ptr<Operator>> make_cuda_operator(std::shared_ptr<World> world, const OperatorSpec& spec) {
  WEFT_ASSIGN(const i64 bytes, ep::CudaAllToAll::symmetric_bytes(spec.shape, spec.options));
  constexpr i64 kOfCommunicator = i64(1) << 20;  // its own mailboxes, and rounding
  WEFT_ASSIGN(auto comm, CudaCommunicator::create(*world, {.device = spec.device,
                                                           .arena_bytes = size_t(bytes + kOfCommunicator),
                                                           .deadline = spec.deadline}));
  WEFT_ASSIGN(auto op, ep::CudaAllToAll::create(*comm, spec.shape, spec.options));
  return std::unique_ptr<Operator>(std::make_unique<CudaOperator>(std::move(world), std::move(comm), std::move(op)));
}

bool built_with_cuda() {
  return true;
}

}  // namespace weft::python
