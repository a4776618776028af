// Starting the ranks of a command: threads of this process, or this process's part in a world that a launcher made.
#pragma once
#include <functional>
#include <string>

#include "comm/bootstrap/environment.h"
#include "engine/worker.h"
#include "models/pretrained.h"

namespace weft {

struct RankOptions {
  WorldSpec world;  // kAlone: the ranks are threads of this process; kRank: this process is one
  int tp = 0;       // tensor-parallel size; 0 = what ep leaves of the world's size, 1 outside a world
  int ep = 1;       // expert-parallel size; tp x ep is the number of ranks
  int threads = 0;  // per rank; 0 = the usable CPUs of this host divided by its ranks
  LayerMode mode = LayerMode::kAuto;
  WorkerShape shape;
  std::chrono::milliseconds deadline{10000};  // of any wait for another rank
  std::function<void(int rank)> in_step;      // tests of faults: called inside each step, by one thread of every rank
};

// What the leader has when all ranks are ready.
struct Leader {
  Worker& worker;
  int ranks, tp, ep;
  int threads;    // per rank
  double load_s;  // from the call of run_ranks() to all ranks being ready
  // Proportional set size of all ranks' processes now.
  std::function<i64()> memory_bytes;
};

// Loads `model` on every rank and calls `lead` on rank 0, in this process or another one of the world; the other ranks
// serve it. Returns when the ranks of this process have left; a fault of any rank is returned on all. Errors:
// kInvalidArgument for tp and ep that do not make the world's size or that the model cannot be cut into; those of
// loading, joining and `lead`.
Status run_ranks(const Pretrained& model, const RankOptions& options, const std::function<Status(Leader&)>& lead);

// Says early, and once, what every rank would find out while loading: whether the model can be cut into tp x ep ranks.
// Errors: kInvalidArgument naming the flag.
Status check_split(const ModelConfig& config, int tp, int ep);

}  // namespace weft
