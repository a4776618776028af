#include "ranks.h"

#include <charconv>
#include <cstring>

#include "comm/bootstrap/environment.h"

namespace weft::examples {

Result<Flags> parse_flags(int argc, char** argv, bool has_cuda) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--cuda") {
      if (!has_cuda) return error(Code::kUnimplemented, "--cuda: this build has no CUDA code; see `make gpu`");
      flags.cuda = true;
    } else if (flag == "--ranks") {
      const char* value = i + 1 < argc ? argv[++i] : "";
      const char* end = value + std::strlen(value);
      const auto [rest, fault] = std::from_chars(value, end, flags.ranks);
      if (fault != std::errc() || rest != end || flags.ranks < 1 || flags.ranks > 8) {
        return error(Code::kInvalidArgument, "--ranks: expected a number from 1 to 8, found '{}'", value);
      }
    } else {
      return error(Code::kInvalidArgument, "{}: the flags are --ranks N and --cuda", flag);
    }
  }
  return flags;
}

int run_ranks(const char* program, const Flags& flags, const std::function<Status(World&)>& work) {
  const auto report = [&](int rank, int size, const Status& outcome) {
    if (!outcome.ok()) {
      std::fprintf(stderr, "%s: rank %d: %s\n", program, rank, outcome.message().c_str());
    } else if (rank == 0) {
      std::printf("%s: %d %s, correct\n", program, size, size == 1 ? "rank" : "ranks");
    }
    return outcome.ok() ? 0 : 1;
  };

  const auto spec = world_spec_from_environment();
  if (!spec.ok()) return report(0, 1, spec.status());
  if (spec->kind != WorldSpec::Kind::kAlone) {  // a rank among processes
    auto world = join_world(*spec, Deadline::after(std::chrono::seconds(30)));
    return report(spec->rank, spec->size, world.ok() ? work(**world) : world.status());
  }

  auto worlds = make_thread_worlds(flags.ranks);
  std::vector<Status> outcomes{size_t(flags.ranks)};
  std::vector<std::thread> threads;
  for (int r = 0; r < flags.ranks; ++r) {
    threads.emplace_back([&, r] {
      World& world = *worlds[size_t(r)];
      outcomes[size_t(r)] = work(world);
      if (!outcomes[size_t(r)].ok()) world.fail(outcomes[size_t(r)]);  // nobody waits for this rank any more
    });
  }
  for (std::thread& thread : threads) thread.join();
  int exit_status = 0;
  for (int r = flags.ranks - 1; r >= 0; --r) exit_status |= report(r, flags.ranks, outcomes[size_t(r)]);
  return exit_status;
}

}  // namespace weft::examples
