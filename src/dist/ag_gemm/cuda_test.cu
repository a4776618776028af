#include <random>

#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/exchange/cuda_testing.cuh"
#include "dist/exchange/fused_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// m over all ranks, n of rank 0 (rank r has 8 r less, at least 0), k; `pad` elements between rows of x and y.
struct Case {
  i64 m, n, pad = 0;
};
constexpr i64 kMaxM = 1100, kMaxN = 424, kPad = 8;

// One rank's calls with new x and w each, compared with the exact product on the device.
class CheckedCalls {
 public:
  static Result<CheckedCalls> create(CudaCommunicator& comm, i64 k, const char* variant, DType dtype = DType::kBF16) {
    CheckedCalls calls(comm, k, dtype);
    WEFT_ASSIGN(calls.counter_, CallCounter::create());
    WEFT_ASSIGN(calls.x_, DeviceBuffer::create(size_t(kMaxM * (k + kPad)) * 2));
    WEFT_ASSIGN(calls.w_, DeviceBuffer::create(size_t(kMaxN * k) * 2));
    WEFT_ASSIGN(calls.y_, DeviceBuffer::create(size_t((kMaxM + 1) * (kMaxN + kPad)) * 2));
    WEFT_TRY(set_once(calls.y_));
    WEFT_ASSIGN(auto op, CudaAgGemm::create(comm, {.max_m = kMaxM, .k = k, .dtype = dtype}, {.variant = variant}));
    calls.op_ = std::make_unique<CudaAgGemm>(std::move(op));
    return std::move(calls);
  }
  Status enqueue(cudaStream_t stream, const Case& c) {
    const int rank = comm_->rank();
    const Range rows = split_range(c.m, comm_->size(), rank);
    const i64 n = std::max<i64>(0, c.n - 8 * rank), y_stride = n + c.pad;
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, y_.bytes(), stream));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, x_.data(), k_ + c.pad, rows, k_, 0, 0));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, w_.data(), k_, {0, n}, k_, 1, rank));
    WEFT_TRY(op_->run(stream, matrix_of(dtype_, x_.data(), rows.size(), k_, k_ + c.pad), c.m,
                      matrix_of(dtype_, w_.data(), n, k_), matrix_of(dtype_, y_.data(), c.m, n, y_stride)));
    const ProductCheck check{y_.data(), y_stride, 0, int(c.m), int(n), int(k_), 0, rank, 1, 0};
    if (n > 0) WEFT_TRY(counter_.check_product(stream, dtype_, check));
    return counter_.next(stream);
  }
  Status verify(cudaStream_t stream, u32 calls) const { return counter_.verify(*comm_, stream, calls); }

 private:
  CheckedCalls(CudaCommunicator& comm, i64 k, DType dtype) : comm_(&comm), k_(k), dtype_(dtype) {}
  CudaCommunicator* comm_;
  i64 k_;
  DType dtype_;
  CallCounter counter_;
  std::unique_ptr<CudaAgGemm> op_;
  DeviceBuffer x_, w_, y_;
};

class CudaAgGemmTest : public testing::TestWithParam<const char*> {
  void SetUp() override { WEFT_NEED_COPIES(GetParam()); }
};

TEST_P(CudaAgGemmTest, IsExactOnUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    for (const i64 k : {i64(8), i64(72), i64(512)}) {
      WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, k, GetParam()));
      u32 count = 0;
      for (const Case& c : {Case{1, 8}, Case{3, 16}, Case{0, 64}, Case{130, 264, kPad}, Case{257, 408}, Case{515, 424},
                            Case{1024, 400, kPad}, Case{kMaxM, 200}}) {
        WEFT_TRY(calls.enqueue(stream, c));
        const Status outcome = calls.verify(stream, ++count);
        if (!outcome.ok()) return outcome.with_context(fmt::format("m {} n {} k {}", c.m, c.n, k));
      }
    }
    return {};
  }));
}

TEST_P(CudaAgGemmTest, F16IsExactToo) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    for (const i64 k : {i64(72), i64(512)}) {
      WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, k, GetParam(), DType::kF16));
      WEFT_TRY(calls.enqueue(stream, {300, 200}));
      WEFT_ASSIGN(
          const auto graph, capture_on_all(comm, stream, [&]() -> Status {
            for (const Case& c : {Case{3, 16}, Case{100, 424}, Case{130, 264, kPad}, Case{515, 424}, Case{kMaxM, 200}})
              WEFT_TRY(calls.enqueue(stream, c));
            return {};
          }));
      for (int replay = 0; replay < 9; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
      WEFT_TRY(calls.verify(stream, 46));
    }
    return {};
  }));
}

