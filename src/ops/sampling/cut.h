// A cut through the tokens ranked by weight: how top_k and top_p choose without sorting the vocabulary.
#pragma once
#include <limits>
#include <span>

#include "ops/sampling/sampling.h"

namespace weft {

// Keeps the first of a ranking by weight, then by id.
struct Cut {
  float weight = 0;  // of the last token kept
  i32 token = std::numeric_limits<i32>::max();
  bool keeps(float w, i32 t) const { return w > weight || (w == weight && t <= token); }
};

// The shortest ranking whose tokens number at least `count`.
Cut cut_by_count(std::span<const float> weights, i64 count, SamplingScratch& scratch);
// The shortest ranking that has at least `share` of the summed weights.
Cut cut_by_share(std::span<const float> weights, double share, SamplingScratch& scratch);

// Sets the weights of the tokens beyond the cut to 0.
void drop_beyond(const Cut& cut, std::span<float> weights);

}  // namespace weft
