// The GPU's kernels themselves, on the emulator: every rank, CTA and thread under seeded schedules, words that arrive
// in any order, everything compared as on a GPU.
#include "device/emulator/language.h"
//
#include <array>
#include <barrier>
#include <thread>

#include "device/emulator/testing.h"
#include "dist/exchange/testing.h"
#include "dist/expert_parallel/cases.h"
#include "dist/expert_parallel/cuda_calls.cuh"

namespace weft::ep {
namespace {

// What a run is made of besides its case.
struct EmulatedRun {
  int ranks = 2;
  int max_ctas = 4;
  u64 seed = 1;
  bool early = true;                 // kernels begin while the one before drains
  int repeat = 1;                    // as CudaCheckOptions::repeat
  int absent = -1, absent_from = 0;  // a rank that does not come from that launch on
};

// All ranks of a world. A thread per rank brings its checked calls here; when all have come, the last one runs them.
class EmulatedWorld {
 public:
  EmulatedWorld(const CheckCase& check, const EmulatedRun& run)
      : case_(check), run_(run), barrier_(run.ranks, Complete{this}) {
    CallChecker::complete(case_);
  }

  // Calls [0, calls) on every rank; the first thing found.
  Status run(int calls, std::vector<std::vector<u64>>* hashes = nullptr) {
    for (int rank = 0; rank < run_.ranks; ++rank) {
      ranks_.push_back(std::make_unique<Rank>());
      WEFT_TRY(make(rank, *ranks_.back()));
    }
    for (auto& rank : ranks_)
      for (int peer = 0; peer < run_.ranks; ++peer)
        rank->place.peers.bases[peer] = reinterpret_cast<std::byte*>(ranks_[size_t(peer)]->arena.data());
    std::vector<Status> outcomes(size_t(run_.ranks));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < run_.ranks; ++rank)
      threads.emplace_back([&, rank] {
        Status& outcome = outcomes[size_t(rank)];
        for (int call = 0; call < calls && outcome.ok(); ++call) {
          const Result<u64> hash = ranks_[size_t(rank)]->checker->run(calls_of(rank), u64(call));
          if (!hash.ok()) outcome = hash.status().with_context(fmt::format("rank {}, call {}", rank, call));
          if (hash.ok() && hashes != nullptr) (*hashes)[size_t(rank)].push_back(*hash);
        }
        if (!outcome.ok()) barrier_.arrive_and_drop();
      });
    for (std::thread& thread : threads) thread.join();
    for (const Status& outcome : outcomes) WEFT_TRY(Status(outcome));
    return {};
  }

 private:
  struct Rank {
    CheckCase check;
    CudaWire wire;
    CudaBuffers buffers;
    std::vector<uint4> arena;
    std::vector<i32> places, begins, tokens;
    std::array<Tensor, 2> gathered;  // x, scales
    CudaReport report{};
    FaultRecord record{};
    u32 claim = 0;
    CudaCallPlace place{{}, wire, buffers, {}, nullptr, 0, {}};
    std::unique_ptr<CallChecker> checker;
    bool weights_known = false;
    std::vector<emulator::Launch> launches;
  };
  struct Complete {
    EmulatedWorld* world;
    void operator()() noexcept { world->run_launches(); }
  };

