// Runs one function on every rank of a world, for tests, benchmarks and tools that are started either way.
#pragma once
#include <functional>

#include "comm/bootstrap/environment.h"
#include "comm/bootstrap/process_world.h"

namespace weft {

// Who the ranks of run() are: threads of this process, or, where a launcher started this process as one rank of a
// world, it and its fellows. Used by one thread.
class RankHost {
 public:
  // `spec`: this process's part, as world_spec_from_environment() has it; a fault is what run() then returns.
  explicit RankHost(Result<WorldSpec> spec, MonitorTiming timing = {}) : spec_(std::move(spec)), timing_(timing) {}

  // Whether this process is one rank among processes.
  bool is_rank() const { return spec_.ok() && spec_->kind == WorldSpec::Kind::kRank; }
  // This process's rank, 0 where the ranks are its threads: the one whose results this process has in any case.
  int rank() const { return is_rank() ? spec_->rank : 0; }
  // The most ranks that run() can have: the launcher's processes, or `threads`.
  int most_ranks(int threads) const { return is_rank() ? spec_->size : threads; }

  // Calls work(world) for each of `ranks` ranks and returns the first fault, named by its rank. A fault of one fails
  // the world. Threads: all ranks run here. Processes: every process of the launcher calls run() with the same numbers
  // in the same order; the first `ranks` of them form a world for this one run, and all learn how it ended, so that
  // they go on alike.
  // Errors: kInvalidArgument for more ranks than processes; kUnimplemented where the variables ask this process to
  // start ranks; those of join_world() and of work.
  Status run(int ranks, const std::function<Status(World&)>& work);

 private:
  Status run_threads(int ranks, const std::function<Status(World&)>& work);
  Status run_process(int ranks, const std::function<Status(World&)>& work);
  Status run_as_member(int ranks, const std::function<Status(World&)>& work);
  // A world of processes with a meeting place of its own, named after the launcher's job.
  Result<std::unique_ptr<World>> join(int ranks, const std::string& name) const;

  const Result<WorldSpec> spec_;
  const MonitorTiming timing_;
  std::unique_ptr<World> home_;  // of all processes; from the first run on
  int runs_ = 0;                 // as many on every process
};

}  // namespace weft
