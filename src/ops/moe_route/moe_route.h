// moe_route: which experts each token goes to, and with what weights.
#pragma once
#include "device/exec.h"

namespace weft {

struct MoeRouteArgs {
  TensorView logits;   // [tokens, experts] f32, row stride allowed
  TensorView ids;      // [tokens, per_token] i32: the likeliest experts, best first; the lower of two equal ones
  TensorView weights;  // [tokens, per_token] f32: their probabilities; strides as those of ids
  bool normalise;      // divide a token's weights by their sum
};

// Softmax over all experts in f32, then the per_token <= experts largest. A row with a NaN gives NaN weights for valid
// experts. Rows are cut over the team; ends with exec.sync(). A token's bits depend on its row alone.
// Errors: kInvalidArgument naming the tensor. Source: Shazeer et al., Outrageously Large Neural Networks, 2017; the
// order of softmax and choice is that of Hugging Face's Qwen3-MoE.
Status moe_route(Exec& exec, const MoeRouteArgs& args);

// Naive oracle in f64 of one row: ids and weights [per_token].
void moe_route_reference(const float* logits, i64 experts, i64 per_token, bool normalise, i32* ids, float* weights);

}  // namespace weft
