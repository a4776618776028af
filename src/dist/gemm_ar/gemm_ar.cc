#include "dist/gemm_ar/gemm_ar.h"

#include "dist/exchange/partial.h"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_ar";

struct GemmHooks {
  const ActivationView& a;
  const Weight& w;
  const TensorView& y;
  bool accumulate;
  const float* bias;  // rank 0 alone adds it
  float* partial;
  ProductTiles cut;

  void produce(i64 first, i64 last) const { cut.multiply(a, w, bias, first, last, partial); }
  const float* own(i64 i) const { return partial + i; }
  void sink(i64 tile, i64 i, const float* sums, i64 n) const { cut.store(tile, i, sums, n, y, accumulate); }
};

}  // namespace

Result<GemmAr> GemmAr::create(Communicator& comm, const GemmArShape& shape, const AllReduceOptions& options) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  GemmAr op(comm, shape);
  const Tiles most = ProductTiles::most(shape.max_m, shape.n);
  WEFT_ASSIGN(op.plan_, AllReducePlan<float>::create(comm, most, options.name, kOp));
  op.partial_ = AlignedBuffer(size_t(round_up(most.elements, kTileUnit)) * sizeof(float));
  return op;
}

Status GemmAr::check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const {
  WEFT_TRY(expect_split_k_input(kOp, exec, a, w, shape_.max_m, shape_.n));
  WEFT_TRY(expect_tensor("gemm_ar: y", y, DType::kF32, {a.rows, shape_.n}));
  return comm_.status();
}

Status GemmAr::run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate,
                   const TensorView& bias) {
  WEFT_TRY(check(exec, a, w, y));
  if (bias.data) WEFT_TRY(expect_tensor("gemm_ar: bias", bias, DType::kF32, {shape_.n}));
  if (comm_.size() == 1) return gemm(exec, {.x = a, .w = w, .y = y, .bias = bias, .accumulate = accumulate});
  if (a.rows == 0 || w.n() == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  const ProductTiles cut = ProductTiles::cut(a.rows, w.n());
  const float* added = comm_.rank() == 0 ? bias.as<float>() : nullptr;
  const GemmHooks hooks{a, w, y, accumulate, added, reinterpret_cast<float*>(partial_.data()), cut};
  return end_call(comm_, exec, plan_.run(m, cut.tiles, hooks));
}

}  // namespace weft
