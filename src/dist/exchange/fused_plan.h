// How the fused GEMMs of many ranks carry their bytes, and what their planners share. Pure functions, host side.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "base/divide.h"
#include "base/status.h"

namespace weft {

enum class FusedVariant {
  kAuto,
  kSplit,  // the collective and the GEMM one after the other
  kPush,   // multiprocessors of the fused kernel carry the bytes: one wave or two
  kCopy,   // the copy engine carries them beside the fused kernel
};

// What a tuner found for up to `most_m` rows, more than those of the entry before.
struct TunedVariant {
  i64 most_m = 0;
  FusedVariant variant = FusedVariant::kSplit;
};

struct CudaFusedOptions {
  std::string variant = "auto";  // or split, push, copy
  // For auto: instead of the rule below, up to the last entry's rows. The same on every rank.
  std::vector<TunedVariant> tuned = {};
  // No work still under way on a call's stream writes w: of few rows it is then read while the kernel before ends.
  bool constant_w = false;
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

// Which variant an operator takes: the one it is forced to, the tuner's, or the rule's.
class FusedChoice {
 public:
  FusedChoice() = default;
  // copies: false takes push for every copy that was not forced. Errors: kInvalidArgument naming `op` and the option,
  // kUnimplemented for a forced copy without them.
  static Result<FusedChoice> parse(const char* op, const CudaFusedOptions& options, bool copies = true) {
    FusedChoice choice;
    choice.copies_ = copies;
    WEFT_ASSIGN(choice.forced_, parse_fused_variant(op, options.variant));
    if (choice.forced_ == FusedVariant::kCopy && !copies)
      return error(
          Code::kUnimplemented,
          "{}: variant copy: ranks that are threads of one process share a GPU, where copies in graphs may wait "
          "for each other without end",
          op);
    i64 most = 0;
    for (const TunedVariant& entry : options.tuned) {
      if (entry.most_m <= most || entry.variant == FusedVariant::kAuto)
        return error(Code::kInvalidArgument,
                     "{}: tuned: expected variants for growing numbers of rows, found {} for {}", op,
                     fused_variant_name(entry.variant), entry.most_m);
      most = entry.most_m;
    }
    choice.tuned_ = options.tuned;
    return choice;
  }

  FusedVariant at(i64 m, int ranks) const {
    const FusedVariant wanted = wanted_at(m, ranks);
    return wanted == FusedVariant::kCopy && !copies_ ? FusedVariant::kPush : wanted;
  }
  // No m up to `max_m` with more rows takes `variant`; 0 = none takes it.
  i64 most_rows(FusedVariant variant, i64 max_m, int ranks) const {
    const i64 most = most_wanted(variant, max_m, ranks);
    if (copies_) return most;
    if (variant == FusedVariant::kCopy) return 0;
    return variant == FusedVariant::kPush ? std::max(most, most_wanted(FusedVariant::kCopy, max_m, ranks)) : most;
  }

 private:
  FusedVariant wanted_at(i64 m, int ranks) const {
    if (forced_ == FusedVariant::kAuto)
      for (const TunedVariant& entry : tuned_)
        if (m <= entry.most_m) return entry.variant;
    return choose_fused_variant(m, ranks, forced_);
  }
  i64 most_wanted(FusedVariant variant, i64 max_m, int ranks) const {
    if (forced_ != FusedVariant::kAuto) return forced_ == variant ? max_m : 0;
    i64 most = 0, ruled = 0;  // up to which the tuner decides
    for (const TunedVariant& entry : tuned_) {
      if (entry.variant == variant && ruled < max_m) most = std::min(max_m, entry.most_m);
      ruled = entry.most_m;
    }
    if (ruled >= max_m) return most;
    const i64 rule = variant == FusedVariant::kSplit  ? kFusedLeastShard * ranks
                     : variant == FusedVariant::kPush ? kPushMostRows
                                                      : max_m;
    return std::max(most, std::min(max_m, rule));
  }

  bool copies_ = true;
  FusedVariant forced_ = FusedVariant::kAuto;
  std::vector<TunedVariant> tuned_;
};

// Multiprocessors that a fused kernel leaves to movers or to the links of a copy chain, which must find a free one.
inline int fused_spare_sms(int max_ctas) {
  return std::clamp(max_ctas / 16, 1, 4);
}

}  // namespace weft
