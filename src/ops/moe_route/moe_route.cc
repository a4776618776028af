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
  if (args.ids.dim(1) >= 1 && args.ids.dim(1) <= args.logits.dim(1)) return {};
  return error(Code::kInvalidArgument, "ids: expected 1 to {} experts per token, found {}", args.logits.dim(1),
               args.ids.dim(1));
}

// Inserts in descending order; equal ones stay in the order of their arrival.
void choose(const float* logits, i64 experts, i64 per_token, i32* ids, float* best) {
  i64 held = 0;
  for (i64 e = 0; e < experts; ++e) {
    const float value = std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
    if (held == per_token && !(value > best[held - 1])) continue;
    i64 at = held < per_token ? held++ : held - 1;
    for (; at > 0 && value > best[at - 1]; --at) best[at] = best[at - 1], ids[at] = ids[at - 1];
    best[at] = value;
    ids[at] = i32(e);
  }
}

void route(const float* logits, i64 experts, bool normalise, i64 per_token, i32* ids, float* weights) {
  choose(logits, experts, per_token, ids, weights);
  const float largest = weights[0];
  float sum = 0, chosen = 0;
  for (i64 e = 0; e < experts; ++e) sum += std::exp(logits[e] - largest);
  for (i64 j = 0; j < per_token; ++j) chosen += weights[j] = std::exp(weights[j] - largest) / sum;
  for (i64 j = 0; normalise && j < per_token; ++j) weights[j] /= chosen;
}

}  // namespace

Status moe_route(Exec& exec, const MoeRouteArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::moe_route(exec, args);
  WEFT_TRY(check(args));
  const i64 per_token = args.ids.dim(1);
  const Range tokens = exec.share(args.logits.dim(0));
  for (i64 t = tokens.begin; t < tokens.end; ++t) {
    route(args.logits.row<const float>(t), args.logits.dim(1), args.normalise, per_token, args.ids.row<i32>(t),
          args.weights.row<float>(t));
  }
  return exec.sync();
}

}  // namespace weft
