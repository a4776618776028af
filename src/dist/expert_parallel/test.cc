#include "dist/exchange/testing.h"
#include "dist/expert_parallel/cases.h"

namespace weft::ep {
namespace {
using namespace testing;

// Calls 0 to `calls` of a case on thread ranks; each rank's hashes.
std::vector<std::vector<u64>> run_case(int ranks, const CheckCase& check, int calls, int threads = 1) {
  std::vector<std::vector<u64>> hashes(static_cast<size_t>(ranks));
  expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto pool, small_pool(threads == 1 ? 1 + comm.rank() % 2 : threads));
    WEFT_ASSIGN(SelfCheck self, SelfCheck::create(comm, check));
    for (int call = 0; call < calls; ++call) {
      WEFT_ASSIGN(const u64 hash, self.run(*pool, u64(call)));
      hashes[size_t(comm.rank())].push_back(hash);
    }
    return {};
  }));
  return hashes;
}

TEST(ExpertParallel, EveryWorldTypeAndForm) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
      for (int form = 0; form < kForms; ++form) {
        SCOPED_TRACE(fmt::format("{} ranks, combine {}, form {}", ranks, int(mode), form));
        CheckCase check = small_case(50);
        check.options.combine = mode;
        check.map = form / 2 % 2 == 1;
        set_form(check, form);
        run_case(ranks, check, ranks == 8 ? 6 : 16);
      }
    }
  }
}

TEST(ExpertParallel, AnyNumberOfExpertsAndTokens) {
  for (const i64 experts : {1, 3, 8, 61}) {
    for (const i64 tokens : {1, 130}) {
      SCOPED_TRACE(fmt::format("{} experts, {} tokens", experts, tokens));
      CheckCase check = small_case(50);
      check.shape = {.max_num_tokens = tokens,
                     .num_experts = experts,
                     .experts_per_token = std::min<i64>(experts, 8),
                     .hidden_dim = 24};
      for (const int ranks : {2, 4}) run_case(ranks, check, 9);
    }
  }
}

TEST(ExpertParallel, DispatchCastsToFp8) {
  for (const DType from : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int ranks : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", dtype_name(from), ranks));
      CheckCase check = cast_case(from, 300);
      check.split = check.map = from == DType::kF16;
      check.bound = from == DType::kF32;
      run_case(ranks, check, 16);
    }
  }
  CheckCase groups = cast_case(DType::kBF16, 300);
  groups.shape.dp_size = 2;
  run_case(4, groups, 16);
}

TEST(ExpertParallel, MembersOfAGroupShareItsTokensAndGetTheSameBits) {
  for (const auto& [ranks, dp] :
       {std::pair(2, 2), std::pair(4, 2), std::pair(4, 4), std::pair(6, 3), std::pair(8, 2)}) {
    for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
      SCOPED_TRACE(fmt::format("{} ranks in groups of {}", ranks, dp));
      CheckCase check = small_case(50);
      check.shape.dp_size = dp;
      check.options.combine = mode;
      check.scale_block = 8;
      check.bound = mode == CombineMode::kExact;
      const auto hashes = run_case(ranks, check, 16);
      for (int r = 0; r < ranks; ++r) EXPECT_EQ(hashes[size_t(r)], hashes[size_t(r / dp * dp)]) << "rank " << r;
    }
  }
}

TEST(ExpertParallel, TheBitsDependNeitherOnThreadsNorFormNorRun) {
  for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
    CheckCase check = small_case(50);
    check.options.combine = mode;
    const auto once = run_case(3, check, 24, 3);
    EXPECT_EQ(once, run_case(3, check, 24, 2));
    check.split = check.map = check.packed = true;
    EXPECT_EQ(once, run_case(3, check, 24));
  }
}

TEST(ExpertParallel, RowsBeyondTheCapacityAreReportedOnEveryRankAndLeftOut) {
  CheckCase check = small_case(50);
  check.options.expert_capacity = 5;
  for (const int ranks : {1, 2, 4}) {
    for (const CombineMode mode : {CombineMode::kPreReduced, CombineMode::kExact}) {
      check.options.combine = mode;
      check.map = check.packed = mode == CombineMode::kExact;
      run_case(ranks, check, 20);
    }
  }
  expect_all_ok(run_thread_ranks(2, [&](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto pool, small_pool(2));
    CheckCase hot = check;
    hot.routing = Routing::kOneHot;
    hot.vary_tokens = hot.map = hot.packed = false;
    WEFT_ASSIGN(SelfCheck self, SelfCheck::create(comm, hot));
    WEFT_TRY(self.run(*pool, 0).status());
    EXPECT_GE(self.op().dropped_pairs(), 2 * 9 - 5);
    return {};
  }));
}

