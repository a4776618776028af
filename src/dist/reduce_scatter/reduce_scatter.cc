#include "dist/reduce_scatter/reduce_scatter.h"

#include "dist/exchange/plan.h"
#include "dist/gpu.h"

namespace weft {
namespace {

constexpr const char* kOp = "reduce_scatter";
constexpr i64 kTileElements = 256;

template <class T>
struct RowHooks {
  const T* x;
  T* y;
  i64 rows, columns;
  int ranks;
  void produce(int, i64, i64) const {}
  const T* own(int p, i64 i) const { return x + split_range(rows, ranks, p).begin * columns + i; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

}  // namespace

template <class T>
Result<ReduceScatterBuffers<T>> plan_reduce_scatter(Communicator& comm, i64 slot, const char* op) {
  ReduceScatterBuffers<T> b;
  b.slot = round_up(slot, kTileUnit);
  const i64 flags = flags_per_source(kMaxTiles);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(comm.size() * flags);
  const i64 stage = layout.reserve<T>(2 * comm.size() * b.slot);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), op));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.stage = layout.at<T>(base, stage);
  return b;
}
template Result<ReduceScatterBuffers<float>> plan_reduce_scatter(Communicator&, i64, const char*);
template Result<ReduceScatterBuffers<bf16>> plan_reduce_scatter(Communicator&, i64, const char*);
template Result<ReduceScatterBuffers<f16>> plan_reduce_scatter(Communicator&, i64, const char*);

Result<ReduceScatter> ReduceScatter::create(Communicator& comm, const ReduceScatterShape& shape) {
  WEFT_TRY(expect_summable(kOp, shape.dtype));
  if (shape.max_rows < 0 || shape.columns < 0) {
    return error(Code::kInvalidArgument, "{}: max_rows, columns: expected at least 0, found {}, {}", kOp,
                 shape.max_rows, shape.columns);
  }
  ReduceScatter op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_reduce_scatter(comm, shape));
    return op;
  }
  const i64 slot = split_range(shape.max_rows, comm.size(), 0).size() * shape.columns;
  WEFT_TRY(with_element(shape.dtype, [&](auto element) -> Status {
    WEFT_ASSIGN(op.buffers_, plan_reduce_scatter<decltype(element)>(comm, slot, kOp));
    return {};
  }));
  return op;
}

Status ReduceScatter::check(const Exec& exec, const TensorView& x, const TensorView& y) const {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(expect_tensor("reduce_scatter: x", x, shape_.dtype, {-1, shape_.columns}));
  if (x.dim(0) > shape_.max_rows) {
    return error(Code::kInvalidArgument, "{}: x: {} holds more than max_rows = {}", kOp, x.describe(), shape_.max_rows);
  }
  const i64 rows = split_range(x.dim(0), comm_.size(), comm_.rank()).size();
  WEFT_TRY(expect_tensor("reduce_scatter: y", y, shape_.dtype, {rows, shape_.columns}));
  WEFT_TRY(expect_dense(kOp, "x", x));
  WEFT_TRY(expect_dense(kOp, "y", y));
  return comm_.status();
}

Status ReduceScatter::run(Exec& exec, const TensorView& x, const TensorView& y) {
  if (gpu_) return gpu::run(*gpu_, exec, x, y);
  WEFT_TRY(check(exec, x, y));
  const i64 rows = x.dim(0), columns = shape_.columns;
  if (rows * columns == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  const auto tiles_of = [&](int p) {
    return cut_tiles(split_range(rows, comm_.size(), p).size() * columns, kTileElements);
  };
  const bool done = std::visit(
      [&]<class T>(const ReduceScatterBuffers<T>& buffers) {
        const RowHooks<T> hooks{x.as<const T>(), y.as<T>(), rows, columns, comm_.size()};
        return reduce_scatter(m, buffers, tiles_of, hooks);
      },
      buffers_);
  return end_call(comm_, exec, done);
}

}  // namespace weft