  Status make(int number, Rank& rank) {
    rank.check = case_;
    rank.check.shape.rank = number;
    rank.check.shape.world_size = run_.ranks;
    WEFT_ASSIGN(rank.wire, plan_cuda_wire(rank.check.shape, rank.check.options));
    i64 bytes = 0;
    rank.buffers = plan_cuda_buffers(rank.wire, 0, &bytes);
    rank.arena.resize(size_t(divide_up(bytes, 16)));
    const Range local{rank.wire.experts_begin(number), rank.wire.experts_begin(number + 1)};
    rank.places.assign(size_t(rank.wire.ranks * rank.wire.source_tokens * rank.wire.per_token), -77);
    rank.begins.assign(size_t(local.size() + 1), -77);
    rank.tokens.assign(size_t(rank.wire.ranks), 0);
    CudaPeers& peers = rank.place.peers;
    peers.rank = number;
    peers.ranks = run_.ranks;
    peers.fault.record = &rank.record;
    peers.fault.claim = &rank.claim;
    peers.fault.rank = u32(number);
    peers.fault.timeout_ns = 10'000'000'000;
    rank.place.route = {rank.places.data(), rank.begins.data(), rank.tokens.data()};
    rank.place.report = &rank.report;
    rank.place.max_ctas = run_.max_ctas;
    const i64 rows = gathered_rows(rank.wire);
    rank.gathered = {Tensor::zeros(DType::kU8, {rows, rank.check.shape.hidden_dim_bytes}),
                     Tensor::zeros(DType::kU8, {rows, rank.check.shape.hidden_dim_scale_bytes})};
    rank.place.gathered = {rank.gathered[0].view, rank.gathered[1].view};
    rank.checker = std::make_unique<CallChecker>(rank.check, local, rank.wire.capacity);
    return {};
  }

  CheckedCalls calls_of(int rank) {
    CheckedCalls calls;
    calls.dispatch = [this, rank](const DispatchArgs& args, const CheckedCalls::Dropped& dropped) {
      return dispatch(*ranks_[size_t(rank)], args, dropped);
    };
    calls.combine = [this, rank](const CombineArgs& args) { return combine(*ranks_[size_t(rank)], args); };
    calls.gathered = [this, rank] { return ranks_[size_t(rank)]->place.gathered; };
    return calls;
  }

  template <class Params, class Kernel>
  void add(Rank& rank, const Params& params, size_t shared_bytes, Kernel kernel) {
    rank.launches.push_back({.stream = rank.place.peers.rank,
                             .ctas = params.grid.ctas,
                             .threads = kCudaThreads,
                             .shared_bytes = shared_bytes,
                             .early = run_.early,
                             .kernel = [params, kernel] { kernel(params); }});
  }
  Status dispatch(Rank& rank, const DispatchArgs& args, const CheckedCalls::Dropped& dropped) {
    const u64 before = rank.report.dropped;
    for (int i = 0; i < run_.repeat; ++i)
      for (const int phases : case_.split ? std::vector{1, 2} : std::vector{3}) {
        const CudaDispatchParams p =
            dispatch_params(rank.place, case_.options, args, (phases & 1) != 0, (phases & 2) != 0);
        add(rank, p, size_t(p.grid.shared_bytes),
            dispatch_kernel_of(travelling_as(case_.options, args.x), p.grid.unroll));
      }
    rank.weights_known = !rank.wire.exact && args.weights.shape.rank() > 0;
    WEFT_TRY(run_all());
    if (i64(rank.report.dropped - before) == dropped.here * run_.repeat) return {};
    return error(Code::kDataLoss, "{} pairs beyond the capacity, {} reported", dropped.here * run_.repeat,
                 rank.report.dropped - before);
  }
  Status combine(Rank& rank, const CombineArgs& args) {
    for (int i = 0; i < run_.repeat; ++i)
      for (const int phases : case_.split ? std::vector{1, 2} : std::vector{3}) {
        const CudaCombineParams p =
            combine_params(rank.place, args, rank.weights_known, (phases & 1) != 0, (phases & 2) != 0);
        const Status added = with_element(args.expert_y.dtype, [&](auto element) -> Status {
          add(rank, p, 0, combine_kernel_of<decltype(element)>(rank.wire.exact, p.grid.unroll));
          return {};
        });
        WEFT_TRY(Status(added));
      }
    return run_all();
  }