// A world whose operators are called by hand.
struct Hand {
  AllToAllShape shape{.max_num_tokens = 4, .num_experts = 3, .experts_per_token = 2, .hidden_dim = 8};
  Tensor x = Tensor::zeros(DType::kF32, {4, 8}), y, counts, weights = Tensor::zeros(DType::kF32, {4, 2}),
         out = Tensor::zeros(DType::kF32, {4, 8});
  std::vector<i32> indices = {0, 1, 1, 2, 2, 0, -1, -1};
  DispatchArgs to;
  CombineArgs from;
  Result<AllToAll> create(Communicator& comm, DType dtype = DType::kF32) {
    shape.rank = comm.rank();
    shape.world_size = comm.size();
    shape.hidden_dim_bytes = 32;
    WEFT_ASSIGN(AllToAll op, AllToAll::create(comm, shape, {.combine_dtype = dtype}));
    counts = Tensor::zeros(DType::kI32, {op.local_experts().size()});
    y = Tensor::zeros(dtype, {op.local_experts().size(), op.capacity(), 8});
    const TensorView ids = TensorView::dense(indices.data(), DType::kI32, {4, 2});
    to = {.x = x.view, .indices = ids, .out_num_tokens = counts.view};
    from = {.expert_y = y.view, .indices = ids, .weights = weights.view, .out = out.view};
    return op;
  }
};

TEST(ExpertParallel, BadInputIsReportedByAllAndTheNextCallWorks) {
  expect_all_ok(run_thread_ranks(3, [](Communicator& comm) -> Status {
    Hand hand;
    WEFT_ASSIGN(AllToAll op, hand.create(comm));
    WEFT_ASSIGN(auto pool, small_pool(2));
    const auto dispatch = [&] { return pool->run([&](Exec& exec) { return op.dispatch(exec, hand.to); }); };
    if (comm.rank() == 1) hand.indices[3] = 3;
    Status bad = dispatch();
    EXPECT_EQ(bad.code(), Code::kInvalidArgument);
    EXPECT_EQ(bad.message(), "dispatch: indices: 3 of rank 1 is not one of 3 experts");
    hand.indices[3] = 2;
    const u32 more = 6;
    if (comm.rank() == 2) hand.to.bound_m = &more;
    bad = dispatch();
    EXPECT_EQ(bad.code(), Code::kResourceExhausted);
    EXPECT_EQ(bad.message(), "dispatch: bound_m of rank 2: 2 tokens more than there are");
    EXPECT_EQ(hand.counts.view.as<i32>()[0], 6);  // two of each rank's tokens
    hand.to.bound_m = nullptr;
    WEFT_TRY(dispatch());
    const auto combine = [&](const CombineArgs& args) {
      return pool->run([&](Exec& exec) { return op.combine(exec, args); });
    };
    CombineArgs from = hand.from;  // refused by every rank alone: nothing waits
    from.indices = hand.from.indices.rows(0, 2);
    from.weights = hand.from.weights.rows(0, 2);
    from.out = hand.from.out.rows(0, 2);
    EXPECT_EQ(combine(from).message(), "combine: indices: the dispatch had 4 tokens, found i32 [2, 2]");
    from = hand.from;
    from.expert_y = hand.x.view;
    EXPECT_EQ(combine(from).message(), "combine: expert_y: the dispatch brought 6 rows, found f32 [4, 8]");
    return combine(hand.from);
  }));
}

TEST(ExpertParallel, MembersOfAGroupThatDifferAreNamed) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    Hand hand;
    hand.shape.dp_size = 2;
    WEFT_ASSIGN(AllToAll op, hand.create(comm));
    WEFT_ASSIGN(auto pool, small_pool(1));
    const u32 bound = comm.rank() == 0 ? 4 : 3;
    hand.to.bound_m = &bound;
    const Status odd = pool->run([&](Exec& exec) { return op.dispatch(exec, hand.to); });
    EXPECT_EQ(odd.message(), "dispatch: x: rank 1 has another number of tokens than its DP group");
    return {};
  }));
}

