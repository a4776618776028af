#include "layers/moe_parallel.h"

#include "ops/moe_route/moe_route.h"

namespace weft {

Result<std::unique_ptr<MoeParallel>> MoeParallel::create(ParallelPlan& plan, const MoeParallelShape& shape,
                                                         LayerMode mode) {
  std::unique_ptr<MoeParallel> moe(new MoeParallel());
  const i64 tokens = shape.max_tokens;
  i64 pairs = tokens * shape.per_token;
  if (plan.ep.size() > 1) {
    WEFT_ASSIGN(moe->exchange_, ExpertExchange::create(plan,
                                                       {.max_tokens = tokens,
                                                        .hidden = shape.hidden,
                                                        .experts = shape.experts,
                                                        .per_token = shape.per_token,
                                                        .format = shape.in_format},
                                                       mode));
    pairs = moe->exchange_->max_pairs();
    moe->groups_ = ExpertGroups::create(moe->exchange_->max_rows() * shape.per_token, moe->exchange_->local_experts());
    moe->products_ = Tensor::zeros(DType::kF32, {pairs, shape.hidden});
  } else {
    moe->groups_ = ExpertGroups::create(pairs, shape.experts);
  }
  moe->router_input_ = ActivationBuffer::create(ActivationFormat::kF32, tokens, shape.hidden);
  moe->activated_ = ActivationBuffer::create(shape.out_format, pairs, shape.expert_ffn);
  moe->logits_ = Tensor::zeros(DType::kF32, {tokens, shape.experts});
  moe->ids_ = Tensor::zeros(DType::kI32, {tokens, shape.per_token});
  moe->weights_ = Tensor::zeros(DType::kF32, {tokens, shape.per_token});
  moe->gate_up_ = Tensor::zeros(DType::kF32, {pairs, 2 * shape.expert_ffn});
  Communicator& comm = plan.tp;
  if (moe->exchange_ || comm.size() == 1 || mode == LayerMode::kAr) {
    moe->input_ = ActivationBuffer::create(shape.in_format, tokens, shape.hidden);
    if (moe->exchange_ || comm.size() == 1) return moe;
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
  if (exchange_) {
    if (exec.thread() == 0) {
      routed_weights_ = weights;
      routed_ids_ = ids;
      tokens_ = tokens;
    }
    return exec.sync();
  }
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
  ActivationView rows = x;
  if (exchange_) {
    WEFT_ASSIGN(rows, exchange_->dispatch(exec, x, routed_ids_, tokens_, &groups_));
  }
  const TensorView y = gate_up_.storage.view(DType::kF32, {groups_.pairs(), w.n()});
  WEFT_TRY(ag_moe_ ? ag_moe_->run(exec, x, groups_, w, y) : grouped_gemm(exec, rows, groups_, w, y));
  return y;
}

Status MoeParallel::down(Exec& exec, const ActivationView& a, const GroupedWeight& w, const TensorView& residual) {
  if (exchange_) {
    const TensorView y = products_.storage.view(DType::kF32, {groups_.pairs(), w.n()});
    WEFT_TRY(grouped_gemm_pairs(exec, a, groups_, w, y));
    return exchange_->combine(exec, y, routed_ids_, routed_weights_, tokens_, residual);
  }
  constexpr bool kAccumulate = true;
  if (moe_rs_) return moe_rs_->run(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
  if (moe_ar_) return moe_ar_->run(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
  return grouped_gemm_sum(exec, a, groups_, routed_weights_, w, residual, kAccumulate);
}

}  // namespace weft
