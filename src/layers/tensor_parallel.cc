#include "layers/tensor_parallel.h"

namespace weft {

Result<LayerMode> parse_layer_mode(const std::string& name) {
  if (name == "ar") return LayerMode::kAr;
  if (name == "ag_rs") return LayerMode::kAgRs;
  if (name == "auto") return LayerMode::kAuto;
  return error(Code::kInvalidArgument, "mode '{}' is not one of auto, ar, ag_rs", name);
}

Result<std::unique_ptr<TensorParallel>> TensorParallel::create(Communicator& comm, const TensorParallelShape& shape,
                                                               LayerMode mode) {
  WEFT_CHECK(mode != LayerMode::kAuto);
  std::unique_ptr<TensorParallel> tp(new TensorParallel(comm, mode));
  const bool sharded = comm.size() > 1 && mode == LayerMode::kAgRs;
  for (size_t f = 0; f < tp->ag_gemm_.size(); ++f) {
    if (!shape.column_formats[f]) continue;
    const auto format = ActivationFormat(f);
    if (sharded) {
      WEFT_ASSIGN(tp->ag_gemm_[f],
                  AgGemm::create(comm, {.max_m = shape.max_tokens, .k = shape.hidden, .format = format}));
    } else {
      tp->local_input_[f] = ActivationBuffer::create(format, shape.max_tokens, shape.hidden);
    }
  }
  if (comm.size() == 1) return tp;
  if (sharded) {
    WEFT_ASSIGN(tp->gemm_rs_, GemmRs::create(comm, {.max_m = shape.max_tokens, .n = shape.hidden}));
    WEFT_ASSIGN(
        tp->reduce_scatter_,
        ReduceScatter::create(comm, {.max_rows = shape.max_tokens, .columns = shape.hidden, .dtype = DType::kF32}));
    const i64 max_local = split_range(shape.max_tokens, comm.size(), 0).size();
    WEFT_ASSIGN(tp->gather_rows_, AllGather::create(comm, {.max_bytes_per_rank = max_local * shape.hidden * 4}));
  } else {
    WEFT_ASSIGN(tp->gemm_ar_, GemmAr::create(comm, {.max_m = shape.max_tokens, .n = shape.hidden}));
    WEFT_ASSIGN(tp->all_reduce_,
                AllReduce::create(comm, {.max_elements = shape.max_tokens * shape.hidden, .dtype = DType::kF32}));
  }
  const i64 max_columns = split_range(shape.vocab, comm.size(), 0).size();
  WEFT_ASSIGN(tp->gather_columns_, AllGather::create(comm, {.max_bytes_per_rank = shape.max_logits * max_columns * 4}));
  return tp;
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

Status TensorParallel::row(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& residual,
                           const TensorView& bias) {
  if (gemm_rs_) return gemm_rs_->run(exec, a, w, residual, /*accumulate=*/true, bias);
  if (gemm_ar_) return gemm_ar_->run(exec, a, w, residual, /*accumulate=*/true, bias);
  return gemm(exec, {.x = a, .w = w, .y = residual, .bias = bias, .accumulate = true});
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
