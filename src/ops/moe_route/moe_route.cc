#include "ops/moe_route/moe_route.h"

#include <cmath>
#include <limits>

#include "ops/gpu.h"

namespace weft {
namespace {

Status check(const MoeRouteArgs& args) {
  WEFT_TRY(expect_tensor("logits", args.logits, DType::kF32, {-1, -1}));
  WEFT_TRY(expect_tensor("ids", args.ids, DType::kI32, {args.logits.dim(0), -1}));
  WEFT_TRY(expect_tensor("weights", args.weights, DType::kF32, args.ids.shape));
  if (args.ids.byte_strides != args.weights.byte_strides || args.ids.byte_strides[1] % 4 != 0)
    return error(Code::kInvalidArgument, "ids, weights: expected the same strides, multiples of 4 bytes");
  if (args.ids.dim(1) >= 1 && args.ids.dim(1) <= args.logits.dim(1)) return {};
  return error(Code::kInvalidArgument, "ids: expected 1 to {} experts per token, found {}", args.logits.dim(1),
               args.ids.dim(1));
}

// A token's experts and their weights, `step` elements from one to the next.
struct Choice {
  i32* ids;
  float* weights;
  i64 step;
  i32& id(i64 j) const { return ids[j * step]; }
  float& weight(i64 j) const { return weights[j * step]; }
};

// Inserts in descending order; equal ones stay in the order of their arrival. Weights are the logits.
void choose(const float* logits, i64 experts, i64 per_token, const Choice& best) {
  i64 held = 0;
  for (i64 e = 0; e < experts; ++e) {
    const float value = std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
    if (held == per_token && !(value > best.weight(held - 1))) continue;
    i64 at = held < per_token ? held++ : held - 1;
    for (; at > 0 && value > best.weight(at - 1); --at) {
      best.weight(at) = best.weight(at - 1);
      best.id(at) = best.id(at - 1);
    }
    best.weight(at) = value;
    best.id(at) = i32(e);
  }
}

void route(const float* logits, i64 experts, bool normalise, i64 per_token, const Choice& best) {
  choose(logits, experts, per_token, best);
  const float largest = best.weight(0);
  float sum = 0, chosen = 0;
  for (i64 e = 0; e < experts; ++e) sum += std::exp(logits[e] - largest);
  for (i64 j = 0; j < per_token; ++j) chosen += best.weight(j) = std::exp(best.weight(j) - largest) / sum;
  for (i64 j = 0; normalise && j < per_token; ++j) best.weight(j) /= chosen;
}

}  // namespace

Status moe_route(Exec& exec, const MoeRouteArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::moe_route(exec, args);
  WEFT_TRY(check(args));
  const i64 per_token = args.ids.dim(1);
  const Range tokens = exec.share(args.logits.dim(0));
  for (i64 t = tokens.begin; t < tokens.end; ++t) {
    route(args.logits.row<const float>(t), args.logits.dim(1), args.normalise, per_token,
          {args.ids.row<i32>(t), args.weights.row<float>(t), args.ids.byte_strides[1] / 4});
  }
  return exec.sync();
}

}  // namespace weft
