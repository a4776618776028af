#include "layers/expert_exchange.h"

#include <algorithm>

#include "layers/workspace.h"

namespace weft {
Result<ExpertExchange> ExpertExchange::create(ParallelPlan& plan, const ExpertExchangeShape& s, LayerMode mode) {
  ExpertExchange made;
  made.plan_ = &plan;
  made.mode_ = mode;
  made.experts_ = s.experts;
  made.per_token_ = s.per_token;
  const bool sharded = mode == LayerMode::kAgRs, gpu = made.on_gpu();
  const DeviceKind device = plan.layer.device();
  const i64 local = sharded ? split_range(s.max_tokens, plan.layer.size(), 0).size() : s.max_tokens;
  const i64 rows = sharded ? local * plan.tp.size() : s.max_tokens;
  const i64 row_bytes = activation_row_bytes(s.format, s.hidden);
  const ep::AllToAllShape shape{.max_num_tokens = rows,
                                .num_experts = s.experts,
                                .experts_per_token = s.per_token,
                                .rank = plan.ep.rank(),
                                .world_size = plan.ep.size(),
                                .dp_size = sharded ? 1 : plan.ep.size(),  // replicated rows: each rank sends a part
                                .hidden_dim = s.hidden,
                                .hidden_dim_bytes = row_bytes};
  const DType sums = gpu ? activation_dtype(s.format) : DType::kF32;
  const ep::AllToAllOptions options{.expert_capacity = s.expert_capacity, .combine_dtype = sums, .map_rows = true};
  WEFT_ASSIGN(made.exchange_, ep::AllToAll::create(plan.ep, shape, options));
  // On CPUs rows are sorted by their experts, on GPUs dispatch has sorted them.
  const Shape map = gpu ? Shape{made.local_experts(), made.exchange_->capacity()} : Shape{made.max_rows(), s.per_token};
  WEFT_ASSIGN(made.map_, make_tensor(device, DType::kI32, map));
  if (plan.tp.size() == 1) return made;
  WEFT_ASSIGN(made.sums_, make_tensor(device, sums, {rows, s.hidden}));
  if (!sharded) {
    WEFT_ASSIGN(made.reduce_, AllReduce::create(plan.tp, {.max_elements = rows * s.hidden, .dtype = sums}));
    return made;
  }
  WEFT_ASSIGN(
      made.gather_,
      AllGather::create(plan.tp, {.max_bytes_per_rank = local * std::max(row_bytes, s.per_token * i64(sizeof(i32)))}));
  WEFT_ASSIGN(made.scatter_, ReduceScatter::create(plan.tp, {.max_rows = rows, .columns = s.hidden, .dtype = sums}));
  WEFT_ASSIGN(made.all_x_, ActivationBuffer::create(device, s.format, rows, s.hidden));
  WEFT_ASSIGN(made.all_ids_, make_tensor(device, DType::kI32, {rows, s.per_token}));
  WEFT_ASSIGN(made.all_weights_, make_tensor(device, DType::kF32, {rows, s.per_token}));
  if (!gpu) made.own_sums_ = Tensor::zeros(sums, {local, s.hidden});
  return made;
}

i64 ExpertExchange::max_pairs() const {
  return on_gpu() ? exchange_->most_rows() : max_rows() * std::min(per_token_, local_experts());
}

// The rows that the ranks of plan.tp hold together.
i64 ExpertExchange::rows_of(i64 tokens) const {
  if (mode_ == LayerMode::kAr) return tokens;
  const int ranks = plan_->layer.size(), tp = plan_->tp.size(), first = plan_->ep.rank() * tp;
  return split_range(tokens, ranks, first + tp - 1).end - split_range(tokens, ranks, first).begin;
}

Result<ActivationView> ExpertExchange::dispatch(Exec& exec, const ActivationView& x, const TensorView& ids,
                                                const TensorView& weights, i64 tokens, ExpertGroups* groups) {
  ActivationView rows = x;
  TensorView chosen = ids, routed = weights;
  if (gather_) {
    const i64 count = rows_of(tokens);
    rows = all_x_.view(count);
    chosen = leading(all_ids_, count, per_token_);
    routed = leading(all_weights_, count, per_token_);
    WEFT_TRY(gather_->run(exec, as_bytes(x), as_bytes(rows)));
    WEFT_TRY(gather_->run(exec, ids, chosen));
    WEFT_TRY(gather_->run(exec, weights, routed));
  }
  if (exec.thread() == 0) {  // dispatch ends with a barrier
    chosen_ = chosen;
    routed_ = routed;
  }
  ep::DispatchArgs args{.x = as_bytes(rows), .indices = chosen};
  if (on_gpu()) {
    args.weights = routed;
    args.row_map = map_.view;
    WEFT_TRY(exchange_->dispatch(exec, args));
    const i64 local = local_experts(), capacity = exchange_->capacity();
    // Were all experts to have as many rows.
    const i64 likely = std::max<i64>(1, tokens) * per_token_ * local / experts_;
    groups->take({.offsets = exchange_->row_begins(),
                  .map = map_.storage.view(DType::kI32, {local * capacity}),
                  .capacity = capacity,
                  .likely = likely},
                 max_pairs());
  } else {
    args.row_experts = map_.view;
    WEFT_TRY(exchange_->dispatch(exec, args));
    WEFT_TRY(groups->sort(exec, map_.view));
  }
  return ActivationView{exchange_->gathered().x.data, x.format, x.device, max_rows(), x.k};
}

Status ExpertExchange::combine(Exec& exec, const TensorView& y, const TensorView& residual) {
  ep::CombineArgs args{.expert_y = y, .indices = chosen_, .weights = routed_, .out = residual};
  if (plan_->tp.size() == 1) {
    args.accumulate = !on_gpu();
    return exchange_->combine(exec, args);
  }
  args.out = leading(sums_, chosen_.dim(0), residual.dim(1));
  WEFT_TRY(exchange_->combine(exec, args));
  TensorView sums = args.out;
  if (on_gpu()) {
    sums = residual;
  } else if (scatter_) {
    sums = leading(own_sums_, residual.dim(0), residual.dim(1));
  }
  WEFT_TRY(scatter_ ? scatter_->run(exec, args.out, sums) : reduce_->run(exec, args.out, sums));
  if (on_gpu()) return {};
  // Added last whatever the mode, so that a row's bits do not depend on which rank holds it.
  const Range share = exec.share(sums.shape.elements());
  for (i64 i = share.begin; i < share.end; ++i) residual.as<float>()[i] += sums.as<float>()[i];
  return exec.sync();
}

}  // namespace weft
