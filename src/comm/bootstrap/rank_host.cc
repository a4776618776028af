#include "comm/bootstrap/rank_host.h"

#include <unistd.h>

#include <thread>

#include "comm/bootstrap/exchange.h"

namespace weft {
namespace {

constexpr std::chrono::seconds kMeetDeadline{60};
constexpr std::chrono::seconds kLongestRun{1200};

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

Result<std::unique_ptr<World>> RankHost::join(int ranks, const std::string& name) const {
  WorldSpec spec = *spec_;
  spec.size = spec.local_size = ranks;
  spec.local_rank = spec.rank;
  spec.job = fmt::format("{}-{}", spec.job.empty() ? spec.rendezvous.text() : spec.job, name);
  spec.rendezvous = {.host = {}, .port = 0, .socket = job_socket(::geteuid(), spec.job)};
  return join_world(spec, Deadline::after(kMeetDeadline), timing_);
}

Status RankHost::run_process(int ranks, const std::function<Status(World&)>& work) {
  if (ranks > spec_->size)
    return error(Code::kInvalidArgument, "{} ranks: the launcher started {} processes", ranks, spec_->size);
  if (!home_) {
    WEFT_ASSIGN(home_, join(spec_->size, "home"));
  }
  ++runs_;
  const Status mine = spec_->rank < ranks ? run_as_member(ranks, work) : Status();
  const Status all = agree(*home_, mine, Deadline::after(kLongestRun));
  return mine.ok() ? all : mine;
}

Status RankHost::run_as_member(int ranks, const std::function<Status(World&)>& work) {
  // Another world for each run: one that has failed stays so.
  WEFT_ASSIGN(const auto world, join(ranks, fmt::format("run{}", runs_)));
  return run_one(*world, work).with_context(fmt::format("rank {}", spec_->rank));
}

}  // namespace weft
