#include "device/cuda/testing.cuh"
#include "dist/expert_parallel/cases.h"
#include "dist/expert_parallel/cuda_testing.cuh"

namespace weft::ep {
namespace {

using Hashes = std::vector<std::vector<u64>>;  // by rank, of each call

// What only another process has seen.
Status fetch_hashes(World& world, Hashes& hashes) {
  const auto& mine = hashes[size_t(world.rank())];
  WEFT_ASSIGN(const auto all, world.all_gather(std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * 8),
                                               Deadline::after(std::chrono::seconds(60))));
  if (world.is_threads()) return {};
  for (size_t rank = 0; rank < all.size(); ++rank) {
    hashes[rank].resize(all[rank].size() / 8);
    std::memcpy(hashes[rank].data(), all[rank].data(), all[rank].size());
  }
  return {};
}

// Calls [0, calls) of a case on `ranks` ranks.
Status run_case(int ranks, const CheckCase& check, int calls, const CudaCheckOptions& options = {},
                Hashes* hashes = nullptr) {
  if (hashes != nullptr) hashes->assign(size_t(ranks), {});
  return run_gpu_ranks(ranks, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto self, CudaCheck::create(comm, stream, check, options));
    for (int call = 0; call < test_calls(calls); ++call) {
      const auto hash = self->run(u64(call));
      if (!hash.ok()) return hash.status().with_context(fmt::format("call {}", call));
      if (hashes != nullptr) (*hashes)[size_t(comm.rank())].push_back(*hash);
    }
    return hashes != nullptr ? fetch_hashes(comm.world(), *hashes) : Status();
  });
}

TEST(CudaExpertParallel, EveryTypeAndForm) {
  WEFT_NEED_GPUS(1);
  for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
    for (int form = 0; form < 2 * kForms; ++form) {
      CheckCase check = small_case(208);
      check.options.combine = mode;
      set_form(check, form % kForms);
      check.map = form >= kForms;
      const Status outcome = run_case(test_ranks(), check, 16);
      ASSERT_TRUE(outcome.ok()) << "combine " << int(mode) << ", form " << form << ": " << outcome.message();
    }
  }
}

TEST(CudaExpertParallel, EveryWorldSize) {
  WEFT_NEED_GPUS(1);
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8}) {
    if (ranks > gpu_ranks().most_ranks(8)) continue;
    const Status outcome = run_case(ranks, small_case(208), 16);
    ASSERT_TRUE(outcome.ok()) << ranks << " ranks: " << outcome.message();
  }
}

TEST(CudaExpertParallel, AnyNumberOfExpertsAndTokens) {
  WEFT_NEED_GPUS(1);
  for (const i64 experts : {1, 3, 61}) {
    for (const i64 tokens : {1, 130, 1100}) {  // masks of several words, CTAs that only send
      CheckCase check = small_case(208);
      check.shape = {.max_num_tokens = tokens,
                     .num_experts = experts,
                     .experts_per_token = std::min<i64>(experts, 9),
                     .hidden_dim = 32};
      check.map = experts == 3;
      const Status outcome = run_case(test_ranks(), check, 9);
      ASSERT_TRUE(outcome.ok()) << experts << " experts, " << tokens << " tokens: " << outcome.message();
    }
  }
}

// The sizes that matter: DeepSeek-V3's, fp8 with scales of 128.
TEST(CudaExpertParallel, WideRows) {
  WEFT_NEED_GPUS(1);
  for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
    CheckCase check;
    check.shape = {.max_num_tokens = 128, .num_experts = 256, .experts_per_token = 8, .hidden_dim = 7168};
    check.options.combine = mode;
    check.options.expert_capacity = 128;
    check.x_dtype = DType::kU8;
    check.scale_block = 128;
    check.routing = Routing::kMixed;
    check.vary_tokens = true;
    for (const bool map : {false, true}) {
      check.map = map;
      const Status outcome = run_case(test_ranks(), check, 6, {.graph = false, .repeat = 3, .late_ns = 20'000});
      ASSERT_TRUE(outcome.ok()) << "combine " << int(mode) << ", map " << map << ": " << outcome.message();
    }
  }
}

TEST(CudaExpertParallel, MembersOfAGroupShareItsTokensAndGetTheSameBits) {
  WEFT_NEED_GPUS(1);
  for (const auto& [ranks, dp] : {std::pair(2, 2), std::pair(4, 2), std::pair(4, 4)}) {
    if (ranks > gpu_ranks().most_ranks(4)) continue;
    for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
      CheckCase check = small_case(208);
      check.shape.dp_size = dp;
      check.options.combine = mode;
      check.scale_block = 8;
      check.bound = check.map = mode == CombineMode::kExact;
      Hashes hashes;
      const Status outcome = run_case(ranks, check, 16, {}, &hashes);
      ASSERT_TRUE(outcome.ok()) << ranks << " ranks in groups of " << dp << ": " << outcome.message();
      if (gpu_ranks().rank() >= ranks) continue;
      for (int r = 0; r < ranks; ++r) EXPECT_EQ(hashes[size_t(r)], hashes[size_t(r / dp * dp)]) << "rank " << r;
    }
  }
}

