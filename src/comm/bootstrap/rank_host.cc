#include "comm/bootstrap/rank_host.h"

#include <unistd.h>

#include <thread>

namespace weft {
namespace {

// The others may still be in a run that this process has no part in.
constexpr std::chrono::seconds kMeetDeadline{300};

Status run_one(World& world, const std::function<Status(World&)>& work) {
  const Status outcome = work(world);
  if (!outcome.ok()) world.fail(outcome);  // nobody waits for this rank any more
  return outcome;
}

}  // namespace

Status RankHost::run(int ranks, const std::function<Status(World&)>& work) {
  if (!spec_.ok()) return spec_.status();
  if (spec_->kind == WorldSpec::Kind::kSpawn)
    return error(Code::kUnimplemented, "NODE_RANK: these ranks are started by weft launch, mpirun or srun, or threads");
  return is_rank() ? run_process(ranks, work) : run_threads(ranks, work);
}

Status RankHost::run_threads(int ranks, const std::function<Status(World&)>& work) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<Status> outcomes(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] { outcomes[size_t(rank)] = run_one(*worlds[size_t(rank)], work); });
  for (std::thread& thread : threads) thread.join();
  Status first;
  for (int rank = 0; rank < ranks; ++rank) {
    const Status& outcome = outcomes[size_t(rank)];
    if (!outcome.ok() && (first.ok() || first.code() == Code::kAborted))
      first = outcome.with_context(fmt::format("rank {}", rank));
  }
  return first;
}

Status RankHost::run_process(int ranks, const std::function<Status(World&)>& work) {
  if (ranks > spec_->size)
    return error(Code::kInvalidArgument, "{} ranks: the launcher started {} processes", ranks, spec_->size);
  const int run = ++runs_;
  if (spec_->rank >= ranks) return {};
  // A meeting place of its own for each run: who is ahead must not meet those who are still in the last one.
  WorldSpec spec = *spec_;
  spec.size = spec.local_size = ranks;
  spec.local_rank = spec.rank;
  const std::string job = spec.job.empty() ? spec.rendezvous.text() : spec.job;
  spec.job = fmt::format("{}-run{}", job, run);
  spec.rendezvous = {.host = {}, .port = 0, .socket = job_socket(::geteuid(), spec.job)};
  WEFT_ASSIGN(const auto world, join_world(spec, Deadline::after(kMeetDeadline), timing_));
  return run_one(*world, work).with_context(fmt::format("rank {}", spec.rank));
}

}  // namespace weft
