// `weft selftest world`: ranks that talk to each other for a while, and on request misbehave. Hidden; for the tests.
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "cli/commands.h"
#include "comm/bootstrap/launcher.h"
#include "comm/bootstrap/process_world.h"

namespace weft {
namespace {

struct WorldFlags {
  double seconds = 0.2;
  double start_deadline_s = 60;
  double deadline_s = 10;
  int hang_rank = -1, fail_rank = -1, leave_rank = -1;
  bool busy = false;
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

Status gather_until_done(World& world, const WorldFlags& flags) {
  const auto start = Clock::now();
  u64 rounds = 0;
  for (bool last = false; !last; ++rounds) {
    const double age = seconds_since(start);
    if (age > flags.seconds / 2 && world.rank() == flags.leave_rank) return {};
    if (age > flags.seconds / 2 && world.rank() == flags.fail_rank) {
      const Status reason = error(Code::kAborted, "rank {} gave up on request", world.rank());
      world.fail(reason);
      return reason;
    }
    if (age > flags.seconds / 2 && world.rank() == flags.hang_rank) {
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));  // the point of --hang-rank
    }
    while (flags.busy && seconds_since(start) < age + 0.05) {
    }
    // Rank 0's clock decides, so that all do the same number of rounds.
    const std::string mine = fmt::format("{} {} {}", world.rank(), rounds, age > flags.seconds);
    WEFT_ASSIGN(const auto all, world.all_gather(mine, after_seconds(flags.deadline_s)));
    for (int rank = 0; rank < world.size(); ++rank) {
      const std::string& theirs = all[size_t(rank)];
      if (theirs.substr(0, theirs.rfind(' ')) != fmt::format("{} {}", rank, rounds)) {
        return error(Code::kDataLoss, "round {}: rank {} sent '{}'", rounds, rank, theirs);
      }
    }
    last = all[0].ends_with("true");
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
  return gather_until_done(*world, flags);
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
  world->add_flag("--busy", flags->busy, "Compute between exchanges");
  world->callback([flags] {
    const Status status = run_world(*flags);
    finish(status);
  });
}

}  // namespace weft
