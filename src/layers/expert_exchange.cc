#include "layers/expert_exchange.h"

#include <algorithm>

#include "layers/workspace.h"

namespace weft {
namespace {

TensorView leading_rows(const Tensor& buffer, i64 rows) {
  return buffer.storage.view(buffer.view.dtype, {rows, buffer.view.dim(1)});
}

}  // namespace

Result<ExpertExchange> ExpertExchange::create(ParallelPlan& plan, const ExpertExchangeShape& s, LayerMode mode) {
  ExpertExchange made;
  made.plan_ = &plan;
  made.mode_ = mode;
  made.experts_ = s.experts;
  made.per_token_ = s.per_token;
  const bool sharded = mode == LayerMode::kAgRs, gpu = made.on_gpu();
  if (gpu && (!sharded || plan.tp.size() > 1)) {
    return error(Code::kUnimplemented, "expert parallel with {} on GPUs",
                 sharded ? "tensor-parallel experts" : "replicated rows");
  }
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
  WEFT_ASSIGN(made.exchange_,
              ep::AllToAll::create(plan.ep, shape, {.expert_capacity = s.expert_capacity, .combine_dtype = sums}));
  if (gpu) {
    const i64 places = made.local_experts() * made.exchange_->capacity();
    WEFT_ASSIGN(made.expert_x_, ActivationBuffer::create(DeviceKind::kCuda, s.format, places, s.hidden));
    return made;
  }
  made.row_experts_ = Tensor::zeros(DType::kI32, {made.exchange_->gathered_rows(), s.per_token});
  if (plan.tp.size() == 1) return made;
  made.sums_ = Tensor::zeros(DType::kF32, {rows, s.hidden});
  if (!sharded) {
    WEFT_ASSIGN(made.reduce_, AllReduce::create(plan.tp, {.max_elements = rows * s.hidden, .dtype = DType::kF32}));
    return made;
  }
  WEFT_ASSIGN(
      made.gather_,
      AllGather::create(plan.tp, {.max_bytes_per_rank = local * std::max(row_bytes, s.per_token * i64(sizeof(i32)))}));
  WEFT_ASSIGN(made.scatter_,
              ReduceScatter::create(plan.tp, {.max_rows = rows, .columns = s.hidden, .dtype = DType::kF32}));
  made.all_x_ = ActivationBuffer::create(s.format, rows, s.hidden);
  made.all_ids_ = Tensor::zeros(DType::kI32, {rows, s.per_token});
  made.all_weights_ = Tensor::zeros(DType::kF32, {rows, s.per_token});
  made.own_sums_ = Tensor::zeros(DType::kF32, {local, s.hidden});
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
  if (on_gpu()) {
    const i64 local = local_experts(), capacity = exchange_->capacity();
    const ActivationView places = expert_x_.view(local * capacity);
    const Shape by_expert{local, capacity, places.row_bytes()};
    WEFT_TRY(
        exchange_->dispatch(exec, {.x = as_bytes(x),
                                   .indices = ids,
                                   .weights = weights,
                                   .expert_x = TensorView::dense(places.data, DType::kU8, by_expert, places.device)}));
    // Were all experts to have as many rows.
    const i64 likely = std::max<i64>(1, tokens) * per_token_ * local / experts_;
    groups->take({.offsets = exchange_->row_begins(), .capacity = capacity, .likely = likely}, max_pairs());
    return places;
  }
  ActivationView rows = x;
  TensorView chosen = ids;
  if (gather_) {
    rows = all_x_.view(rows_of(tokens));
    chosen = leading_rows(all_ids_, rows_of(tokens));
    WEFT_TRY(gather_->run(exec, as_bytes(x), as_bytes(rows)));
    WEFT_TRY(gather_->run(exec, ids, chosen));
  }
  WEFT_TRY(exchange_->dispatch(exec, {.x = as_bytes(rows), .indices = chosen, .row_experts = row_experts_.view}));
  WEFT_TRY(groups->sort(exec, row_experts_.view));
  return ActivationView{exchange_->gathered_x(), x.format, DeviceKind::kCpu, max_rows(), x.k};
}

Status ExpertExchange::combine(Exec& exec, const TensorView& y, const TensorView& ids, const TensorView& weights,
                               i64 tokens, const TensorView& residual) {
  if (plan_->tp.size() == 1) {
    return exchange_->combine(
        exec, {.expert_y = y, .indices = ids, .weights = weights, .out = residual, .accumulate = !on_gpu()});
  }
  const i64 rows = rows_of(tokens);
  TensorView chosen = ids, routed = weights;
  if (gather_) {
    chosen = leading_rows(all_ids_, rows);
    routed = leading_rows(all_weights_, rows);
    WEFT_TRY(gather_->run(exec, weights, routed));
  }
  TensorView sums = leading_rows(sums_, rows);
  WEFT_TRY(exchange_->combine(exec, {.expert_y = y, .indices = chosen, .weights = routed, .out = sums}));
  if (scatter_) {
    const TensorView own = leading_rows(own_sums_, residual.dim(0));
    WEFT_TRY(scatter_->run(exec, sums, own));
    sums = own;
  } else {
    WEFT_TRY(reduce_->run(exec, sums, sums));
  }
  // Added last whatever the mode, so that a row's bits do not depend on which rank holds it.
  const Range share = exec.share(sums.shape.elements());
  for (i64 i = share.begin; i < share.end; ++i) residual.as<float>()[i] += sums.as<float>()[i];
  return exec.sync();
}

}  // namespace weft
