#include "engine/ranks.h"

#include <unistd.h>

#include <fstream>
#include <set>
#include <thread>

#include "base/log.h"
#include "comm/bootstrap/process_world.h"

namespace weft {
namespace {

constexpr std::chrono::seconds kStartDeadline{120};  // joining and loading

// Proportional set size of a process in bytes; 0 when it cannot be read.
i64 pss_bytes(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/smaps_rollup");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Pss:")) return std::stoll(line.substr(4)) << 10;
  }
  return 0;
}

// Bytes that the operators of `shape` put into the arena, with room to spare: it becomes resident only as it is used.
i64 arena_bytes(const ModelConfig& config, const WorkerShape& shape, int ranks) {
  const i64 rows = shape.max_tokens * config.hidden * 4, logits = shape.max_logits * config.vocab * 4;
  // Mixtures of experts exchange the same rows as dense layers, in buffers of their own.
  const i64 exchanges = config.any_sparse() ? 2 : 1;
  return (i64(64) << 20) + 4 * (ranks + 2) * (2 * exchanges * rows + logits);
}

// One rank from its world to the end of its work.
class Rank {
 public:
  Rank(World& world, const Pretrained& model, const RankOptions& options, int local_rank, int local_ranks,
       Clock::time_point start)
      : world_(world),
        model_(model),
        options_(options),
        local_rank_(local_rank),
        local_ranks_(local_ranks),
        start_(start) {}

  Status run(const std::function<Status(Leader&)>& lead) {
    const Status status = run_or_fail(lead);
    if (!status.ok() && world_.size() > 1) world_.fail(status);
    return status;
  }

 private:
  Status run_or_fail(const std::function<Status(Leader&)>& lead) {
    WEFT_ASSIGN(std::unique_ptr<ThreadPool> pool, make_pool());
    WEFT_ASSIGN(Communicator all,
                Communicator::create(world_, {.arena_bytes = arena_bytes(model_.config, options_.shape, world_.size()),
                                              .deadline = options_.deadline}));
    WEFT_ASSIGN(ParallelPlan plan, ParallelPlan::create(all, {.tp = options_.tp, .ep = options_.ep}));
    WEFT_ASSIGN(std::unique_ptr<Model> loaded, make_model(model_.config, *model_.checkpoint, plan,
                                                          {.mode = options_.mode,
                                                           .max_tokens = options_.shape.max_tokens,
                                                           .max_logits = options_.shape.max_logits}));
    WEFT_ASSIGN(std::unique_ptr<Worker> worker, Worker::create(all, *pool, std::move(loaded), options_.shape));
    worker->set_in_step(options_.in_step);
    // The barrier of loading: everybody has packed its shard, so the file's pages can go.
    WEFT_ASSIGN(const std::vector<std::string> pids,
                world_.all_gather(std::to_string(::getpid()), Deadline::after(kStartDeadline)));
    model_.checkpoint->drop_pages();
    if (world_.rank() != 0) return worker->serve();

    const std::set<std::string> processes(pids.begin(), pids.end());
    Leader leader{.worker = *worker,
                  .ranks = world_.size(),
                  .tp = options_.tp,
                  .ep = options_.ep,
                  .threads = pool->num_threads(),
                  .load_s = seconds_since(start_),
                  .memory_bytes = [processes] {
                    i64 sum = 0;
                    for (const std::string& pid : processes) sum += pss_bytes(pid);
                    return sum;
                  }};
    const Status outcome = lead(leader);
    if (all.status().ok()) WEFT_TRY(worker->stop());  // a refused input is no reason for the others to fail
    return outcome;
  }

  Result<std::unique_ptr<ThreadPool>> make_pool() const {
    const std::vector<int>& cpus = allowed_cpus();
    const int usable = usable_cpu_count();
    ThreadPoolOptions pool;
    pool.num_threads = options_.threads > 0 ? options_.threads : std::max(1, usable / local_ranks_);
    const bool fits = pool.num_threads * local_ranks_ <= usable;
    if (fits) {
      for (int t = 0; t < pool.num_threads; ++t) {
        pool.cpus.push_back(cpus[size_t(local_rank_ * pool.num_threads + t)]);
      }
    } else {
      pool.spin = 200;  // more threads than CPUs: whoever waits must make room
    }
    return ThreadPool::create(pool);
  }

  World& world_;
  const Pretrained& model_;
  const RankOptions& options_;
  const int local_rank_, local_ranks_;
  const Clock::time_point start_;
};

Status run_process_rank(const Pretrained& model, const RankOptions& options, const std::function<Status(Leader&)>& lead,
                        Clock::time_point start) {
  WEFT_ASSIGN(std::unique_ptr<World> world, join_world(options.world, Deadline::after(kStartDeadline)));
  return Rank(*world, model, options, options.world.local_rank, options.world.local_size, start).run(lead);
}

Status run_thread_ranks(const Pretrained& model, const RankOptions& options, const std::function<Status(Leader&)>& lead,
                        Clock::time_point start) {
  const int ranks = options.tp * options.ep;
  std::vector<std::unique_ptr<World>> worlds = make_thread_worlds(ranks);
  std::vector<Status> outcomes(static_cast<size_t>(ranks));
  auto run = [&](int rank) {
    outcomes[size_t(rank)] = Rank(*worlds[size_t(rank)], model, options, rank, ranks, start).run(lead);
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < ranks; ++rank) threads.emplace_back(run, rank);
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (const Status& outcome : outcomes) WEFT_TRY(outcome);
  return {};
}

}  // namespace

Status check_split(const ModelConfig& config, int tp, int ep) {
  if (ep > 1 && !config.any_sparse()) {
    return error(Code::kInvalidArgument, "--ep {}: the model has no experts", ep);
  }
  if (ep > 1 && ep > config.moe.experts) {
    return error(Code::kInvalidArgument, "--ep {}: more than the model's {} experts", ep, config.moe.experts);
  }
  const std::string flags = ep == 1 ? fmt::format("--tp {}", tp) : fmt::format("--tp {} --ep {}", tp, ep);
  ShardDims dims = shard_dims(config, 1);
  if (ep > 1) dims.expert_ffn = 0;
  return make_shard_plan(dims, tp * ep, 0).status().with_context(flags);
}

Status run_ranks(const Pretrained& model, const RankOptions& wanted, const std::function<Status(Leader&)>& lead) {
  const auto start = Clock::now();
  WEFT_CHECK(wanted.world.kind != WorldSpec::Kind::kSpawn);  // the command spawns before it opens the model
  const bool alone = wanted.world.kind == WorldSpec::Kind::kAlone;
  RankOptions options = wanted;
  const int size = wanted.world.size;
  if (options.tp == 0) options.tp = alone ? 1 : std::max(1, size / options.ep);
  if (!alone && options.tp * options.ep != size) {
    const std::string tp = wanted.tp == 0 ? "" : fmt::format("--tp {}", wanted.tp);
    const std::string ep = options.ep == 1 ? "" : fmt::format("--ep {}", options.ep);
    return error(Code::kInvalidArgument, "{}{}{}: the world has {} ranks, and they must all be used", tp,
                 tp.empty() || ep.empty() ? "" : " ", ep, size);
  }
  WEFT_TRY(check_split(model.config, options.tp, options.ep));
  return alone ? run_thread_ranks(model, options, lead, start) : run_process_rank(model, options, lead, start);
}

}  // namespace weft
