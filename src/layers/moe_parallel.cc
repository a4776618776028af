#include "layers/moe_parallel.h"

#include "ops/moe_route/moe_route.h"

namespace weft {

Result<std::unique_ptr<MoeParallel>> MoeParallel::create(Communicator& comm, const MoeParallelShape& shape,
                                                         LayerMode mode) {
  std::unique_ptr<MoeParallel> moe(new MoeParallel());
  const i64 tokens = shape.max_tokens, pairs = tokens * shape.per_token;
  moe->per_token_ = shape.per_token;
  moe->groups_ = ExpertGroups::create(pairs, shape.experts);
  moe->router_input_ = ActivationBuffer::create(ActivationFormat::kF32, tokens, shape.hidden);
  moe->activated_ = ActivationBuffer::create(shape.out_format, pairs, shape.expert_ffn);
  moe->logits_ = Tensor::zeros(DType::kF32, {tokens, shape.experts});
  moe->ids_ = Tensor::zeros(DType::kI32, {tokens, shape.per_token});
  moe->weights_ = Tensor::zeros(DType::kF32, {tokens, shape.per_token});
  moe->gate_up_ = Tensor::zeros(DType::kF32, {pairs, 2 * shape.expert_ffn});
  if (comm.size() == 1 || mode == LayerMode::kAr) {
    moe->input_ = ActivationBuffer::create(shape.in_format, tokens, shape.hidden);
    if (comm.size() == 1) return moe;
    WEFT_ASSIGN(moe->moe_ar_, MoeAr::create(comm, {.max_m = tokens, .n = shape.hidden}));
    return moe;
  }
  WEFT_ASSIGN(moe->ag_moe_, AgMoe::create(comm, {.max_m = tokens, .k = shape.hidden, .format = shape.in_format}));
  WEFT_ASSIGN(moe->moe_rs_, MoeRs::create(comm, {.max_m = tokens, .n = shape.hidden}));
  const i64 local = split_range(tokens, comm.size(), 0).size();
  WEFT_ASSIGN(moe->gather_, AllGather::create(comm, {.max_bytes_per_rank = local * shape.per_token * 4}));
  moe->all_ids_ = Tensor::zeros(DType::kI32, {tokens, shape.per_token});
  moe->all_weights_ = Tensor::zeros(DType::kF32, {tokens, shape.per_token});
  return moe;
}

Status MoeParallel::route(Exec& exec, i64 local_rows, i64 tokens, const Weight& router, bool normalise) {
  const auto view = [&](const Tensor& buffer, i64 rows) {
    return buffer.storage.view(buffer.view.dtype, {rows, buffer.view.dim(1)});
  };
  const TensorView logits = view(logits_, local_rows), ids = view(ids_, local_rows),
                   weights = view(weights_, local_rows);
  WEFT_TRY(gemm(exec, {.x = router_input(local_rows), .w = router, .y = logits}));
  WEFT_TRY(moe_route(exec, {.logits = logits, .ids = ids, .weights = weights, .normalise = normalise}));
  TensorView routed = weights, chosen = ids;
  if (gather_) {
    routed = view(all_weights_, tokens);
    chosen = view(all_ids_, tokens);
    WEFT_TRY(gather_->run(exec, ids, chosen));
    WEFT_TRY(gather_->run(exec, weights, routed));
  }
  if (exec.thread() == 0) routed_weights_ = routed;  // sort() ends with a barrier
  return groups_.sort(exec, chosen);
}

Result<TensorView> MoeParallel::up(Exec& exec, const ActivationView& x, const GroupedWeight& w) {
  const TensorView y = gate_up_.storage.view(DType::kF32, {groups_.pairs(), w.n()});
  WEFT_TRY(ag_moe_ ? ag_moe_->run(exec, x, groups_, w, y) : grouped_gemm(exec, x, groups_, w, y));
  return y;
}

Status MoeParallel::down(Exec& exec, const ActivationView& a, const GroupedWeight& w, const TensorView& residual) {
  constexpr bool kAccumulate = true;
  if (moe_rs_) return moe_rs_->run(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
  if (moe_ar_) return moe_ar_->run(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
  return grouped_gemm_sum(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
}

}  // namespace weft
