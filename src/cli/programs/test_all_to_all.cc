// test_all_to_all: dispatch and combine between the ranks of a world, every byte and every sum checked.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/programs/all_to_all_flags.h"

namespace weft {
namespace {

struct TestFlags : AllToAllFlags {
  i64 calls = 20;
  bool vary = false;
  bool bound = false;
  bool verbose = false;
};

// The calls, then the first one again, which must give the same bits.
Status test(const TestFlags& flags, Communicator& comm, ThreadPool& pool) {
  if (flags.verbose) {
    std::printf("rank %d of %d: pid %d joined\n", comm.rank(), comm.size(), int(::getpid()));
    std::fflush(stdout);
  }
  WEFT_ASSIGN(ep::CheckCase check, flags.check_case());
  check.vary_tokens = flags.vary;
  check.bound = flags.bound;
  WEFT_ASSIGN(ep::SelfCheck self, ep::SelfCheck::create(comm, check));
  WEFT_ASSIGN(const u64 first, self.run(pool, 0));
  for (i64 call = 1; call < flags.calls; ++call) WEFT_TRY(self.run(pool, u64(call)).status());
  const u64 dropped = u64(self.op().dropped_pairs());
  WEFT_ASSIGN(const u64 again, self.run(pool, 0));
  if (first != again) return error(Code::kDataLoss, "rank {}: the same call gave other bits", comm.rank());
  WEFT_TRY(comm.exchange(first).status());  // all ranks have passed
  if (comm.rank() != 0) return {};
  if (flags.json) {
    const nlohmann::ordered_json out = {{"test", "all_to_all"}, {"device", "cpu"},    {"ranks", comm.size()},
                                        {"calls", flags.calls}, {"dropped", dropped}, {"passed", true}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print("{} ranks, {} calls: passed; {} pairs beyond the capacity\n", comm.size(), flags.calls, dropped);
  }
  std::fflush(stdout);
  return {};
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
        flags, [&](weft::Communicator& comm, weft::ThreadPool& pool) { return weft::test(flags, comm, pool); });
  });
}
