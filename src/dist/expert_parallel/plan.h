// Where the symmetric memory of an exchange lies, and what the forms for CPUs and GPUs check. Host side.
#pragma once
#include "dist/exchange/plan.h"
#include "dist/expert_parallel/expert_parallel.h"
#include "ops/quantise/quantise.h"

namespace weft::ep {

// Buffers that begin at `base`, for results of `part_bytes` bytes; `bytes` = what they take. Whoever allocates asks
// for the size first.
inline Buffers plan_buffers(const Layout& l, i64 part_bytes, u64 base, i64* bytes) {
  SymmetricLayout m;
  const i64 lines = 2 * l.ranks;
  const auto table = [&](i64 per_source) {
    return FlagTable{{base + u64(m.reserve<u32>(l.ranks * per_source))}, per_source};
  };
  const auto bytes_of = [&](i64 count) { return sym<std::byte>{base + u64(m.reserve<std::byte>(count))}; };
  Buffers b;
  b.routing_pitch = round_up(l.source_tokens * l.per_token, kFlagsPerLine);
  b.x_pitch = round_up(l.x_bytes, 16);
  b.scale_pitch = round_up(l.scale_bytes, 16);
  b.part_pitch = round_up(part_bytes, 16);
  b.dispatched = {base + u64(m.reserve<EpochWord>(1))};
  b.combined = {base + u64(m.reserve<EpochWord>(1))};
  b.routed = table(kFlagsPerLine);
  b.weighed = table(kFlagsPerLine);
  b.arrived = table(kMaxTiles);
  b.returned = table(l.dp_size * kMaxTiles);
  b.headers = bytes_of(lines * kFlagLineBytes).as<u64>();
  b.indices = bytes_of(lines * b.routing_pitch * i64(sizeof(i32))).as<i32>();
  b.weights = bytes_of(lines * b.routing_pitch * i64(sizeof(float))).as<float>();
  b.x = bytes_of(2 * l.rows() * b.x_pitch);
  b.scales = bytes_of(2 * l.rows() * b.scale_pitch);
  b.parts = bytes_of(2 * l.parts() * l.max_tokens * b.part_pitch);
  *bytes = m.bytes();
  return b;
}

// Row sizes that dispatch's cast gives, where it is asked for.
inline Status expect_cast_sizes(const AllToAllShape& s, const AllToAllOptions& o) {
  const i64 scale_bytes = divide_up(s.hidden_dim, kFp8Block) * i64(sizeof(float));
  if (!o.cast_x_to_fp8 || (s.hidden_dim_bytes == s.hidden_dim && s.hidden_dim_scale_bytes == scale_bytes)) return {};
  return error(Code::kInvalidArgument,
               "expert parallel: cast_x_to_fp8: expected hidden_dim_bytes = {} and hidden_dim_scale_bytes = {}, found "
               "{} and {}",
               s.hidden_dim, scale_bytes, s.hidden_dim_bytes, s.hidden_dim_scale_bytes);
}
// The input of a dispatch that casts: m tokens.
inline Status expect_cast_input(const DispatchArgs& a, i64 m, i64 hidden) {
  WEFT_TRY(expect_summable("dispatch: x", a.x.dtype));
  WEFT_TRY(expect_tensor("dispatch: x", a.x, a.x.dtype, {m, hidden}));
  if (a.x_scale.data == nullptr) return {};
  return error(Code::kInvalidArgument, "dispatch: x_scale: found {}, but the cast of x makes the scales",
               a.x_scale.describe());
}

}  // namespace weft::ep
