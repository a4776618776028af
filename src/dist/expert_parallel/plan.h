// Where the symmetric memory of an exchange lies. Host side, for every machine.
#pragma once
#include "dist/exchange/plan.h"
#include "dist/expert_parallel/layout.h"

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

}  // namespace weft::ep
