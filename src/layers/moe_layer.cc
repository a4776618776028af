#include "layers/moe_layer.h"

namespace weft {
namespace {

// A matrix of one expert: which tensor holds it, which of its rows, and how many experts and rows that tensor has.
struct ExpertPart {
  std::string name;
  i64 total_rows, total_columns;
  Range rows, columns;
};

Status add_part(const Checkpoint& checkpoint, const ExpertPart& part, i64 expert, i64 experts, bool stacked,
                std::vector<WeightPart>* parts) {
  WEFT_ASSIGN(TensorView raw, checkpoint.tensor(part.name));
  if (stacked) {
    WEFT_TRY(expect_tensor(part.name.c_str(), raw, raw.dtype, {experts, part.total_rows, part.total_columns}));
    raw = TensorView::dense(raw.data + expert * raw.byte_strides[0], raw.dtype, {part.total_rows, part.total_columns});
  }
  WEFT_TRY(expect_tensor(part.name.c_str(), raw, raw.dtype, {part.total_rows, part.total_columns}));
  parts->push_back({.raw = raw.rows(part.rows.begin, part.rows.end),
                    .rows = {},
                    .k_begin = part.columns.begin,
                    .k_end = part.columns.end});
  return {};
}

// This rank's experts' matrices, each of the parts below one another. Those of other ranks are looked at, too: a file
// that lacks one is no such model.
Result<GroupedWeight> load_experts(const Checkpoint& checkpoint, const std::string& prefix, i64 experts, Range mine,
                                   bool stacked, const std::vector<ExpertPart>& parts) {
  std::vector<Weight> weights;
  for (i64 e = 0; e < experts; ++e) {
    std::vector<WeightPart> packed;
    for (ExpertPart part : parts) {
      part.name = stacked ? prefix + part.name : fmt::format("{}{}.{}", prefix, e, part.name);
      WEFT_TRY(add_part(checkpoint, part, e, experts, stacked, &packed));
    }
    if (e < mine.begin || e >= mine.end) continue;
    WEFT_ASSIGN(Weight weight, Weight::pack(fmt::format("{}{}", prefix, e), packed));
    weights.push_back(std::move(weight));
  }
  checkpoint.drop_pages();
  return GroupedWeight::create(prefix + "experts", std::move(weights));
}

Result<Weight> load_router(const Checkpoint& checkpoint, const std::string& name, i64 experts, i64 hidden) {
  WEFT_ASSIGN(const TensorView raw, checkpoint.tensor(name));
  WEFT_TRY(expect_tensor(name.c_str(), raw, raw.dtype, {experts, hidden}));
  const WeightPart as_it_is{.raw = raw, .rows = {}};
  WEFT_ASSIGN(const Weight narrow, Weight::pack(name, {&as_it_is, 1}));
  Tensor wide = Tensor::zeros(DType::kF32, {experts, hidden});
  for (i64 e = 0; e < experts; ++e) narrow.dequantize_row(e, wide.view.row<float>(e));
  const WeightPart exact{.raw = wide.view, .rows = {}};
  return Weight::pack(name, {&exact, 1});
}

}  // namespace

Result<MoeLayer> MoeLayer::load(const Checkpoint& checkpoint, const std::string& prefix, const MoeLayerShape& shape,
                                const ExpertShare& share, DeviceKind device) {
  MoeWeights w;
  const i64 hidden = shape.hidden, ffn = shape.expert_ffn;
  const Range mine = share.ffn, all{0, hidden};
  const std::string experts = prefix + "mlp.experts.";
  WEFT_ASSIGN(w.norm, load_vector(checkpoint, prefix + "post_attention_layernorm.weight", hidden, device));
  WEFT_ASSIGN(w.router, load_router(checkpoint, prefix + "mlp.gate.weight", shape.experts, hidden));

  const bool fused = checkpoint.has(experts + "gate_up_proj");
  const bool stacked = fused || checkpoint.has(experts + "gate_proj.weight");
  std::vector<ExpertPart> gate_up;
  if (fused) {
    gate_up = {{"gate_up_proj", 2 * ffn, hidden, mine, all},
               {"gate_up_proj", 2 * ffn, hidden, {ffn + mine.begin, ffn + mine.end}, all}};
  } else {
    gate_up = {{"gate_proj.weight", ffn, hidden, mine, all}, {"up_proj.weight", ffn, hidden, mine, all}};
  }
  WEFT_ASSIGN(w.gate_up, load_experts(checkpoint, experts, shape.experts, share.experts, stacked, gate_up));
  const ExpertPart down{fused ? "down_proj" : "down_proj.weight", hidden, ffn, {0, hidden}, mine};
  WEFT_ASSIGN(w.down, load_experts(checkpoint, experts, shape.experts, share.experts, stacked, {down}));
  if (device == DeviceKind::kCuda) {
    WEFT_ASSIGN(w.router, w.router.copy_to_gpu());
    WEFT_ASSIGN(w.gate_up, w.gate_up.copy_to_gpu());
    WEFT_ASSIGN(w.down, w.down.copy_to_gpu());
  }
  return MoeLayer(std::move(w), shape.norm_epsilon, shape.normalise);
}

Status MoeLayer::forward(Exec& exec, MoeParallel& moe, i64 tokens, Residual& residual) const {
  const i64 local = residual.rows.dim(0);
  WEFT_TRY(moe.expect_step(local, tokens, weights_));
  const ActivationView x = moe.input(local), router_x = moe.router_input(local);
  WEFT_TRY(normalise(exec, residual, weights_.norm.view, norm_epsilon_, x));
  if (router_x.data != x.data) {
    WEFT_TRY(normalise(exec, residual, weights_.norm.view, norm_epsilon_, router_x));
  }
  return project(exec, moe, tokens, residual);
}

Status MoeLayer::project(Exec& exec, MoeParallel& moe, i64 tokens, Residual& residual) const {
  const i64 local = residual.rows.dim(0);
  WEFT_TRY(moe.expect_step(local, tokens, weights_));
  WEFT_TRY(moe.route(exec, local, tokens, weights_.router, normalise_));
  WEFT_ASSIGN(const ActivationView activated, moe.up(exec, local, weights_.gate_up));
  return moe.down(exec, activated, weights_.down, residual);
}

}  // namespace weft