// A pair of NaNs of all ones looks like a word that has not come.
TEST(CudaAgGemm, NansOfFewRowsArrive) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kM = 11, kN = 24, kK = 136;
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      WEFT_ASSIGN(auto op, CudaAgGemm::create(comm, {.max_m = kM, .k = kK, .dtype = dtype}));
      WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kM * kK + kN * kK + kM * kN) * 2));
      std::byte* const w = memory.as<std::byte>() + kM * kK * 2;
      std::byte* const y = w + kN * kK * 2;
      const i64 mine = split_range(kM, comm.size(), comm.rank()).size();
      WEFT_CUDA_TRY(cudaMemset(memory.data(), 0, memory.bytes()));
      if (comm.rank() == 0) WEFT_CUDA_TRY(cudaMemset(memory.data(), 0xff, size_t(mine * kK) * 2));
      WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
      WEFT_TRY(all_are_ready(comm));
      for (int call = 0; call < 9; ++call)
        WEFT_TRY(op.run(stream, matrix_of(dtype, memory.data(), mine, kK), kM, matrix_of(dtype, w, kN, kK),
                        matrix_of(dtype, y, kM, kN)));
      WEFT_TRY(comm.synchronize(stream));
      WEFT_TRY(expect_nans(matrix_of(dtype, y, kM, kN), split_range(kM, comm.size(), 0)));
    }
    return {};
  }));
}

TEST_P(CudaAgGemmTest, GraphsReplayWithNewInputs) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 256, GetParam()));
    WEFT_TRY(calls.enqueue(stream, {300, 200}));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {  // an odd number of calls
                  for (const Case& c : {Case{600, 200}, Case{7, 40}, Case{512, 128}})
                    WEFT_TRY(calls.enqueue(stream, c));
                  return {};
                }));
    const int replays = test_calls(300);
    for (int replay = 0; replay < replays; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.enqueue(stream, {kMaxM, 96}));
    return calls.verify(stream, u32(3 * replays + 2));
  }));
}

TEST_P(CudaAgGemmTest, LateRanksDoNotMatter) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 128, GetParam()));
    std::mt19937 random(u32(comm.rank()) + 1);
    const int count = test_calls(300);
    for (int i = 0; i < count; ++i) {
      if (random() % 3 == 0) WEFT_TRY(delay(stream, random() % 300'000));
      WEFT_TRY(calls.enqueue(stream, {1 + i64(i) * 131 % kMaxM, 8 + i64(i) * 40 % 400}));
    }
    return calls.verify(stream, u32(count));
  }));
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaAgGemmTest, testing::Values("split", "push", "copy", "auto"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaAgGemm, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaAgGemm::create(comm, {.max_m = 16, .k = 16}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* d = memory.as<std::byte>();
    return expect_refused({
        {op.run(stream, bf16_matrix(d, 9, 16), 18, bf16_matrix(d, 8, 16), bf16_matrix(d, 18, 8)), "max_m = 16"},
        {op.run(stream, bf16_matrix(d, 3, 16), 8, bf16_matrix(d, 8, 16), bf16_matrix(d, 8, 8)), "x"},
        {op.run(stream, bf16_matrix(d, 4, 8), 8, bf16_matrix(d, 8, 8), bf16_matrix(d, 8, 8)), "x"},
        {op.run(stream, bf16_matrix(d + 2, 4, 16), 8, bf16_matrix(d, 8, 16), bf16_matrix(d, 8, 8)), "x: address"},
        {op.run(stream, bf16_matrix(d, 4, 16), 8, bf16_matrix(d, 12, 16), bf16_matrix(d, 8, 12, 16)), "w"},
        {op.run(stream, bf16_matrix(d, 4, 16), 8, bf16_matrix(d, 8, 16), bf16_matrix(d, 7, 8)), "y"},
        {op.run(stream, matrix_of(DType::kF16, d, 4, 16), 8, bf16_matrix(d, 8, 16), bf16_matrix(d, 8, 8)),
         "ag_gemm: x: expected bf16"},
        {op.run(stream, bf16_matrix(d, 4, 16), 8, matrix_of(DType::kF16, d, 8, 16), bf16_matrix(d, 8, 8)),
         "ag_gemm: w"},
        {CudaAgGemm::create(comm, {.max_m = 16, .k = 16, .dtype = DType::kF32}).status(),
         "dtype: expected bf16 or f16"},
        {CudaAgGemm::create(comm, {.max_m = 16, .k = 12}).status(), "k"},
        {CudaAgGemm::create(comm, {.max_m = 16, .k = 16}, {.variant = "pull"}).status(), "pull"},
    });
  }));
}

// Rank 1 makes no second call. A trap ends the context, so this runs in a process of its own.
[[noreturn]] void wait_for_a_hung_peer(const char* variant) {
  const CudaCommunicatorOptions options{.deadline = std::chrono::milliseconds(300)};
  const Status outcome = run_gpu_ranks(
      2,
      [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
        WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 64, variant));
        WEFT_TRY(calls.enqueue(stream, {512, 64}));
        if (comm.rank() == 1) return comm.world().barrier(Deadline::after(std::chrono::seconds(20)));
        WEFT_TRY(calls.enqueue(stream, {512, 64}));
        return calls.verify(stream, 2);
      },
      options);
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  std::_Exit(outcome.code() == Code::kDeadlineExceeded ? 0 : 1);
}

TEST(CudaAgGemmDeathTest, AHungPeerIsNamed) {
  WEFT_NEED_RANK_THREADS();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  for (const char* variant : {"push", "copy"}) {
    if (*variant == 'c' && cuda_device_count() < 2) continue;  // rank threads that share a GPU do not copy
    EXPECT_EXIT(wait_for_a_hung_peer(variant), testing::ExitedWithCode(0),
                "rank 0: ag_gemm.*: waited 0.3[0-9] s for epoch 2 of rank 1, saw 1")
        << variant;
  }
}

}  // namespace
}  // namespace weft
