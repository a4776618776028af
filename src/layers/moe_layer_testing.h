// Two layers of experts over the ranks of either device, for tests.
#pragma once
#include "layers/mlp_layer_testing.h"
#include "layers/moe_layer.h"
#include "ops/moe_route/moe_route.h"

namespace weft::testing {

struct MoeNumbers {
  static constexpr i64 kHidden = 64, kFfn = 72, kExperts = 8;
  static constexpr float kEpsilon = 1e-5f;
  i64 tokens, per_token;
  std::vector<float> norm, router, gate_up, down, x;

  // Of numbers that bf16 holds.
  static MoeNumbers random(i64 tokens, i64 per_token) {
    MoeNumbers n{.tokens = tokens,
                 .per_token = per_token,
                 .norm = std::vector<float>(kHidden),
                 .router = std::vector<float>(kExperts * kHidden),
                 .gate_up = std::vector<float>(kExperts * 2 * kFfn * kHidden),
                 .down = std::vector<float>(kExperts * kHidden * kFfn),
                 .x = std::vector<float>(size_t(tokens * kHidden))};
    fill_normal(n.norm.data(), kHidden, 1);
    u32 seed = 2;
    for (auto* matrix : {&n.router, &n.gate_up, &n.down}) {
      fill_normal(matrix->data(), i64(matrix->size()), seed++, 0.1f);
      for (float& value : *matrix) value = float(bf16(value));
    }
    fill_normal(n.x.data(), tokens * kHidden, seed);
    return n;
  }