TEST(ExpertParallel, WrongArgumentsAreRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    Hand hand;
    hand.shape.dp_size = 3;
    EXPECT_EQ(hand.create(comm).status().message(),
              "expert parallel: dp_size: expected a divisor of world_size 2, found 3");
    hand.shape.dp_size = 1;
    hand.shape.experts_per_token = 4;
    EXPECT_EQ(hand.create(comm).status().message(), "expert parallel: experts_per_token: expected 1 to 3, found 4");
    hand.shape.experts_per_token = 2;
    EXPECT_EQ(hand.create(comm, DType::kU8).status().message(),
              "expert parallel: combine_dtype: dtype: expected f32, bf16 or f16, found u8");
    hand.shape.hidden_dim_bytes = 8;
    hand.shape.rank = comm.rank();
    hand.shape.world_size = comm.size();
    EXPECT_EQ(
        AllToAll::create(comm, hand.shape, {.cast_x_to_fp8 = true}).status().message(),
        "expert parallel: cast_x_to_fp8: expected hidden_dim_bytes = 8 and hidden_dim_scale_bytes = 4, found 8 and 0");
    hand.shape.hidden_dim_scale_bytes = 4;
    WEFT_ASSIGN(AllToAll casting, AllToAll::create(comm, hand.shape, {.cast_x_to_fp8 = true}));
    hand.shape.hidden_dim_scale_bytes = 0;
    hand.shape.max_num_tokens += comm.rank();
    expect_contains(hand.create(comm).status().message(), "differ in shape or options");
    hand.shape.max_num_tokens = 4;
    WEFT_ASSIGN(AllToAll op, hand.create(comm));
    if (comm.rank() != 0) return {};  // alone: nothing may wait
    WEFT_ASSIGN(auto pool, small_pool(1));
    const auto dispatch = [&](DispatchArgs args) {
      return pool->run([&](Exec& exec) { return op.dispatch(exec, args); }).message();
    };
    const auto combine = [&](CombineArgs args) {
      return pool->run([&](Exec& exec) { return op.combine(exec, args); }).message();
    };
    DispatchArgs to = hand.to;
    to.x = hand.x.view.rows(0, 3);
    EXPECT_EQ(dispatch(to), "dispatch: x: expected 4 rows of 32 bytes, found f32 [3, 8]");
    to = hand.to;
    to.expert_x = hand.y.view.rows(0, 1);
    EXPECT_EQ(dispatch(to), "dispatch: expert_x: expected dense [2, 8] rows of 32 bytes, found f32 [1, 8, 8]");
    to = hand.to;
    const auto cast = [&] { return pool->run([&](Exec& exec) { return casting.dispatch(exec, to); }).message(); };
    to.x_scale = hand.x.view;
    EXPECT_EQ(cast(), "dispatch: x_scale: found f32 [4, 8], but the cast of x makes the scales");
    to.x = TensorView::dense(hand.x.view.data, DType::kU8, {4, 8});
    EXPECT_EQ(cast(), "dispatch: x: dtype: expected f32, bf16 or f16, found u8");
    to = hand.to;
    std::vector<i32> many(10);
    to.indices = TensorView::dense(many.data(), DType::kI32, {5, 2});
    EXPECT_EQ(dispatch(to), "dispatch: indices: i32 [5, 2] are more than max_num_tokens = 4");
    CombineArgs from = hand.from;
    from.weights = hand.weights.view.rows(0, 3);
    EXPECT_EQ(combine(from), "combine: weights: expected f32 [4, 2], found f32 [3, 2]");
    from = hand.from;
    from.expert_y = hand.x.view.rows(0, 1);
    from.out = hand.x.view.rows(0, 2);
    EXPECT_EQ(combine(from), "combine: out: expected f32 [4, 8], found f32 [2, 8]");
    return {};
  }));
}

TEST(ExpertParallel, HalvesOutOfTurnAreRefusedAtOnce) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    Hand hand;
    WEFT_ASSIGN(AllToAll op, hand.create(comm));
    WEFT_ASSIGN(auto pool, small_pool(2));
    const auto on_team = [&](auto&& call) { return pool->run([&](Exec& exec) { return call(exec); }); };
    const auto send = [&](Exec& exec) { return op.dispatch_send(exec, hand.to); };
    const auto receive = [&](Exec& exec) { return op.dispatch_receive(exec, hand.to); };
    const auto back_send = [&](Exec& exec) { return op.combine_send(exec, hand.from); };
    const auto back_receive = [&](Exec& exec) { return op.combine_receive(exec, hand.from); };
    for (int call = 0; call < 3; ++call) {
      EXPECT_EQ(on_team(receive).message(), "dispatch: receive without its send");
      WEFT_TRY(on_team(send));
      EXPECT_EQ(on_team(send).message(), "dispatch: the last send still waits for its receive");
      EXPECT_EQ(on_team([&](Exec& exec) { return op.dispatch(exec, hand.to); }).message(),
                "dispatch: the last send still waits for its receive");
      WEFT_TRY(on_team(receive));
      EXPECT_EQ(on_team(back_receive).message(), "combine: receive without its send");
      WEFT_TRY(on_team(back_send));
      EXPECT_EQ(on_team(back_send).message(), "combine: the last send still waits for its receive");
      WEFT_TRY(on_team(back_receive));
    }
    return {};
  }));
}