// bf16, f16 and f32 on their way to fp8: the bytes that quantise_fp8_reference() gives.
TEST(CudaExpertParallel, DispatchCastsToFp8) {
  WEFT_NEED_GPUS(1);
  for (const DType from : {DType::kBF16, DType::kF16, DType::kF32}) {
    CheckCase check = cast_case(from, 272);
    check.split = from == DType::kF16;
    check.bound = from == DType::kF32;
    for (const bool map : {false, true}) {
      check.map = map;
      const Status outcome = run_case(test_ranks(), check, 8);
      ASSERT_TRUE(outcome.ok()) << dtype_name(from) << ", map " << map << ": " << outcome.message();
    }
  }
}

TEST(CudaExpertParallel, RowsBeyondTheCapacityAreCountedAndLeftOut) {
  WEFT_NEED_GPUS(1);
  for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
    CheckCase check = small_case(208);
    check.options.expert_capacity = 5;
    check.options.combine = mode;
    check.packed = check.map = mode == CombineMode::kExact;
    WEFT_ASSERT_OK(run_case(test_ranks(), check, 20));
  }
  CheckCase hot = small_case(208);
  hot.options.expert_capacity = 5;
  hot.routing = Routing::kOneHot;
  hot.vary_tokens = false;
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto self, CudaCheck::create(comm, stream, hot));
    WEFT_TRY(self->run(0).status());
    const Status found = self->op().report();
    const std::string text = "dispatch: expert 9: 18 rows came, capacity 5; ";
    if (comm.rank() == 1 && (found.code() != Code::kResourceExhausted || !found.message().starts_with(text)))
      return error(Code::kAborted, "expected '{}...', found '{}'", text, found.message());
    return {};
  }));
}