  // Waits for all ranks and runs what they have brought.
  Status run_all() {
    barrier_.arrive_and_wait();
    if (found_.empty()) return {};
    for (const auto& other : ranks_) {  // the first to give up ends the run
      const FaultRecord& record = other->record;
      if (record.complete == 0) continue;
      return error(Code::kDeadlineExceeded, "{} of rank {}: epoch {} of rank {}, saw {} (CTA {}, lane {}, offset {})",
                   found_, record.rank, record.wait.epoch, record.wait.peer, record.seen, record.cta, record.lane,
                   record.wait.offset);
    }
    return error(Code::kAborted, "{}", found_);
  }
  void run_launches() {
    std::vector<emulator::Launch> all;
    for (auto& rank : ranks_) {
      const bool absent = rank->place.peers.rank == run_.absent && runs_ >= run_.absent_from;
      if (!absent) all.insert(all.end(), rank->launches.begin(), rank->launches.end());
      rank->launches.clear();
    }
    if (found_.empty() && !all.empty()) found_ = emulator::run(all, run_.seed * 1000 + u64(++runs_));
  }

  CheckCase case_;
  const EmulatedRun run_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::barrier<Complete> barrier_;
  std::string found_;
  int runs_ = 0;
};

using Hashes = std::vector<std::vector<u64>>;
Status run_case(const CheckCase& check, const EmulatedRun& run, int calls, Hashes* hashes = nullptr) {
  if (hashes != nullptr) hashes->assign(size_t(run.ranks), {});
  return EmulatedWorld(check, run).run(calls, hashes);
}

constexpr CombineMode kModes[] = {CombineMode::kPreReduced, CombineMode::kExact};

TEST(ExpertParallelKernels, EveryTypeAndForm) {
  WEFT_NEED_EMULATOR();
  for (const CombineMode mode : kModes)
    for (int form = 0; form < 2 * kForms; ++form) {
      CheckCase check = small_case(208);
      check.options.combine = mode;
      set_form(check, form % kForms);
      check.map = form >= kForms;
      const Status outcome = run_case(check, {.seed = u64(form)}, testing::long_tests() ? 16 : 3);
      ASSERT_TRUE(outcome.ok()) << "combine " << int(mode) << ", form " << form << ": " << outcome.message();
    }
}

TEST(ExpertParallelKernels, EveryWorldSize) {
  WEFT_NEED_EMULATOR();
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const Status outcome = run_case(small_case(48), {.ranks = ranks, .max_ctas = 3, .seed = u64(ranks)}, 2);
    ASSERT_TRUE(outcome.ok()) << ranks << " ranks: " << outcome.message();
  }
}

TEST(ExpertParallelKernels, AnyNumberOfExpertsAndTokens) {
  WEFT_NEED_EMULATOR();
  for (const i64 experts : {1, 3, 61})
    for (const i64 tokens : {1, 130, 300}) {  // masks of several words, CTAs that only send
      if (tokens > 130 && experts != 61 && !testing::long_tests()) continue;
      CheckCase check = small_case(32);
      check.map = tokens != 130;
      check.shape.max_num_tokens = tokens;
      check.shape.num_experts = experts;
      check.shape.experts_per_token = std::min<i64>(experts, 9);
      const Status outcome = run_case(check, {.max_ctas = 6, .seed = u64(tokens)}, 2);
      ASSERT_TRUE(outcome.ok()) << experts << " experts, " << tokens << " tokens: " << outcome.message();
    }
}

// Calls follow each other while the kernels before drain, so that buffers are used again as early as the credit allows;
// where all tokens go to one expert, its rank waits for nothing else.
TEST(ExpertParallelKernels, CallsOverlap) {
  WEFT_NEED_EMULATOR();
  for (const Routing routing : {Routing::kUniform, Routing::kOneHot})
    for (const CombineMode mode : kModes)
      for (u64 seed = 0; seed < (testing::long_tests() ? 50 : 2); ++seed) {
        CheckCase check = small_case(48);
        check.routing = routing;
        check.options.combine = mode;
        check.early = routing == Routing::kOneHot || seed % 2 == 1;
        check.split = seed % 3 == 2;
        check.map = seed % 2 == 1;
        if (routing == Routing::kOneHot) check.shape.experts_per_token = 1;
        const Status outcome = run_case(check, {.ranks = 3, .max_ctas = 3, .seed = seed, .repeat = 6}, 1);
        ASSERT_TRUE(outcome.ok()) << "routing " << int(routing) << ", combine " << int(mode) << ", seed " << seed
                                  << ": " << outcome.message();
      }
}

