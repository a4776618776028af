#include <algorithm>

#include "device/cpu_features.h"
#include "device/thread_pool.h"
#include "python/operator.h"

namespace weft::python {
namespace {

class CpuOperator final : public Operator {
 public:
  CpuOperator(std::shared_ptr<World> world, std::unique_ptr<ThreadPool> pool, ep::AllToAll op)
      : world_(std::move(world)), pool_(std::move(pool)), op_(std::move(op)) {}

  DeviceKind device() const override { return DeviceKind::kCpu; }

  Status dispatch(const ep::DispatchArgs& args, Halves halves, void*) override {
    const Status outcome = pool_->run([&](Exec& exec) {
      if (!halves.receive) return op_.dispatch_send(exec, args);
      return halves.send ? op_.dispatch(exec, args) : op_.dispatch_receive(exec, args);
    });
    if (halves.receive) tokens_ = tokens_of(args.indices, args.bound_m);
    return outcome;
  }

  Status combine(const ep::CombineArgs& args, const u32* bound_m, Halves halves, void*) override {
    if (const i64 tokens = tokens_of(args.indices, bound_m); bound_m != nullptr && tokens != tokens_) {
      return error(Code::kInvalidArgument, "combine: bound_m: the dispatch had {} tokens, found {}", tokens_, tokens);
    }
    return pool_->run([&](Exec& exec) {
      if (!halves.receive) return op_.combine_send(exec, args);
      return halves.send ? op_.combine(exec, args) : op_.combine_receive(exec, args);
    });
  }

  Range local_experts() const override { return op_.local_experts(); }
  i64 capacity() const override { return op_.capacity(); }
  i64 dropped_pairs() const override { return op_.dropped_pairs(); }
  Status report() const override { return {}; }

 private:
  static i64 tokens_of(const TensorView& indices, const u32* bound_m) {
    const i64 rows = indices.shape.rank() > 0 ? indices.dim(0) : 0;
    return bound_m != nullptr ? std::min(rows, i64(*bound_m)) : rows;
  }

  const std::shared_ptr<World> world_;  // outlives the rest
  const std::unique_ptr<ThreadPool> pool_;
  ep::AllToAll op_;
  i64 tokens_ = 0;  // of the last dispatch
};

}  // namespace

Result<std::unique_ptr<Operator>> make_cpu_operator(std::shared_ptr<World> world, const OperatorSpec& spec) {
  WEFT_TRY(check_cpu_isa());
  constexpr i64 kOfCommunicator = i64(1) << 20;  // its own mailboxes, and rounding
  CommunicatorOptions options;
  options.deadline = spec.deadline;
  WEFT_ASSIGN(options.arena_bytes, ep::AllToAll::symmetric_bytes(spec.shape, spec.options));
  options.arena_bytes += kOfCommunicator;
  const int cpus = usable_cpu_count(), share = std::clamp(cpus / world->size(), 1, int(ep::kMaxCtas));
  const int threads = spec.threads > 0 ? spec.threads : share;
  WEFT_ASSIGN(Communicator comm, Communicator::create(*world, options));
  WEFT_ASSIGN(auto op, ep::AllToAll::create(comm, spec.shape, spec.options));
  const bool fits = threads * world->size() <= cpus;
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = fits ? 20000 : 200}));
  return std::unique_ptr<Operator>(std::make_unique<CpuOperator>(std::move(world), std::move(pool), std::move(op)));
}

}  // namespace weft::python