TEST(CudaExpertParallel, GraphsReplayWithChangingRouting) {
  WEFT_NEED_GPUS(1);
  CheckCase check = small_case(208);
  check.bound = true;  // tensors of one size: one graph
  check.scale_block = 16;
  Hashes replayed, once;
  WEFT_ASSERT_OK(run_case(test_ranks(), check, 1000, {.graph = true}, &replayed));
  WEFT_ASSERT_OK(run_case(test_ranks(), check, 100, {.graph = true, .repeat = 5, .late_ns = 5'000}, &once));
  for (size_t r = 0; r < once.size(); ++r)
    EXPECT_TRUE(std::equal(once[r].begin(), once[r].end(), replayed[r].begin())) << "rank " << r;
}

TEST(CudaExpertParallel, TheBitsDependNeitherOnTheFormNorTheRun) {
  WEFT_NEED_GPUS(1);
  for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
    CheckCase check = small_case(208);
    check.options.combine = mode;
    Hashes once, again;
    WEFT_ASSERT_OK(run_case(test_ranks(), check, 24, {}, &once));
    check.split = check.packed = check.map = true;
    WEFT_ASSERT_OK(run_case(test_ranks(), check, 24, {.graph = false, .repeat = 2, .late_ns = 50'000}, &again));
    EXPECT_EQ(once, again);
  }
}

TEST(CudaExpertParallel, RunsTensOfThousandsOfCalls) {
  WEFT_NEED_GPUS(1);
  CheckCase check = small_case(208);
  check.bound = true;
  WEFT_ASSERT_OK(run_case(test_ranks(), check, 40, {.graph = true, .repeat = 1000}));
}

TEST(CudaExpertParallel, WrongIndicesAndBoundsAreReported) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    const AllToAllShape shape{.max_num_tokens = 4,
                              .num_experts = 3,
                              .experts_per_token = 2,
                              .rank = comm.rank(),
                              .world_size = comm.size(),
                              .hidden_dim = 8,
                              .hidden_dim_bytes = 16};
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, shape));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    WEFT_CUDA_TRY(cudaMemset(memory.data(), 0, 4096));
    std::byte* data = memory.as<std::byte>();
    const auto view = [&](i64 at, DType dtype, const Shape& s) {
      return TensorView::dense(data + at, dtype, s, DeviceKind::kCuda);
    };
    const i32 indices[] = {0, 1, 1, 2, 2, comm.rank() == 1 ? 3 : 0, -1, -1};
    const u32 bound = comm.rank() == 0 ? 6 : 4;
    WEFT_CUDA_TRY(cudaMemcpy(data, indices, sizeof(indices), cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaMemcpy(data + 64, &bound, sizeof(bound), cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));  // copies from pageable memory may return before they are done
    const DispatchArgs to{.x = view(128, DType::kBF16, {4, 8}),
                          .indices = view(0, DType::kI32, {4, 2}),
                          .bound_m = reinterpret_cast<u32*>(data + 64),
                          .out_num_tokens = view(256, DType::kI32, {op.local_experts().size()})};
    WEFT_TRY(op.dispatch(stream, to));
    WEFT_TRY(comm.synchronize(stream));
    const std::string wanted = comm.rank() == 0 ? "dispatch: bound_m of rank 0: 2 tokens more than there are"
                                                : "dispatch: indices: 3 of rank 1 is not one of 3 experts";
    if (op.report().message() != wanted)
      return error(Code::kAborted, "expected '{}', found '{}'", wanted, op.report().message());
    i32 counts[2] = {};
    WEFT_CUDA_TRY(cudaMemcpy(counts, data + 256, sizeof(i32) * size_t(op.local_experts().size()), cudaMemcpyDefault));
    const i32 first = comm.rank() == 0 ? 3 : 4;  // expert 0 of ranks 0 (twice) and 1; expert 2 of both, twice
    if (counts[0] != first) return error(Code::kAborted, "expected {} rows, found {}", first, counts[0]);

    DispatchArgs bad = to;
    bad.x = view(130, DType::kBF16, {4, 8});
    DispatchArgs mapped = to;
    mapped.row_map = view(768, DType::kI32, {op.local_experts().size(), op.capacity()});
    CombineArgs from{.expert_y = view(512, DType::kBF16, {op.local_experts().size(), 8, 8}),
                     .indices = view(0, DType::kI32, {3, 2}),
                     .weights = view(1024, DType::kF32, {3, 2}),
                     .out = view(2048, DType::kBF16, {3, 8})};
    AllToAllShape other = shape;
    other.hidden_dim = 9;
    const Status early = op.dispatch_receive(stream, to);
    WEFT_TRY(op.dispatch_send(stream, to));
    const Status again = op.dispatch_send(stream, to);
    WEFT_TRY(op.dispatch_receive(stream, to));
    for (const auto& [status, text] : std::vector<std::pair<Status, std::string>>{
             {early, "dispatch: receive without its send"},
             {again, "dispatch: the last send still waits for its receive"},
             {op.dispatch(stream, bad), "x: address and row stride"},
             {op.dispatch(stream, mapped), "row_map, row_experts where map_rows = false"},
             {op.combine(stream, from), "the dispatch had 4 rows"},
             {CudaAllToAll::create(comm, other).status(), "hidden_dim"}})
      if (status.code() != Code::kInvalidArgument || status.message().find(text) == std::string::npos)
        return error(Code::kAborted, "expected a complaint about '{}', found '{}'", text, status.message());
    return comm.synchronize(stream);
  }));
}

// Rank 1 never calls. A trap ends the context, so this runs in a process of its own.
[[noreturn]] void wait_for_a_hung_peer() {
  const CudaCommunicatorOptions options{.deadline = std::chrono::milliseconds(300)};
  const Status outcome = run_gpu_ranks(
      2,
      [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
        WEFT_ASSIGN(const auto self, CudaCheck::create(comm, stream, small_case(208)));
        WEFT_TRY(self->run(0).status());
        if (comm.rank() == 1) return comm.world().barrier(Deadline::after(std::chrono::seconds(20)));
        return self->run(1).status();
      },
      options);
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  std::_Exit(outcome.code() == Code::kDeadlineExceeded ? 0 : 1);
}

TEST(CudaExpertParallelDeathTest, AHungPeerIsNamed) {
  WEFT_NEED_RANK_THREADS();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  // Two waits expire at once: for rank 1's indices, of whose half there are none yet, and for the word that it has
  // begun its second call, which says 1.
  EXPECT_EXIT(wait_for_a_hung_peer(), testing::ExitedWithCode(0),
              "rank 0: rank 0: dispatch: waited 0.3[0-9] s for epoch 2 of rank 1, saw [01]");
}

}  // namespace
}  // namespace weft::ep
