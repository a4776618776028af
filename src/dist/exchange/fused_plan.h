// How the fused GEMMs of many ranks carry their bytes, and what their planners share. Pure functions, host side.
#pragma once
#include <algorithm>
#include <string>

#include "base/divide.h"
#include "base/status.h"

namespace weft {

enum class FusedVariant {
  kAuto,
  kSplit,  // the collective and the GEMM one after the other
  kPush,   // multiprocessors of the fused kernel carry the bytes: one wave or two
  kCopy,   // the copy engine carries them beside the fused kernel
};

struct CudaFusedOptions {
  std::string variant = "auto";  // or split, push, copy
};

inline const char* fused_variant_name(FusedVariant variant) {
  switch (variant) {
    case FusedVariant::kSplit: return "split";
    case FusedVariant::kPush: return "push";
    case FusedVariant::kCopy: return "copy";
    default: return "auto";
  }
}

// "auto", "split", "push" or "copy"; kInvalidArgument otherwise.
inline Result<FusedVariant> parse_fused_variant(const char* op, const std::string& name) {
  for (const auto variant : {FusedVariant::kAuto, FusedVariant::kSplit, FusedVariant::kPush, FusedVariant::kCopy})
    if (name == fused_variant_name(variant)) return variant;
  return error(Code::kInvalidArgument, "{}: variant: expected auto, split, push or copy, found '{}'", op, name);
}

// Below this many rows per rank, tiles of 128 rows that never span two ranks waste more than overlapping gains.
inline constexpr i64 kFusedLeastShard = 112;
// Up to here the kernel carries the bytes itself, above the copy engine: with few waves, the first bytes count.
inline constexpr i64 kPushMostRows = 1536;

// Up to here "push" is the GEMM for few rows, of all ranks, with the communication in its first and last microseconds.
inline constexpr i64 kFewRows = 128;

inline FusedVariant choose_fused_variant(i64 m, int ranks, FusedVariant forced) {
  if (forced != FusedVariant::kAuto) return forced;
  if (m <= kFewRows) return FusedVariant::kPush;
  if (divide_up(m, ranks) < kFusedLeastShard) return FusedVariant::kSplit;
  return m <= kPushMostRows ? FusedVariant::kPush : FusedVariant::kCopy;
}

// Multiprocessors that a fused kernel leaves to movers or to the links of a copy chain, which must find a free one.
inline int fused_spare_sms(int max_ctas) {
  return std::clamp(max_ctas / 16, 1, 4);
}

}  // namespace weft
