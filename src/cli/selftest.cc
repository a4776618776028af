// `weft selftest world`: ranks that talk to each other for a while, and on request misbehave. Hidden; for the tests.
#include <unistd.h>

#include <functional>
#include <memory>
#include <thread>

#include "base/aligned_buffer.h"
#include "cli/commands.h"
#include "comm/bootstrap/launcher.h"
#include "comm/bootstrap/process_world.h"
#include "device/thread_pool.h"
#include "dist/all_reduce/all_reduce.h"

namespace weft {
namespace {

struct WorldFlags {
  double seconds = 0.2;
  double start_deadline_s = 60;
  double deadline_s = 10;
  int hang_rank = -1, fail_rank = -1, leave_rank = -1;
  bool busy = false;
  std::string exchange = "all_reduce";
};

Deadline after_seconds(double seconds) {
  return Deadline::after(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds)));
}

// One descriptor from the last rank to all: everyone reads what that rank wrote.
Status check_share_fd(World& world, const WorldFlags& flags) {
  const int root = world.size() - 1;
  Fd ours;
  int ends[2];
  if (world.rank() == root) {
    if (::pipe(ends) != 0) return error(Code::kIo, "pipe: {}", errno_text());
    ours = Fd(ends[0]);
    const Fd write_end(ends[1]);
    const std::string bytes(size_t(world.size()), 'x');
    if (::write(write_end.get(), bytes.data(), bytes.size()) < 0) return error(Code::kIo, "write: {}", errno_text());
  }
  WEFT_ASSIGN(const Fd shared, world.share_fd(std::move(ours), root, after_seconds(flags.deadline_s)));
  char byte = 0;
  if (::read(shared.get(), &byte, 1) != 1 || byte != 'x') return error(Code::kDataLoss, "share_fd: wrong descriptor");
  return world.barrier(after_seconds(flags.deadline_s));
}

// One exchange of all ranks; returns whether rank 0 asked to stop.
using Exchange = std::function<Result<bool>(u64 round, bool stop)>;

Exchange gather_exchange(World& world, const WorldFlags& flags) {
  return [&](u64 round, bool stop) -> Result<bool> {
    const auto text = [&](int rank) { return fmt::format("rank {} round {}", rank, round); };
    WEFT_ASSIGN(const auto all,
                world.all_gather(text(world.rank()) + (stop ? "!" : "."), after_seconds(flags.deadline_s)));
    for (int rank = 0; rank < world.size(); ++rank) {
      const std::string& theirs = all[size_t(rank)];
      if (theirs.substr(0, theirs.size() - 1) != text(rank)) {
        return error(Code::kDataLoss, "round {}: rank {} sent '{}'", round, rank, theirs);
      }
    }
    return all[0].ends_with("!");
  };
}

// Sums over symmetric memory. Element 0 is 1 when rank 0 asks to stop, the others depend on rank and round.
Result<Exchange> reduce_exchange(World& world, const WorldFlags& flags) {
  constexpr i64 kElements = 577;
  struct Parts {
    Communicator comm;
    AllReduce reduce;
    std::unique_ptr<ThreadPool> pool;
    Tensor x = Tensor::zeros(DType::kF32, {kElements}), y = Tensor::zeros(DType::kF32, {kElements});
  };
  CommunicatorOptions options;
  options.arena_bytes = 1 << 20;
  options.deadline = after_seconds(flags.deadline_s).left();
  WEFT_ASSIGN(auto comm, Communicator::create(world, options));
  WEFT_ASSIGN(auto reduce, AllReduce::create(comm, {kElements, DType::kF32}));
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = 1, .cpus = {}, .spin = 200}));
  auto parts = std::make_shared<Parts>(Parts{comm, std::move(reduce), std::move(pool)});
  return Exchange([parts](u64 round, bool stop) -> Result<bool> {
    const auto value = [&](int rank, i64 i) { return float(rank + 1) * float((round + u64(i)) % 64); };
    auto* x = reinterpret_cast<float*>(parts->x.view.data);
    const auto* y = reinterpret_cast<const float*>(parts->y.view.data);
    for (i64 i = 1; i < kElements; ++i) x[i] = value(parts->comm.rank(), i);
    x[0] = stop ? 1 : 0;
    WEFT_TRY(parts->pool->run([&](Exec& exec) { return parts->reduce.run(exec, parts->x.view, parts->y.view); }));
    for (i64 i = 1; i < kElements; ++i) {
      const int ranks = parts->comm.size();
      const int total = ranks * (ranks + 1) / 2;
      const float sum = value(0, i) * float(total);  // small integers: exact
      if (y[i] != sum) return error(Code::kDataLoss, "round {}: element {} is {}, expected {}", round, i, y[i], sum);
    }
    return y[0] != 0;
  });
}

