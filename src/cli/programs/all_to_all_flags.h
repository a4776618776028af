// What the programs test_all_to_all and bench_all_to_all share: their flags, and how they become ranks.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "dist/expert_parallel/selfcheck.h"

namespace weft {

struct AllToAllFlags {
  i64 tokens = 128, experts = 32, top_k = 8, hidden = 1024, scale_block = 128, capacity = 0;
  int dp_size = 1, ranks = 4, threads = 1;
  std::string device = "cpu", dtype = "fp8", out_dtype = "bf16", combine = "pre_reduced", routing = "uniform", cast;
  bool split = false, early_weights = false, map = false, json = false;
  double deadline_s = 10;

  void declare(CLI::App& app);
  Result<ep::CheckCase> check_case() const;
};

// What a rank does, on the device that the flags name.
struct AllToAllWork {
  std::function<Status(Communicator&, ThreadPool&)> cpu;
  std::function<Status(World&, std::chrono::nanoseconds deadline)> cuda;
};

// Joins the world that mpirun, weft launch, torchrun, srun or WORLD_SIZE WORLD_LOCAL_SIZE NODE_RANK MASTER_ADDR
// MASTER_PORT describe (the last starts the ranks of this host), or makes one of `ranks` threads where nothing does,
// and runs `work` on each rank. Returns the exit status.
int run_all_to_all_ranks(const AllToAllFlags& flags, const AllToAllWork& work);

// Parses the command line, then runs `run`. Returns the exit status: 0, 1 for a fault, 2 for a wrong command line.
int all_to_all_main(CLI::App& app, int argc, char** argv, const std::function<int()>& run);

}  // namespace weft
