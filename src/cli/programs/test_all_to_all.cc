// test_all_to_all: dispatch and combine between the ranks of a world, every byte and every sum checked.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/programs/all_to_all_flags.h"
#include "dist/expert_parallel/cuda_programs.h"

namespace weft {
namespace {

struct TestFlags : AllToAllFlags {
  i64 calls = 20;
  bool vary = false;
  bool bound = false;
  bool verbose = false;
};

void name_process(const TestFlags& flags, int rank, int ranks) {
  if (!flags.verbose) return;
  std::printf("rank %d of %d: pid %d joined\n", rank, ranks, int(::getpid()));
  std::fflush(stdout);
}

Result<ep::CheckCase> test_case(const TestFlags& flags) {
  WEFT_ASSIGN(ep::CheckCase check, flags.check_case());
  check.vary_tokens = flags.vary;
  check.bound = flags.bound;
  return check;
}

void report(const TestFlags& flags, int ranks, u64 dropped) {
  if (flags.json) {
    const nlohmann::ordered_json out = {{"test", "all_to_all"}, {"device", flags.device}, {"ranks", ranks},
                                        {"calls", flags.calls}, {"dropped", dropped},     {"passed", true}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print("{} ranks, {} calls: passed; {} pairs beyond the capacity\n", ranks, flags.calls, dropped);
  }
  std::fflush(stdout);
}

// The calls, then the first one again, which must give the same bits.
Status test(const TestFlags& flags, Communicator& comm, ThreadPool& pool) {
  name_process(flags, comm.rank(), comm.size());
  WEFT_ASSIGN(const ep::CheckCase check, test_case(flags));
  WEFT_ASSIGN(ep::SelfCheck self, ep::SelfCheck::create(comm, check));
  WEFT_ASSIGN(const u64 first, self.run(pool, 0));
  for (i64 call = 1; call < flags.calls; ++call) WEFT_TRY(self.run(pool, u64(call)).status());
  const u64 dropped = u64(self.op().dropped_pairs());
  WEFT_ASSIGN(const u64 again, self.run(pool, 0));
  if (first != again) return error(Code::kDataLoss, "rank {}: the same call gave other bits", comm.rank());
  WEFT_TRY(comm.exchange(first).status());  // all ranks have passed
  if (comm.rank() == 0) report(flags, comm.size(), dropped);
  return {};
}

Status test_on_gpu(const TestFlags& flags, World& world, std::chrono::nanoseconds deadline) {
#if defined(WEFT_HAVE_CUDA)
  name_process(flags, world.rank(), world.size());
  WEFT_ASSIGN(const ep::CheckCase check, test_case(flags));
  WEFT_ASSIGN(const i64 dropped, ep::test_cuda_all_to_all(world, check, flags.calls, deadline));
  if (world.rank() == 0) report(flags, world.size(), u64(dropped));
  return {};
#else
  (void)flags, (void)world, (void)deadline;
  return error(Code::kUnimplemented, "--device cuda: this build has no CUDA (configure with -DWEFT_CUDA=ON)");
#endif
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  CLI::App app("test_all_to_all: dispatch and combine of expert parallelism, checked");
  weft::TestFlags flags;
  flags.tokens = 64;
  flags.hidden = 256;
  flags.routing = "mixed";
  flags.declare(app);
  app.add_option("--calls", flags.calls, "Calls with routing of their own")
      ->capture_default_str()
      ->check(CLI::Range(weft::i64(1), weft::i64(1) << 40));
  app.add_flag("--vary", flags.vary, "Ranks and calls differ in their number of tokens");
  app.add_flag("--bound", flags.bound, "The number of tokens comes through bound_m");
  app.add_flag("--verbose", flags.verbose, "Every rank names its process");
  return weft::all_to_all_main(app, argc, argv, [&] {
    return weft::run_all_to_all_ranks(
        flags, {.cpu = [&](weft::Communicator& comm, weft::ThreadPool& pool) { return weft::test(flags, comm, pool); },
                .cuda = [&](weft::World& world, auto deadline) { return weft::test_on_gpu(flags, world, deadline); }});
  });
}