Status exchange_until_done(World& world, const WorldFlags& flags) {
  Exchange exchange = gather_exchange(world, flags);
  if (flags.exchange == "all_reduce") {
    WEFT_ASSIGN(exchange, reduce_exchange(world, flags));
  }
  const bool endless = flags.leave_rank >= 0 || flags.fail_rank >= 0 || flags.hang_rank >= 0;  // until that happens
  const auto start = Clock::now();
  u64 rounds = 0;
  for (bool last = false; !last; ++rounds) {
    const double age = seconds_since(start);
    const auto misbehaves = [&](int rank) { return world.rank() == rank && age > flags.seconds / 2; };
    if (misbehaves(flags.leave_rank)) return {};
    if (misbehaves(flags.fail_rank)) {
      const Status reason = error(Code::kAborted, "rank {} gave up on request", world.rank());
      world.fail(reason);
      return reason;
    }
    if (misbehaves(flags.hang_rank)) {
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));  // the point of --hang-rank
    }
    while (flags.busy && seconds_since(start) < age + 0.05) {
    }
    // Rank 0's clock decides, so that all do the same number of rounds.
    WEFT_ASSIGN(last, exchange(rounds, world.rank() == 0 && age > flags.seconds && !endless));
  }
  std::printf("rank %d of %d: %llu rounds\n", world.rank(), world.size(), static_cast<unsigned long long>(rounds));
  return {};
}

Status run_world(const WorldFlags& flags) {
  WEFT_ASSIGN(const WorldSpec spec, world_spec_from_environment());
  WEFT_ASSIGN(const auto spawned, maybe_spawn_local_ranks(spec));
  if (spawned && *spawned != 0) throw CLI::RuntimeError(*spawned);
  if (spawned) return {};
  if (spec.kind == WorldSpec::Kind::kAlone) return error(Code::kInvalidArgument, "selftest world: not in a world");
  WEFT_ASSIGN(const auto world, join_world(spec, after_seconds(flags.start_deadline_s)));
  std::printf("rank %d of %d: pid %d joined\n", world->rank(), world->size(), int(::getpid()));
  std::fflush(stdout);
  WEFT_TRY(check_share_fd(*world, flags));
  return exchange_until_done(*world, flags);
}

}  // namespace

void add_selftest(CLI::App& app) {
  CLI::App* selftest = app.add_subcommand("selftest", "Checks of an installation")->group("");
  selftest->require_subcommand(1);
  CLI::App* world = selftest->add_subcommand("world", "Join the world of the environment and exchange messages");
  auto flags = std::make_shared<WorldFlags>();
  world->add_option("--seconds", flags->seconds, "How long to exchange")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  world->add_option("--start-deadline", flags->start_deadline_s, "Seconds to wait for all ranks")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  world->add_option("--deadline", flags->deadline_s, "Seconds that one exchange may take")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  world->add_option("--hang-rank", flags->hang_rank, "This rank stops taking part at half time");
  world->add_option("--fail-rank", flags->fail_rank, "This rank reports a failure at half time");
  world->add_option("--leave-rank", flags->leave_rank, "This rank leaves in good order at half time");
  world->add_option("--exchange", flags->exchange, "What they exchange with")
      ->capture_default_str()
      ->check(CLI::IsMember({"all_reduce", "all_gather"}));
  world->add_flag("--busy", flags->busy, "Compute between exchanges");
  world->callback([flags] {
    const Status status = run_world(*flags);
    finish(status);
  });
}

}  // namespace weft
