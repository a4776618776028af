// What travels between GPUs, word by word, and how its reader knows that it has arrived. Plain functions: the kernels
// call them, and CPU tests run any payload through them.
#pragma once
#include "base/host_device.h"
#include "base/types.h"

namespace weft::ep {

// 16 bytes that travel as two units of 8, each of which arrives whole (PTX: a vector access is one access per element).
struct alignas(16) Word {
  u64 lo, hi;
};

// ---- units that carry the call's number ----

WEFT_HD u64 tagged(u32 value, u32 epoch) {
  return u64(epoch) << 32 | value;
}
WEFT_HD bool has_tag(u64 unit, u32 epoch) {
  return u32(unit >> 32) == epoch;
}
WEFT_HD bool has_tag(const Word& word, u32 epoch) {
  return has_tag(word.lo, epoch) && has_tag(word.hi, epoch);
}

// Indices travel four to a word, a quad: two units of two.
inline constexpr u32 kNoId = 0xffff;
WEFT_HD Word pack_ids(const i32 (&indices)[4], u32 experts, u32 epoch) {
  u32 ids[4];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int j = 0; j < 4; ++j) ids[j] = u32(indices[j]) < experts ? u32(indices[j]) : kNoId;
  return {tagged(ids[0] | ids[1] << 16, epoch), tagged(ids[2] | ids[3] << 16, epoch)};
}
WEFT_HD u32 id_of(const Word& quad, int j) {
  const u64 unit = j < 2 ? quad.lo : quad.hi;
  return u32(unit) >> (j % 2 * 16) & 0xffff;
}

// ---- rows of dispatch: any bits ----
// The top bit of a unit says that it is here. The bits thus displaced in a group of 32 words travel in one more word
// with the call's number: bit l of its units is that of word l.

inline constexpr u64 kArrivedBit = u64(1) << 63;
WEFT_HD bool top_bit(u64 unit) {
  return (unit & kArrivedBit) != 0;
}
WEFT_HD Word marked(const Word& word) {
  return {word.lo | kArrivedBit, word.hi | kArrivedBit};
}
WEFT_HD bool is_marked(const Word& word) {
  return top_bit(word.lo & word.hi);
}
// Word `at` of its group, as it was; lo, hi: the displaced bits of the group.
WEFT_HD Word restored(const Word& word, u32 lo, u32 hi, int at) {
  return {(word.lo & ~kArrivedBit) | u64(lo >> at & 1) << 63, (word.hi & ~kArrivedBit) | u64(hi >> at & 1) << 63};
}

// ---- rows of combine: sums that the sender has rounded ----
// They travel complemented, and none is all ones, so that 0 says that a unit is not here. A pair of NaNs whose bits are
// all ones becomes another pair of NaNs.

WEFT_HD u64 never_all_ones(u64 unit) {
  constexpr u32 kNans = 0x7fff7fff;  // NaN as one fp32, two bf16 or two fp16
  const u32 lo = u32(unit) == ~0u ? kNans : u32(unit), hi = u32(unit >> 32) == ~0u ? kNans : u32(unit >> 32);
  return lo | u64(hi) << 32;
}
WEFT_HD Word complemented(const Word& word) {
  return {~word.lo, ~word.hi};
}
WEFT_HD Word sent_sums(const Word& word) {
  return complemented({never_all_ones(word.lo), never_all_ones(word.hi)});
}
WEFT_HD bool sums_are_here(const Word& word) {
  return word.lo != 0 && word.hi != 0;
}

}  // namespace weft::ep
