// ParallelPlan: how the ranks of a world share a model. Models take this, never the world's size.
#pragma once
#include "comm/communicator.h"

namespace weft {

struct ParallelSizes {
  int tp = 1;  // tensor parallel: ranks that share each layer
  int ep = 1;  // expert parallel: groups that share the experts
  int pp = 1;  // pipeline parallel: stages of layers
  int dp = 1;  // data parallel: replicas
};

// World rank = ((dp_index * pp + pp_index) * ep + ep_index) * tp + tp_index: neighbours share a layer. What is no
// expert is cut over all ranks of `layer`; experts are spread over `ep`, each cut over `tp`.
struct ParallelPlan {
  ParallelSizes sizes;
  Communicator world, tp, ep, pp, dp;  // each with this rank's index in it
  Communicator layer;                  // tp x ep

  // Collective over `world`. Errors: kInvalidArgument naming the sizes unless each is >= 1 and their product equals
  // the world's size.
  static Result<ParallelPlan> create(Communicator& world, const ParallelSizes& sizes);
};

}  // namespace weft
