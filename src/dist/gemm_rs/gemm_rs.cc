#include "dist/gemm_rs/gemm_rs.h"

#include "dist/exchange/partial.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_rs";

struct GemmHooks {
  const ActivationView& a;
  const Weight& w;
  const TensorView& y;
  bool accumulate;
  const float* bias;  // rank 0 alone adds it
  float* partial;
  int ranks, rank;

  Range rows_of(int p) const { return split_range(a.rows, ranks, p); }
  ProductTiles cut(int p) const { return ProductTiles::cut(rows_of(p).size(), w.n()); }
  float* shard(int p) const { return partial + rows_of(p).begin * round_up(w.n(), 4); }

  void produce(int p, i64 first, i64 last) const {
    cut(p).multiply(a.slice(rows_of(p).begin, rows_of(p).end), w, bias, first, last, shard(p));
  }
  const float* own(int p, i64 i) const { return shard(p) + i; }
  void sink(i64 tile, i64 i, const float* sums, i64 n) const { mine.store(tile, i, sums, n, y, accumulate); }
  ProductTiles mine = cut(rank);
};

}  // namespace

Result<GemmRs> GemmRs::create(Communicator& comm, const GemmRsShape& shape) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  GemmRs op(comm, shape);
  const i64 pitch = round_up(shape.n, 4);
  const i64 slot = split_range(shape.max_m, comm.size(), 0).size() * pitch;
  WEFT_ASSIGN(op.buffers_, plan_reduce_scatter<float>(comm, slot, kOp));
  op.partial_ = AlignedBuffer(size_t(shape.max_m * pitch) * sizeof(float));
  return op;
}

Status GemmRs::check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const {
  WEFT_TRY(expect_split_k_input(kOp, exec, a, w, shape_.max_m, shape_.n));
  const i64 rows = split_range(a.rows, comm_.size(), comm_.rank()).size();
  WEFT_TRY(expect_tensor("gemm_rs: y", y, DType::kF32, {rows, shape_.n}));
  return comm_.status();
}

Status GemmRs::run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate,
                   const TensorView& bias) {
  WEFT_TRY(check(exec, a, w, y));
  if (bias.data) WEFT_TRY(expect_tensor("gemm_rs: bias", bias, DType::kF32, {shape_.n}));
  if (comm_.size() == 1) return gemm(exec, {.x = a, .w = w, .y = y, .bias = bias, .accumulate = accumulate});
  if (a.rows == 0 || w.n() == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  const float* added = comm_.rank() == 0 ? bias.as<float>() : nullptr;
  const GemmHooks hooks{a,           w, y, accumulate, added, reinterpret_cast<float*>(partial_.data()), comm_.size(),
                        comm_.rank()};
  return end_call(comm_, exec, reduce_scatter(m, buffers_, [&](int p) { return hooks.cut(p).tiles; }, hooks));
}

}  // namespace weft
