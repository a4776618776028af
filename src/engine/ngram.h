// Drafts for speculative decoding out of the sequence itself.
#pragma once
#include <span>

#include "base/types.h"

namespace weft {

// What followed the latest earlier place where the last three tokens (else two) stood: at most `most` tokens, a view
// into `tokens`; empty if they did not. Source: Saxena, Prompt lookup decoding, 2023.
std::span<const i32> draft_by_ngram(std::span<const i32> tokens, i64 most);

}  // namespace weft
