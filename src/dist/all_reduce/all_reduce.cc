#include "dist/all_reduce/all_reduce.h"

#include <algorithm>

#include "dist/exchange/plan.h"
#include "dist/gpu.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_reduce";
// Measured with `weft bench comm`: on a CPU a word per 8 bytes loses to a flag per tile at every size, because the
// reader polls the very lines that are being written; two shots win where each rank's share of the sum is worth a
// second trip.
constexpr i64 kOneShotMostBytes = 64 << 10;
constexpr i64 kNoLimit = i64(1) << 50;
constexpr i64 kTileElements = 256;  // a smaller tile costs more in flags than another thread gains

template <class T>
struct Elementwise {
  const T* x;
  T* y;
  void produce(i64, i64) const {}
  const T* own(i64 i) const { return x + i; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

}  // namespace

Result<AllReduceAlgorithm> parse_all_reduce(const std::string& name) {
  if (name == "auto") return AllReduceAlgorithm::kAuto;
  if (name == "ll") return AllReduceAlgorithm::kLl;
  if (name == "one_shot") return AllReduceAlgorithm::kOneShot;
  if (name == "two_shot") return AllReduceAlgorithm::kTwoShot;
  return error(Code::kInvalidArgument, "all-reduce: expected auto, ll, one_shot or two_shot, found {}", name);
}

AllReduceAlgorithm choose_all_reduce(i64 bytes, int ranks) {
  return bytes <= kOneShotMostBytes || ranks <= 2 ? AllReduceAlgorithm::kOneShot : AllReduceAlgorithm::kTwoShot;
}

template <class T>
Result<AllReducePlan<T>> AllReducePlan<T>::create(Communicator& comm, const Tiles& most, const std::string& name,
                                                  const char* op) {
  AllReducePlan plan;
  WEFT_ASSIGN(plan.algorithm_, parse_all_reduce(name));
  const int ranks = comm.size();
  const i64 elements = round_up(most.elements, kTileUnit);
  // The elements that the largest call of each protocol needs room for.
  const bool automatic = plan.algorithm_ == AllReduceAlgorithm::kAuto;
  const auto up_to = [&](AllReduceAlgorithm which, i64 most_bytes) {
    if (plan.algorithm_ == which) return elements;
    return automatic ? std::min(elements, round_up(most_bytes / i64(sizeof(T)), kTileUnit)) : 0;
  };
  const i64 ll = up_to(AllReduceAlgorithm::kLl, 0);
  const i64 one_shot = up_to(AllReduceAlgorithm::kOneShot, ranks <= 2 ? kNoLimit : kOneShotMostBytes);
  const i64 two_shot = up_to(AllReduceAlgorithm::kTwoShot, ranks <= 2 ? 0 : kNoLimit);
  AllReduceBuffers<T>& b = plan.buffers_;
  // A shard of two_shot is whole tiles: at most two tiles above an equal share.
  const i64 shard = std::min(two_shot, two_shot / ranks + 2 * most.stride);
  b.slot = round_up(std::max(one_shot, shard), kTileUnit);
  b.result_elements = two_shot;
  b.inbox.words = divide_up(ll * i64(sizeof(T)), kLlBytes);
  SymmetricLayout layout;
  const i64 flags = flags_per_source(kMaxTiles);
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 reduced = layout.reserve<u32>(ranks * flags);
  const i64 inbox = layout.reserve<LlWord>(2 * ranks * b.inbox.words);
  const i64 stage = layout.reserve<T>(2 * ranks * b.slot);
  const i64 result = layout.reserve<T>(2 * b.result_elements);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), op));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.reduced = {layout.at<u32>(base, reduced), flags};
  b.inbox.base = layout.at<LlWord>(base, inbox);
  b.stage = layout.at<T>(base, stage);
  b.result = layout.at<T>(base, result);
  return plan;
}

template class AllReducePlan<float>;
template class AllReducePlan<bf16>;
template class AllReducePlan<f16>;

Result<AllReduce> AllReduce::create(Communicator& comm, const AllReduceShape& shape, const AllReduceOptions& options) {
  WEFT_TRY(expect_summable(kOp, shape.dtype));
  if (shape.max_elements < 0) {
    return error(Code::kInvalidArgument, "{}: max_elements: expected at least 0, found {}", kOp, shape.max_elements);
  }
  AllReduce op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_all_reduce(comm, shape.max_elements, shape.dtype, options.name));
    return op;
  }
  WEFT_TRY(with_element(shape.dtype, [&](auto element) -> Status {
    const Tiles most = cut_tiles(shape.max_elements, kTileElements);
    WEFT_ASSIGN(op.plan_, AllReducePlan<decltype(element)>::create(comm, most, options.name, kOp));
    return {};
  }));
  return op;
}

Status AllReduce::check(const Exec& exec, const TensorView& x, const TensorView& y) const {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(expect_tensor("all_reduce: x", x, shape_.dtype, x.shape));
  WEFT_TRY(expect_tensor("all_reduce: y", y, shape_.dtype, x.shape));
  WEFT_TRY(expect_dense(kOp, "x", x));
  WEFT_TRY(expect_dense(kOp, "y", y));
  if (x.shape.elements() > shape_.max_elements) {
    return error(Code::kInvalidArgument, "{}: x: {} holds more than max_elements = {}", kOp, x.describe(),
                 shape_.max_elements);
  }
  return comm_.status();
}

Status AllReduce::run(Exec& exec, const TensorView& x, const TensorView& y) {
  if (gpu_) return gpu::run(*gpu_, exec, x, y);
  WEFT_TRY(check(exec, x, y));
  const i64 elements = x.shape.elements();
  if (elements == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  const bool done = std::visit(
      [&]<class T>(const AllReducePlan<T>& plan) {
        return plan.run(m, cut_tiles(elements, kTileElements), Elementwise<T>{x.as<const T>(), y.as<T>()});
      },
      plan_);
  return end_call(comm_, exec, done);
}

}  // namespace weft
