// MoeParallel: how tokens meet the experts that ranks share. Without expert parallelism each rank holds columns of all
// experts; with it some experts, or columns of some.
#pragma once
#include <optional>

#include "dist/ag_moe/ag_moe.h"
#include "dist/moe_ar/moe_ar.h"
#include "dist/moe_rs/moe_rs.h"
#include "layers/expert_exchange.h"
#include "layers/tensor_parallel.h"

namespace weft {

struct MoeParallelShape {
  i64 max_tokens;  // of one step
  i64 hidden;
  i64 experts, per_token;
  i64 expert_ffn;                          // columns of this rank's share of an expert
  ActivationFormat in_format, out_format;  // what gate and up, and down, read
};

// A step's routing and intermediates, shared by all layers with experts.
class MoeParallel {
 public:
  // Plans every operator once for all layers. All ranks of plan.layer must call it with the same arguments but for
  // expert_ffn. `plan` must outlive it.
  static Result<std::unique_ptr<MoeParallel>> create(ParallelPlan& plan, const MoeParallelShape& shape, LayerMode mode);

  // Where this rank writes its normalised rows before route(): [local rows, hidden] f32; and before up(), in in_format.
  ActivationView router_input(i64 local_rows) const { return router_input_.view(local_rows); }
  ActivationView input(i64 local_rows) const { return ag_moe_ ? ag_moe_->input(local_rows) : input_.view(local_rows); }

  // Chooses the experts of this rank's rows by `router` [experts, hidden], and lets every rank that needs them know
  // those of other rows.
  Status route(Exec& exec, i64 local_rows, i64 tokens, const Weight& router, bool normalise);
  // The products of the rows that this rank's experts get with gate and up: [pairs, 2 expert_ffn] f32.
  Result<TensorView> up(Exec& exec, const ActivationView& x, const GroupedWeight& w);
  // [pairs, expert_ffn], for what goes into down().
  ActivationView activated() const { return activated_.view(groups_.pairs()); }
  // residual [local rows, hidden] f32 += the weighted sums of the experts' outputs.
  Status down(Exec& exec, const ActivationView& a, const GroupedWeight& w, const TensorView& residual);

 private:
  MoeParallel() = default;
  ExpertGroups groups_;
  ActivationBuffer router_input_, input_, activated_;
  Tensor logits_, ids_, weights_, all_ids_, all_weights_, gate_up_;
  TensorView routed_weights_;  // of all tokens, this step
  // With expert parallelism: of this rank's rows, this step.
  std::optional<ExpertExchange> exchange_;
  Tensor products_;  // [pairs, hidden]
  TensorView routed_ids_;
  i64 tokens_ = 0;
  // Present as mode and size need them; none for one rank.
  std::optional<AgMoe> ag_moe_;
  std::optional<AllGather> gather_;
  std::optional<MoeRs> moe_rs_;
  std::optional<MoeAr> moe_ar_;
};

}  // namespace weft
