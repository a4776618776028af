#include "layers/tensor_parallel.h"

#include "comm/bootstrap/exchange.h"
#include "device/allocate.h"
#include "dist/exchange/tuner.h"
#include "ops/gpu.h"

namespace weft {

Result<LayerMode> parse_layer_mode(const std::string& name) {
  if (name == "ar") return LayerMode::kAr;
  if (name == "ag_rs") return LayerMode::kAgRs;
  if (name == "auto") return LayerMode::kAuto;
  return error(Code::kInvalidArgument, "mode '{}' is not one of auto, ar, ag_rs", name);
}

Result<std::unique_ptr<TensorParallel>> TensorParallel::create(Communicator& comm, const TensorParallelShape& shape,
                                                               LayerMode mode, const TensorParallelOptions& options) {
  WEFT_CHECK(mode != LayerMode::kAuto);
  if (mode == LayerMode::kAgRs && !options.all_reduce.empty()) {
    return error(Code::kInvalidArgument, "all_reduce '{}': mode ag_rs has no all-reduce", options.all_reduce);
  }
  if (comm.device() == DeviceKind::kCuda) WEFT_TRY(gpu::load_kernels());
  TuningCache cache;
  FusedOptions fused{.variant = options.variant, .constant_w = true};
  if (options.tuning) {
    auto opened = comm.rank() == 0 ? TuningCache::open(*options.tuning) : Result<TuningCache>(TuningCache());
    WEFT_TRY(agree(comm.world(), opened.status(), Deadline::after(std::chrono::seconds(60))));
    cache = std::move(opened.value());
    fused.tunes = true;
    fused.cache = &cache;
  }
  std::unique_ptr<TensorParallel> tp(new TensorParallel(comm, mode));
  WEFT_TRY(tp->plan_columns(shape, fused));
  WEFT_TRY(tp->plan_rows(shape, fused, options.all_reduce));
  if (shape.vocab > 0) WEFT_TRY(tp->plan_ends(shape));
  return tp;
}

Status TensorParallel::plan_columns(const TensorParallelShape& shape, const FusedOptions& fused) {
  for (size_t f = 0; f < ag_gemm_.size(); ++f) {
    if (!shape.column_formats[f]) continue;
    const auto format = ActivationFormat(f);
    if (sharded()) {
      const AgGemmShape gemm{.max_m = shape.max_tokens, .k = shape.hidden, .format = format, .n = shape.column_n};
      WEFT_ASSIGN(ag_gemm_[f], AgGemm::create(comm_, gemm, {.fused = fused}));
    } else {
      WEFT_ASSIGN(local_input_[f], ActivationBuffer::create(comm_.device(), format, shape.max_tokens, shape.hidden));
    }
  }
  return {};
}

Status TensorParallel::plan_rows(const TensorParallelShape& shape, const FusedOptions& fused,
                                 const std::string& all_reduce) {
  const i64 tokens = shape.max_tokens, hidden = shape.hidden;
  const bool on_cpu = comm_.device() == DeviceKind::kCpu;
  const DType product = on_cpu ? DType::kF32 : DType::kBF16;
  if (sharded()) {
    WEFT_ASSIGN(gemm_rs_, GemmRs::create(comm_, {.max_m = tokens, .n = hidden, .k = shape.row_k}, fused));
  } else if (size() > 1 && all_reduce.empty()) {
    WEFT_ASSIGN(gemm_ar_, GemmAr::create(comm_, {.max_m = tokens, .n = hidden, .k = shape.row_k}, {.fused = fused}));
    return {};
  } else if (size() > 1) {
    const AllReduceShape sums{.max_elements = tokens * hidden, .dtype = product};
    WEFT_ASSIGN(row_reduce_, AllReduce::create(comm_, sums, {.name = all_reduce}));
  }
  if (on_cpu && !row_reduce_) return {};
  WEFT_ASSIGN(row_output_, make_tensor(comm_.device(), product, {local_tokens(tokens).size(), hidden}));
  return {};
}

// What embedding and head need.
Status TensorParallel::plan_ends(const TensorParallelShape& shape) {
  if (size() == 1) return {};
  if (sharded()) {
    WEFT_ASSIGN(
        reduce_scatter_,
        ReduceScatter::create(comm_, {.max_rows = shape.max_tokens, .columns = shape.hidden, .dtype = DType::kF32}));
    const i64 max_local = split_range(shape.max_tokens, size(), 0).size();
    WEFT_ASSIGN(gather_rows_, AllGather::create(comm_, {.max_bytes_per_rank = max_local * shape.hidden * 4}));
  } else {
    WEFT_ASSIGN(all_reduce_,
                AllReduce::create(comm_, {.max_elements = shape.max_tokens * shape.hidden, .dtype = DType::kF32}));
  }
  const i64 max_columns = split_range(shape.vocab, size(), 0).size();
  WEFT_ASSIGN(gather_columns_, AllGather::create(comm_, {.max_bytes_per_rank = shape.max_logits * max_columns * 4}));
  return {};
}

Range TensorParallel::local_tokens(i64 tokens) const {
  return mode_ == LayerMode::kAgRs ? split_range(tokens, size(), rank()) : Range{0, tokens};
}

ActivationView TensorParallel::column_input(ActivationFormat format, i64 tokens) {
  const i64 rows = local_tokens(tokens).size();
  auto& symmetric = ag_gemm_[size_t(format)];
  return symmetric ? symmetric->input(rows) : local_input_[size_t(format)]->view(rows);
}

Status TensorParallel::column(Exec& exec, const ActivationView& x, i64 tokens, const Weight& w, const TensorView& y,
                              const TensorView& bias) {
  auto& ag_gemm = ag_gemm_[size_t(x.format)];
  return ag_gemm ? ag_gemm->run(exec, x, tokens, w, y, bias) : gemm(exec, {.x = x, .w = w, .y = y, .bias = bias});
}

Status TensorParallel::row(Exec& exec, const ActivationView& a, const Weight& w, Residual& residual,
                           const TensorView& bias) {
  WEFT_CHECK(residual.addend.data == nullptr);  // a norm stands between
  const i64 rows = residual.rows.dim(0);
  const bool adds = comm_.device() == DeviceKind::kCpu && !row_output_;
  const TensorView y = adds          ? residual.rows
                       : row_output_ ? row_output_->storage.view(row_output_->view.dtype, {rows, w.n()})
                                     : gemm_ar_->output(rows);
  if (row_reduce_) {
    WEFT_TRY(gemm(exec, {.x = a, .w = w, .y = y, .bias = rank() == 0 ? bias : TensorView{}}));
    WEFT_TRY(row_reduce_->run(exec, y, y));
  } else if (gemm_rs_) {
    WEFT_TRY(gemm_rs_->run(exec, a, w, y, adds, bias));
  } else if (gemm_ar_) {
    WEFT_TRY(gemm_ar_->run(exec, a, w, y, adds, bias));
  } else {
    WEFT_TRY(gemm(exec, {.x = a, .w = w, .y = y, .bias = bias, .accumulate = adds}));
  }
  if (!adds) residual.addend = y;
  return {};
}

Status TensorParallel::sum(Exec& exec, const TensorView& x, const TensorView& residual) {
  if (reduce_scatter_) return reduce_scatter_->run(exec, x, residual);
  if (all_reduce_) return all_reduce_->run(exec, x, residual);
  WEFT_CHECK(size() == 1 && x.data == residual.data);
  return {};
}

Result<TensorView> TensorParallel::all_rows(Exec& exec, const TensorView& residual, const TensorView& y) {
  if (!gather_rows_) return residual;
  WEFT_TRY(gather_rows_->run(exec, residual, y));
  return y;
}

Status TensorParallel::gather_columns(Exec& exec, const TensorView& shard, const TensorView& y) {
  if (gather_columns_) return gather_columns_->run_columns(exec, shard, y);
  WEFT_CHECK(size() == 1 && shard.data == y.data);
  return {};
}

}  // namespace weft
