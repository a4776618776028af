#include "device/emulator/language.h"
//
#include <fmt/format.h>

#include "device/emulator/test_kernels.cuh"
#include "device/emulator/testing.h"

namespace weft {
namespace {

using namespace emulated_kernels;

class Emulator : public ::testing::Test {
 protected:
  void SetUp() override {
    WEFT_NEED_EMULATOR();
    fault.record = &record;
    fault.claim = &claim;
    fault.rank = 3;
    fault.timeout_ns = 10'000'000'000;
  }
  // How many of `seeds` find something: in `found`, or counted by the kernels as an error.
  template <class Run>
  int faulty(int seeds, Run&& run) {
    int count = 0;
    for (int seed = 0; seed < seeds; ++seed) {
      memory = {};
      record = {};
      claim = 0;
      found = run(u64(seed));
      count += !found.empty() || memory.errors > 0;
    }
    return count;
  }

  Memory memory{};
  FaultRecord record{};
  u32 claim = 0;
  FaultSink fault;
  std::string found;
};

TEST_F(Emulator, SharedMemoryIsEveryCtasOwnAndBeginsAsGarbage) {
  const auto run = [&](auto kernel) {
    return [&, kernel](u64 seed) {
      return emulator::run({{.ctas = 5,
                             .threads = 128,
                             .shared_bytes = 512,
                             .kernel = [&, kernel] { kernel(&memory, int(blockIdx.x) * 1000); }}},
                           seed);
    };
  };
  EXPECT_EQ(faulty(20, run(turn_round<true>)), 0) << found;
  EXPECT_EQ(faulty(20, run(turn_round<false>)), 20) << "no barrier";
}

TEST_F(Emulator, LanesExchangeValues) {
  EXPECT_EQ(faulty(10,
                   [&](u64 seed) {
                     return emulator::run({{.ctas = 2, .threads = 96, .kernel = [&] { ask_lanes(&memory); }}}, seed);
                   }),
            0)
      << found;
  EXPECT_EQ(faulty(10, [&](u64 seed) { return emulator::run({{.kernel = [] { diverge(); }}}, seed); }), 10);
  EXPECT_NE(found.find("lanes of warp 0 meet at"), std::string::npos) << found;
}

TEST_F(Emulator, AReleaseOrAFenceComesBehindWhatItsThreadKnowsOf) {
  const auto run = [&](auto kernel) {
    return [&, kernel](u64 seed) {
      return emulator::run({{.stream = 0, .threads = 64, .kernel = [&, kernel] { kernel(&memory); }},
                            {.stream = 1, .threads = 64, .kernel = [&] { receive_words(&memory, fault); }}},
                           seed);
    };
  };
  EXPECT_EQ(faulty(200, run(send_words<Passing::kRelease>)), 0) << found;
  EXPECT_EQ(faulty(200, run(send_words<Passing::kFence>)), 0) << found;
  EXPECT_GT(faulty(200, run(send_words<Passing::kRelaxed>)), 20);
  EXPECT_GT(faulty(200, run(send_words<Passing::kReleaseWithoutBarrier>)), 20);
}

TEST_F(Emulator, HalvesOfAVectorComeInAnyOrder) {
  int torn = 0;
  EXPECT_EQ(faulty(100,
                   [&](u64 seed) {
                     bool seen = false;
                     std::string what =
                         emulator::run({{.stream = 0, .kernel = [&] { send_pair(&memory); }},
                                        {.stream = 1, .kernel = [&] { receive_pair(&memory, fault, &seen); }}},
                                       seed);
                     torn += seen;
                     return what;
                   }),
            0)
      << found;
  EXPECT_GT(torn, 5);
}

TEST_F(Emulator, AWaitInVainEndsByTheKernelsOwnDeadline) {
  EXPECT_EQ(faulty(3,
                   [&](u64 seed) {
                     return emulator::run(
                         {{.ctas = 2, .threads = 32, .kernel = [&] { receive_words(&memory, fault); }}}, seed);
                   }),
            3);
  EXPECT_EQ(found, "trap");
  EXPECT_EQ(record.complete, 1u);
  EXPECT_EQ(record.rank, 3u);
  EXPECT_EQ(record.wait.peer, 1);
  EXPECT_EQ(record.wait.offset, 64u);
  EXPECT_EQ(record.seen, 0u);
  EXPECT_GT(record.waited_ns, fault.timeout_ns);
}

TEST_F(Emulator, ABarrierThatNotAllReachIsFound) {
  EXPECT_EQ(
      faulty(3, [](u64 seed) { return emulator::run({{.threads = 64, .kernel = [] { miss_barrier(); }}}, seed); }), 3);
  EXPECT_EQ(found,
            "deadlock: stream 0, CTA 0, thread 0 waits for __syncthreads: stream 0, CTA 0, thread 32 waits for "
            "__syncthreads");
}

TEST_F(Emulator, KernelsOfAStreamOverlapOnlyWhereTheyAreAllowedTo) {
  const auto run = [&](auto kernel, bool early) {
    return [&, kernel, early](u64 seed) {
      return emulator::run({{.ctas = 2, .threads = 64, .kernel = [&] { fill(&memory); }},
                            {.ctas = 2, .threads = 64, .early = early, .kernel = [&, kernel] { kernel(&memory); }}},
                           seed);
    };
  };
  EXPECT_EQ(faulty(50, run(read_filled<true>, true)), 0) << found;
  EXPECT_EQ(faulty(50, run(read_filled<false>, false)), 0) << found;
  EXPECT_GT(faulty(50, run(read_filled<false>, true)), 10);
}

TEST_F(Emulator, ASeedIsOneInterleaving) {
  const auto order = [&](u64 seed) {
    std::string text;
    emulator::run({{.ctas = 3,
                    .threads = 64,
                    .kernel =
                        [&] {
                          __syncthreads();
                          text += fmt::format("{}.{} ", blockIdx.x, threadIdx.x);
                        }}},
                  seed);
    return text;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

}  // namespace
}  // namespace weft
