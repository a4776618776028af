// MoeParallel: how tokens meet the experts that ranks share, on either device. Without expert parallelism each rank
// holds columns of all experts; with it some experts, or columns of some.
#pragma once
#include <optional>

#include "device/side_stream.h"
#include "dist/ag_moe/ag_moe.h"
#include "dist/moe_ar/moe_ar.h"
#include "dist/moe_rs/moe_rs.h"
#include "layers/expert_exchange.h"
#include "layers/residual.h"
#include "layers/tensor_parallel.h"

namespace weft {

struct MoeParallelShape {
  i64 max_tokens;  // of one step
  i64 hidden;
  i64 experts, per_token;
  i64 expert_ffn;                          // columns of this rank's share of an expert
  ActivationFormat in_format, out_format;  // what gate and up, and down, read; on GPUs both kBF16, or both kF16
  i64 expert_capacity = 0;                 // with expert parallelism: rows of an expert; 0 = all that can come
};

// One rank's parameters of a layer.
struct MoeWeights {
  Tensor norm = {};             // [hidden] f32
  Weight router;                // [experts, hidden], on GPUs of the experts' format
  GroupedWeight gate_up, down;  // of each expert [2 ffn_r, hidden], gate's rows first, and [hidden, ffn_r]
};

// A step's routing and intermediates, shared by all layers with experts. Errors of steps on GPUs name what does not fit
// before anything is launched.
class MoeParallel {
 public:
  // Plans every operator once for all layers, on plan.layer's device. All ranks of plan.layer must call it with the
  // same arguments but for expert_ffn. `plan` must outlive it. Errors: on GPUs kInvalidArgument naming the field; those
  // of the operators.
  static Result<std::unique_ptr<MoeParallel>> create(ParallelPlan& plan, const MoeParallelShape& shape, LayerMode mode);

  // Where this rank writes its normalised rows before route(): [local rows, hidden] as gate and up read them, and as
  // the router does: f32. On GPUs these are the same.
  ActivationView input(i64 local_rows) const { return ag_moe_ ? ag_moe_->input(local_rows) : input_.view(local_rows); }
  ActivationView router_input(i64 local_rows) const {
    return router_input_ ? router_input_->view(local_rows) : input(local_rows);
  }

  // An error unless a step of `tokens` tokens, `local_rows` of them this rank's, and the weights fit.
  Status expect_step(i64 local_rows, i64 tokens, const MoeWeights& weights) const;
  // Chooses the experts of this rank's rows by `router`, and lets every rank that needs them know those of other rows.
  Status route(Exec& exec, i64 local_rows, i64 tokens, const Weight& router, bool normalise);
  // SwiGLU of gate and up of the rows that this rank's experts get: [pairs, expert_ffn], for what goes into down().
  Result<ActivationView> up(Exec& exec, i64 local_rows, const GroupedWeight& w);
  // residual += the weighted sums of the experts' outputs. What waits as its addend is this object's, until the next
  // down().
  Status down(Exec& exec, const ActivationView& a, const GroupedWeight& w, Residual& residual);

  // On GPUs: what steps have found wrong since create(), to be asked after synchronising: rows beyond expert_capacity,
  // which are left out. On CPUs up() returns it.
  Status report() const { return exchange_ ? exchange_->report() : Status(); }
  // The routing of the last step: [tokens, per_token] i32 and f32, an id beside its weight; with expert parallelism of
  // this rank's rows.
  struct Routing {
    TensorView ids, weights;
  };
  const Routing& routing() const { return routing_; }

 private:
  explicit MoeParallel(const MoeParallelShape& shape) : shape_(shape) {}
  Status plan_operators(ParallelPlan& plan, LayerMode mode);
  Status plan_buffers(DeviceKind device, i64 pairs);
  Routing table(const Tensor& memory, i64 rows) const;
  Result<ActivationView> gather_x(const Exec& exec, i64 local_rows, i64 tokens);
  bool on_gpu() const { return logits_.view.device == DeviceKind::kCuda; }
  MoeParallelShape shape_;
  i64 local_experts_ = 0, local_rows_ = 0;  // rows: the most
  ExpertGroups groups_;
  ActivationBuffer input_, activated_;
  std::optional<ActivationBuffer> router_input_;
  Tensor logits_, gate_up_;           // as GEMMs write; gate_up_ on CPUs: [pairs, 2 expert_ffn]
  Tensor own_routing_, all_routing_;  // ids and weights: that this rank made, and where they are gathered of all
  std::optional<Tensor> output_;      // [local rows, hidden], where sums do not go to the residual
  Routing routing_;                   // this step's
  i64 tokens_ = 0;
  // With expert parallelism.
  std::optional<ExpertExchange> exchange_;
  Tensor products_;  // [pairs, hidden]
  // Without: present as mode, size and device need them.
  std::optional<AgMoe> ag_moe_;
  std::optional<AllGather> gather_routing_;
  std::optional<MoeRs> moe_rs_;
  std::optional<MoeAr> moe_ar_;
  // On GPUs, in ag_moe_'s place.
  std::optional<AllGather> gather_x_;
  ActivationBuffer all_x_;
  std::optional<SideStream> side_;  // gather_x_'s, where it runs beside the routing,
  bool forked_ = false;             // as in this step
};

}  // namespace weft
