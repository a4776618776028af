#include <random>

#include "dist/ag_moe/ag_moe.cuh"
#include "dist/exchange/cuda_moe_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// m tokens over all ranks, n of rank 0 (rank r has 8 r less, at least 0); `pad` elements between rows of x and y.
struct Case {
  i64 m, n, pad = 0;
};
constexpr i64 kMaxM = 1100, kMaxN = 424, kPad = 8, kPerToken = 3, kExperts = 5;

// Rows [0, last offset) of y must be their token's row of x times their expert's weight, the others untouched.
struct GroupedCheck {
  const void* y;
  i64 stride;
  int rows, n, k, experts, rank;
  const i32 *map, *offsets;
};
template <class T>
__global__ void check_grouped_kernel(const GroupedCheck c, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < i64(c.rows) * c.n; i += i64(gridDim.x) * blockDim.x) {
    const int row = int(i / c.n), column = int(i % c.n);
    const T& seen = static_cast<const T*>(c.y)[row * c.stride + column];
    u16 bits;
    memcpy(&bits, &seen, sizeof(bits));
    if (row >= c.offsets[c.experts]) {
      if (bits != 0xffff) atomicAdd(wrong, 1u);
      continue;
    }
    int expert = 0;
    while (c.offsets[expert + 1] <= row) ++expert;
    float sum = 0;
    for (int j = 0; j < c.k; ++j)
      sum += element_of(*call, 0, 0, c.map[row], j) * element_of(*call, 1, c.rank, i64(expert) * c.n + column, j);
    if (!(float(seen) == sum)) atomicAdd(wrong, 1u);
  }
}

// One rank's calls with new x, w and routing each, compared with the exact product on the device.
class CheckedCalls {
 public:
  static Result<CheckedCalls> create(CudaCommunicator& comm, i64 k, const char* variant, i64 experts = kExperts,
                                     DType dtype = DType::kBF16) {
    CheckedCalls calls(comm, k, experts, dtype);
    WEFT_ASSIGN(calls.counter_, CallCounter::create());
    WEFT_ASSIGN(calls.routing_, CudaRouting::create(kMaxM, kPerToken, experts));
    WEFT_TRY(with_fused_element(dtype, [](auto element) {
      const void* kernel = reinterpret_cast<const void*>(check_grouped_kernel<decltype(element)>);
      return prepare_kernel("test kernels", kernel, 0);
    }));
    WEFT_ASSIGN(calls.x_, DeviceBuffer::create(size_t(kMaxM * (k + kPad)) * 2));
    WEFT_ASSIGN(calls.w_, DeviceBuffer::create(size_t(experts * kMaxN * k) * 2));
    WEFT_ASSIGN(calls.y_, DeviceBuffer::create(size_t(kMaxM * kPerToken * (kMaxN + kPad)) * 2));
    WEFT_TRY(set_once(calls.y_));
    WEFT_ASSIGN(auto op, CudaAgMoe::create(comm, {.max_m = kMaxM, .k = k, .dtype = dtype}, {.variant = variant}));
    calls.op_ = std::make_unique<CudaAgMoe>(std::move(op));
    return std::move(calls);
  }
  Status enqueue(cudaStream_t stream, const Case& c) {
    const int rank = comm_->rank(), ranks = comm_->size();
    const Range tokens = split_range(c.m, ranks, rank);
    const i64 n = std::max<i64>(0, c.n - 8 * rank), y_stride = n + c.pad, rows = c.m * kPerToken;
    WEFT_TRY(routing_.enqueue(stream, c.m, counter_.call()));
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, y_.bytes(), stream));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, x_.data(), k_ + c.pad, tokens, k_, 0, 0));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, w_.data(), k_, {0, experts_ * n}, k_, 1, rank));
    WEFT_TRY(op_->run(stream, {.x = matrix_of(dtype_, x_.data(), tokens.size(), k_, k_ + c.pad),
                               .m = c.m,
                               .map = routing_.map(c.m),
                               .offsets = routing_.offsets(),
                               .w = experts_of(dtype_, w_.data(), experts_, n, k_),
                               .y = matrix_of(dtype_, y_.data(), rows, n, y_stride)}));
    const GroupedCheck check{y_.data(),
                             y_stride,
                             int(rows),
                             int(n),
                             int(k_),
                             int(experts_),
                             rank,
                             routing_.map(c.m).as<const i32>(),
                             routing_.offsets().as<const i32>()};
    if (n > 0)
      WEFT_TRY(with_fused_element(dtype_, [&](auto element) {
        return launch("check", check_grouped_kernel<decltype(element)>, {.grid = 264, .block = 256}, stream, check,
                      counter_.call(), counter_.wrong());
      }));
    return counter_.next(stream);
  }
  Status verify(cudaStream_t stream, u32 calls) const { return counter_.verify(*comm_, stream, calls); }

 private:
  CheckedCalls(CudaCommunicator& comm, i64 k, i64 experts, DType dtype)
      : comm_(&comm), k_(k), experts_(experts), dtype_(dtype) {}
  CudaCommunicator* comm_;
  i64 k_, experts_;
  DType dtype_;
  CallCounter counter_;
  CudaRouting routing_;
  std::unique_ptr<CudaAgMoe> op_;
  DeviceBuffer x_, w_, y_;
};

class CudaAgMoeTest : public testing::TestWithParam<const char*> {};

