// ExpertExchange: how rows meet the experts of other ranks and return as weighted sums, whatever else shares a layer;
// on either device.
#pragma once
#include <optional>

#include "comm/parallel_plan.h"
#include "dist/all_gather/all_gather.h"
#include "dist/all_reduce/all_reduce.h"
#include "dist/expert_parallel/expert_parallel.h"
#include "dist/reduce_scatter/reduce_scatter.h"
#include "layers/tensor_parallel.h"
#include "ops/grouped_gemm/expert_groups.h"

namespace weft {

struct ExpertExchangeShape {
  i64 max_tokens;  // of one step
  i64 hidden;
  i64 experts, per_token;   // of the whole model
  ActivationFormat format;  // of the rows that travel
  i64 expert_capacity;      // rows of an expert; 0 = all that can come
};

// Ranks of plan.ep hold different experts, ranks of plan.tp different columns of the same ones. In mode kAr every rank
// holds every row; in mode kAgRs the ranks of plan.layer share the rows (TensorParallel::local_tokens), and those of
// plan.tp bring theirs together before they travel. Where they share an expert's columns, its sums are added in fp32:
// on CPUs as they are, on GPUs of each rank's, rounded to the rows' type.
class ExpertExchange {
 public:
  // Collective over plan.layer. `plan` must outlive it. Errors: those of its operators.
  static Result<ExpertExchange> create(ParallelPlan& plan, const ExpertExchangeShape& shape, LayerMode mode);

  // Rows that may come, and (row, expert) pairs, at most.
  i64 max_rows() const { return exchange_->gathered().x.dim(0); }
  i64 max_pairs() const;
  i64 local_experts() const { return exchange_->local_experts().size(); }

  // Sends rows to their experts: x [local rows, hidden], ids and weights [local rows, per_token], dense, of the
  // `tokens` tokens of the step. Returns the rows of this rank's experts, and `groups` sorted over them. Until
  // combine() has been called all must stay.
  Result<ActivationView> dispatch(Exec& exec, const ActivationView& x, const TensorView& ids, const TensorView& weights,
                                  i64 tokens, ExpertGroups* groups);
  // residual [local rows, hidden] f32, dense, += the sums over all experts of dispatch's weights times y
  // [groups.pairs(), hidden] f32; on GPUs = in its place, both of the rows' type.
  Status combine(Exec& exec, const TensorView& y, const TensorView& residual);
  Status report() const { return exchange_->report(); }

 private:
  ExpertExchange() = default;
  bool on_gpu() const { return plan_->ep.device() == DeviceKind::kCuda; }
  i64 rows_of(i64 tokens) const;
  ParallelPlan* plan_ = nullptr;
  LayerMode mode_ = LayerMode::kAr;
  i64 experts_ = 0, per_token_ = 0;
  std::optional<ep::AllToAll> exchange_;
  Tensor map_;                  // ep::DispatchArgs::row_experts; on GPUs row_map
  TensorView chosen_, routed_;  // ids and weights of this step's rows
  // Where several ranks share an expert's columns: how their rows come together and their sums are added.
  std::optional<AllGather> gather_;
  std::optional<ReduceScatter> scatter_;
  std::optional<AllReduce> reduce_;
  ActivationBuffer all_x_;
  Tensor all_ids_, all_weights_, sums_, own_sums_;  // the last on CPUs
};

}  // namespace weft