TEST(ExpertParallelKernels, MembersOfAGroupShareItsTokensAndGetTheSameBits) {
  WEFT_NEED_EMULATOR();
  for (const auto& [ranks, dp] : {std::pair(2, 2), std::pair(4, 2)})
    for (const CombineMode mode : kModes) {
      CheckCase check = small_case(208);
      check.shape.dp_size = dp;
      check.options.combine = mode;
      check.scale_block = 8;
      check.bound = check.map = mode == CombineMode::kExact;
      Hashes hashes;
      const Status outcome = run_case(check, {.ranks = ranks, .max_ctas = 3}, 3, &hashes);
      ASSERT_TRUE(outcome.ok()) << ranks << " ranks in groups of " << dp << ": " << outcome.message();
      for (int r = 0; r < ranks; ++r) EXPECT_EQ(hashes[size_t(r)], hashes[size_t(r / dp * dp)]) << "rank " << r;
    }
}

TEST(ExpertParallelKernels, DispatchCastsToFp8) {
  WEFT_NEED_EMULATOR();
  for (const DType from : {DType::kBF16, DType::kF16, DType::kF32}) {
    CheckCase check = cast_case(from, 272);
    check.split = from == DType::kF16;
    check.map = from != DType::kBF16;
    check.bound = from == DType::kF32;
    const Status outcome = run_case(check, {.seed = u64(from)}, 3);
    ASSERT_TRUE(outcome.ok()) << dtype_name(from) << ": " << outcome.message();
  }
}

TEST(ExpertParallelKernels, RowsBeyondTheCapacityAreCountedAndLeftOut) {
  WEFT_NEED_EMULATOR();
  for (const CombineMode mode : kModes) {
    CheckCase check = small_case(48);
    check.options.expert_capacity = 5;
    check.options.combine = mode;
    check.packed = check.map = mode == CombineMode::kExact;
    const Status outcome = run_case(check, {}, 5);
    ASSERT_TRUE(outcome.ok()) << "combine " << int(mode) << ": " << outcome.message();
  }
}

TEST(ExpertParallelKernels, TheBitsDependNeitherOnTheFormNorTheScheduleNorTheGrid) {
  WEFT_NEED_EMULATOR();
  for (const CombineMode mode : kModes) {
    CheckCase check = small_case(208);
    check.options.combine = mode;
    Hashes once, again;
    Status outcome = run_case(check, {.seed = 1}, 4, &once);
    ASSERT_TRUE(outcome.ok()) << outcome.message();
    check.split = check.packed = check.map = true;
    outcome = run_case(check, {.max_ctas = 7, .seed = 2, .early = false}, 4, &again);
    ASSERT_TRUE(outcome.ok()) << outcome.message();
    EXPECT_EQ(once, again);
  }
}

// A rank that does not come is named by the others, with the call.
TEST(ExpertParallelKernels, AMissingRankIsNamed) {
  WEFT_NEED_EMULATOR();
  for (const bool in_combine : {false, true}) {
    CheckCase check = small_case(48);
    check.routing = Routing::kUniform;
    check.vary_tokens = false;
    EmulatedRun run{.ranks = 3, .max_ctas = 3};
    run.absent = 2;
    run.absent_from = in_combine ? 3 : 2;  // dispatches and combines follow each other
    const Status outcome = run_case(check, run, 4);
    EXPECT_EQ(outcome.code(), Code::kDeadlineExceeded) << outcome.message();
    EXPECT_NE(outcome.message().find(": epoch 2 of rank 2"), std::string::npos) << outcome.message();
  }
}

}  // namespace
}  // namespace weft::ep