TEST_P(CudaAgMoeTest, IsExactForEveryRoutingAndUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    for (const auto& [k, experts] : {std::pair<i64, i64>{8, 5}, {72, 40}, {1096, 3}}) {
      WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, k, GetParam(), experts));
      u32 count = 0;
      for (const Case& c : {Case{1, 8}, Case{3, 16}, Case{0, 64}, Case{130, 264, kPad}, Case{257, 408}, Case{515, 424},
                            Case{1024, 400, kPad}, Case{kMaxM, 200}}) {
        WEFT_TRY(calls.enqueue(stream, c));
        const Status outcome = calls.verify(stream, ++count);
        if (!outcome.ok()) return outcome.with_context(fmt::format("m {} n {} k {}, {} experts", c.m, c.n, k, experts));
      }
    }
    return {};
  }));
}

TEST_P(CudaAgMoeTest, F16IsExactToo) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    for (const auto& [k, experts] : {std::pair<i64, i64>{72, 40}, {520, 3}}) {
      WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, k, GetParam(), experts, DType::kF16));
      WEFT_TRY(calls.enqueue(stream, {300, 200}));
      WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                    for (const Case& c : {Case{3, 16}, Case{130, 264, kPad}, Case{515, 424}, Case{kMaxM, 200}})
                      WEFT_TRY(calls.enqueue(stream, c));
                    return {};
                  }));
      for (int replay = 0; replay < 9; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
      WEFT_TRY(calls.verify(stream, 37));
    }
    return {};
  }));
}

TEST_P(CudaAgMoeTest, GraphsReplayWithNewInputsAndRoutings) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 136, GetParam()));
    WEFT_TRY(calls.enqueue(stream, {300, 200}));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {  // an odd number of calls
                  for (const Case& c : {Case{600, 104}, Case{7, 40}, Case{512, 128}})
                    WEFT_TRY(calls.enqueue(stream, c));
                  return {};
                }));
    for (int replay = 0; replay < 200; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.enqueue(stream, {kMaxM, 96}));
    return calls.verify(stream, 602);
  }));
}

TEST_P(CudaAgMoeTest, LateRanksDoNotMatter) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 72, GetParam()));
    std::mt19937 random(u32(comm.rank()) + 1);
    for (int i = 0; i < 200; ++i) {
      if (random() % 3 == 0) WEFT_TRY(delay(stream, random() % 300'000));
      WEFT_TRY(calls.enqueue(stream, {1 + i64(i) * 131 % kMaxM, 8 + i64(i) * 40 % 200}));
    }
    return calls.verify(stream, 200);
  }));
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaAgMoeTest, testing::Values("split", "push", "auto"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaAgMoe, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaAgMoe::create(comm, {.max_m = 16, .k = 16}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* d = memory.as<std::byte>();
    const auto ints = [&](i64 count) { return TensorView::dense(d, DType::kI32, {count}, DeviceKind::kCuda); };
    const CudaAgMoeArgs good{.x = bf16_matrix(d, 4, 16),
                             .m = 8,
                             .map = ints(16),
                             .offsets = ints(4),
                             .w = bf16_experts(d, 3, 8, 16),
                             .y = bf16_matrix(d, 16, 8)};
    const auto changed = [&](auto change) {
      CudaAgMoeArgs args = good;
      change(args);
      return op.run(stream, args);
    };
    return expect_refused({
        {changed([](auto& a) { a.m = 18; }), "max_m = 16"},
        {changed([](auto& a) { a.m = 10; }), "x"},
        {changed([&](auto& a) { a.x = bf16_matrix(d + 2, 4, 16); }), "x: address"},
        {changed([](auto& a) { a.map = {}; }), "map"},
        {changed([&](auto& a) { a.map = ints(15); }), "map"},
        {changed([&](auto& a) { a.offsets = ints(7); }), "offsets"},
        {changed([&](auto& a) { a.w = bf16_experts(d, 3, 12, 16); }), "w"},
        {changed([&](auto& a) { a.y = bf16_matrix(d, 16, 16); }), "y"},
        {changed([&](auto& a) { a.x = matrix_of(DType::kF16, d, 4, 16); }), "ag_moe: x: expected bf16"},
        {changed([&](auto& a) { a.w = experts_of(DType::kF16, d, 3, 8, 16); }), "ag_moe: w: expected bf16"},
        {changed([&](auto& a) { a.y = matrix_of(DType::kF16, d, 16, 8); }), "ag_moe: y: expected bf16"},
        {CudaAgMoe::create(comm, {.max_m = 16, .k = 16, .dtype = DType::kF32}).status(), "dtype: expected bf16 or f16"},
        {CudaAgMoe::create(comm, {.max_m = 16, .k = 12}).status(), "k"},
        {CudaAgMoe::create(comm, {.max_m = 16, .k = 16}, {.variant = "pull"}).status(), "pull"},
        {CudaAgMoe::create(comm, {.max_m = 16, .k = 16}, {.variant = "copy"}).status(), "copy"},
    });
  }));
}

// Rank 1 makes no second call. A trap ends the context, so this runs in a process of its own.
[[noreturn]] void wait_for_a_hung_peer() {
  const CudaCommunicatorOptions options{.deadline = std::chrono::milliseconds(300)};
  const Status outcome = run_gpu_ranks(
      2,
      [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
        WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 64, "push"));
        WEFT_TRY(calls.enqueue(stream, {512, 64}));
        if (comm.rank() == 1) return comm.world().barrier(Deadline::after(std::chrono::seconds(20)));
        WEFT_TRY(calls.enqueue(stream, {512, 64}));
        return calls.verify(stream, 2);
      },
      options);
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  std::_Exit(outcome.code() == Code::kDeadlineExceeded ? 0 : 1);
}

TEST(CudaAgMoeDeathTest, AHungPeerIsNamed) {
  WEFT_NEED_RANK_THREADS();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  EXPECT_EXIT(wait_for_a_hung_peer(), testing::ExitedWithCode(0),
              "rank 0: ag_moe.*: waited 0.3[0-9] s for epoch 2 of rank 1, saw 1");
}

}  // namespace
}  // namespace weft
