// How activations lie on the ranks that share a layer.
#pragma once
#include <string>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// kAr: every rank holds the residual of every token; row-parallel GEMMs end in an all-reduce.
// kAgRs: each rank holds the residual of its run of the tokens (split_range); column-parallel GEMMs begin with an
// all-gather, row-parallel ones end in a reduce-scatter.
// kAuto: a model chooses for each step by its number of tokens; operators are planned for one of the others. All give
// the same bits.
enum class LayerMode : u8 { kAr, kAgRs, kAuto };
Result<LayerMode> parse_layer_mode(const std::string& name);  // "ar", "ag_rs" or "auto"

}  // namespace weft