  // x after both layers, which have the same weights.
  std::vector<float> reference() const {
    const auto dot = [](const float* a, const float* b, i64 n) {
      double sum = 0;
      for (i64 i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
      return float(sum);
    };
    std::vector<float> y = x, normed(kHidden), logits(kExperts), gate(kFfn), up(kFfn), activated(kFfn);
    std::vector<i32> ids(static_cast<size_t>(per_token));
    std::vector<float> weights(ids.size());
    for (i64 row = 0; row < 2 * tokens; ++row) {
      float* at = y.data() + row / 2 * kHidden;
      rms_norm_reference(at, norm.data(), kHidden, kEpsilon, normed.data());
      for (i64 e = 0; e < kExperts; ++e) logits[size_t(e)] = dot(normed.data(), &router[size_t(e * kHidden)], kHidden);
      moe_route_reference(logits.data(), kExperts, per_token, true, ids.data(), weights.data());
      for (size_t chosen = 0; chosen < ids.size(); ++chosen) {
        const float* in = &gate_up[size_t(ids[chosen] * 2 * kFfn * kHidden)];
        const float* out = &down[size_t(ids[chosen] * kHidden * kFfn)];
        for (i64 j = 0; j < kFfn; ++j) {
          gate[size_t(j)] = dot(normed.data(), in + j * kHidden, kHidden);
          up[size_t(j)] = dot(normed.data(), in + (kFfn + j) * kHidden, kHidden);
        }
        swiglu_reference(gate.data(), up.data(), kFfn, activated.data());
        for (i64 i = 0; i < kHidden; ++i) at[i] += weights[chosen] * dot(activated.data(), out + i * kFfn, kFfn);
      }
    }
    return y;
  }
};

// This rank's share of the weights, packed from `dtype`; for a GPU copied there.
inline Result<MoeWeights> share_of(const MoeNumbers& numbers, const ExpertShare& share, DType dtype,
                                   const MlpDevice& device, DeviceKind kind) {
  constexpr i64 kHidden = MoeNumbers::kHidden, kFfn = MoeNumbers::kFfn;
  const auto pack = [](DType as, const float* values, i64 n, i64 k, std::vector<i64> rows, Range columns) {
    const Tensor raw = Tensor::zeros(as, {n, k});
    for (i64 i = 0; i < n * k; ++i) {
      if (as == DType::kF32) raw.view.as<float>()[i] = values[i];
      if (as == DType::kBF16) raw.view.as<bf16>()[i] = bf16(values[i]);
    }
    const WeightPart part{.raw = raw.view, .rows = std::move(rows), .k_begin = columns.begin, .k_end = columns.end};
    return Weight::pack("w", {&part, 1});
  };
  std::vector<i64> rows;
  for (const i64 half : {i64(0), kFfn})
    for (i64 i = share.ffn.begin; i < share.ffn.end; ++i) rows.push_back(half + i);
  std::vector<Weight> gate_up, down;
  for (i64 e = share.experts.begin; e < share.experts.end; ++e) {
    WEFT_ASSIGN(Weight in,
                pack(dtype, &numbers.gate_up[size_t(e * 2 * kFfn * kHidden)], 2 * kFfn, kHidden, rows, {0, kHidden}));
    WEFT_ASSIGN(Weight out, pack(dtype, &numbers.down[size_t(e * kHidden * kFfn)], kHidden, kFfn, {}, share.ffn));
    gate_up.push_back(std::move(in));
    down.push_back(std::move(out));
  }
  MoeWeights w;
  WEFT_ASSIGN(w.norm, make_tensor(kind, DType::kF32, {kHidden}));
  WEFT_TRY(device.write(w.norm.view, numbers.norm.data()));
  WEFT_ASSIGN(w.router, pack(DType::kF32, numbers.router.data(), MoeNumbers::kExperts, kHidden, {}, {0, kHidden}));
  WEFT_ASSIGN(w.gate_up, GroupedWeight::create("gate_up", std::move(gate_up)));
  WEFT_ASSIGN(w.down, GroupedWeight::create("down", std::move(down)));
  if (kind == DeviceKind::kCpu) return Result<MoeWeights>(std::move(w));
  WEFT_ASSIGN(w.router, w.router.copy_to_gpu());
  WEFT_ASSIGN(w.gate_up, w.gate_up.copy_to_gpu());
  WEFT_ASSIGN(w.down, w.down.copy_to_gpu());
  return Result<MoeWeights>(std::move(w));
}

// The layers, then a norm; the experts are spread over `ep` groups of ranks. kDataLoss where this rank's rows of the
// residual are further than `limit` from the reference.
inline Status two_expert_layers(Communicator& comm, const MlpDevice& device, DType dtype, LayerMode mode, int ep,
                                const MoeNumbers& numbers, double limit) {
  constexpr i64 kHidden = MoeNumbers::kHidden, kExperts = MoeNumbers::kExperts;
  WEFT_ASSIGN(ParallelPlan plan, ParallelPlan::create(comm, {.tp = comm.size() / ep, .ep = ep}));
  const Range eights = split_range(MoeNumbers::kFfn / 8, plan.tp.size(), plan.tp.rank());
  const ExpertShare share{split_range(kExperts, ep, plan.ep.rank()), {eights.begin * 8, eights.end * 8}};
  WEFT_ASSIGN(MoeWeights weights, share_of(numbers, share, dtype, device, comm.device()));
  const TensorView norm = weights.norm.view;
  const ActivationFormat format = weights.gate_up.activation_format();
  const MoeLayer layer(std::move(weights), MoeNumbers::kEpsilon, true);
  WEFT_ASSIGN(const auto moe, MoeParallel::create(plan,
                                                  {.max_tokens = numbers.tokens,
                                                   .hidden = kHidden,
                                                   .experts = kExperts,
                                                   .per_token = numbers.per_token,
                                                   .expert_ffn = share.ffn.size(),
                                                   .in_format = format,
                                                   .out_format = format},
                                                  mode));
  const Range local =
      mode == LayerMode::kAgRs ? split_range(numbers.tokens, comm.size(), comm.rank()) : Range{0, numbers.tokens};
  WEFT_ASSIGN(const Tensor rows, make_tensor(comm.device(), DType::kF32, {local.size(), kHidden}));
  WEFT_TRY(device.write(rows.view, numbers.x.data() + local.begin * kHidden));
  WEFT_TRY(device.run([&](Exec& exec) -> Status {
    Residual residual{.rows = rows.view};
    WEFT_TRY(layer.forward(exec, *moe, numbers.tokens, residual));
    WEFT_TRY(layer.forward(exec, *moe, numbers.tokens, residual));
    return normalise(exec, residual, norm, MoeNumbers::kEpsilon, moe->input(local.size()));
  }));
  WEFT_TRY(moe->report());
  std::vector<float> found(size_t(local.size() * kHidden));
  WEFT_TRY(device.read(rows.view, found.data()));
  return expect_near(numbers.reference(), numbers.x, local.begin * kHidden, found, limit);
}

}  // namespace weft::testing