TEST(ExpertParallel, CombineTakesNarrowerRowsThanPlanned) {
  for (const int ranks : {1, 2, 3}) {
    expect_all_ok(run_thread_ranks(ranks, [](Communicator& comm) -> Status {
      Hand hand;
      WEFT_ASSIGN(AllToAll op, hand.create(comm));
      WEFT_ASSIGN(auto pool, small_pool(2));
      for (i64 i = 0; i < 8; ++i) store(hand.weights.view, i, 0.5f);
      for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16, DType::kBF16}) {
        const Range local = op.local_experts();
        Tensor y = Tensor::zeros(dtype, {local.size(), op.capacity(), 8});
        const i64 of_expert = op.capacity() * 8;
        for (i64 e = 0; e < local.size(); ++e) {  // expert e answers e + 1
          for (i64 i = 0; i < of_expert; ++i) store(y.view, e * of_expert + i, float(1 + local.begin + e));
        }
        hand.from.expert_y = y.view;
        WEFT_TRY(pool->run([&](Exec& exec) -> Status {
          WEFT_TRY(op.dispatch(exec, hand.to));
          return op.combine(exec, hand.from);
        }));
        constexpr float kSums[] = {1.5f, 2.5f, 2.0f, 0.0f};
        for (i64 i = 0; i < 32; ++i) WEFT_TRY(expect_value("out", i, kSums[i / 8], load(hand.out.view, i)));
      }
      return {};
    }));
  }
  expect_all_ok(run_thread_ranks(1, [](Communicator& comm) -> Status {
    Hand hand;
    WEFT_ASSIGN(AllToAll op, hand.create(comm, DType::kBF16));
    WEFT_ASSIGN(auto pool, small_pool(1));
    const Tensor wide = Tensor::zeros(DType::kF32, {3, 4, 8});
    hand.from.expert_y = wide.view;
    EXPECT_EQ(pool->run([&](Exec& exec) { return op.combine(exec, hand.from); }).message(),
              "combine: expert_y: expected bf16 [3, 4, 8], found f32 [3, 4, 8]");
    return {};
  }));
}

TEST(ExpertParallel, AHangingRankIsNamed) {
  CommunicatorOptions options;
  options.deadline = std::chrono::milliseconds(300);
  const auto outcomes = run_thread_ranks(
      3,
      [](Communicator& comm) -> Status {
        WEFT_ASSIGN(SelfCheck self, SelfCheck::create(comm, small_case(50)));
        WEFT_ASSIGN(auto pool, small_pool(2));
        WEFT_TRY(self.run(*pool, 0).status());
        if (comm.rank() == 1) return {};  // never comes again
        return self.run(*pool, 1).status();
      },
      options);
  EXPECT_TRUE(outcomes[1].ok()) << outcomes[1].message();
  for (const int r : {0, 2}) {
    EXPECT_EQ(outcomes[size_t(r)].code(), Code::kDeadlineExceeded);
    expect_contains(outcomes[size_t(r)].message(), "waited 0.3 s for rank 1: expected call 2, seen 1");
  }
}

TEST(ExpertParallel, ThousandsOfCallsWithStragglers) {
  for (const int ranks : {2, 4, 8}) {
    const int calls = repeated_calls(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto pool, small_pool(1));
      CheckCase check = small_case(50);
      check.shape = {.max_num_tokens = 5, .num_experts = 9, .experts_per_token = 2, .hidden_dim = 16};
      WEFT_ASSIGN(SelfCheck whole, SelfCheck::create(comm, check));
      check.split = check.map = check.bound = true;
      check.options.combine = CombineMode::kExact;
      WEFT_ASSIGN(SelfCheck split, SelfCheck::create(comm, check));
      std::mt19937 delays(u32(comm.rank()));
      for (int call = 0; call < calls; ++call) {
        if (delays() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 200));
        WEFT_TRY((call % 2 == 0 ? whole : split).run(*pool, u64(call)).status());
      }
      return {};
    }));
  }
}

}  // namespace
}  // namespace weft::ep
