#include <random>

#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/exchange/cuda_testing.cuh"
#include "dist/exchange/fused_testing.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "dist/gemm_rs/gemm_rs.cuh"

namespace weft {
namespace {

using namespace gpu_test;

constexpr i64 kMaxM = 1100, kPad = 8;

// One rank's calls of gemm_rs or gemm_ar with new a and w each, compared with the exact sum on the device. Rank r has
// 8 r columns of K less.
template <class Op>
class CheckedCalls {
 public:
  static constexpr bool kScatters = std::is_same_v<Op, CudaGemmRs>;
  static Result<CheckedCalls> create(CudaCommunicator& comm, i64 n, i64 k, const char* variant, i64 max_m = kMaxM,
                                     DType dtype = DType::kBF16) {
    CheckedCalls calls(comm, n, k, dtype);
    WEFT_ASSIGN(calls.counter_, CallCounter::create());
    WEFT_ASSIGN(calls.a_, DeviceBuffer::create(size_t(max_m * (k + kPad)) * 2));
    WEFT_ASSIGN(calls.w_, DeviceBuffer::create(size_t(n * k) * 2));
    WEFT_ASSIGN(calls.y_, DeviceBuffer::create(size_t((max_m + 1) * n) * 2));
    WEFT_TRY(set_once(calls.y_));
    WEFT_ASSIGN(auto op, Op::create(comm, {.max_m = max_m, .n = n, .k = k, .dtype = dtype}, {.variant = variant}));
    calls.op_ = std::make_unique<Op>(std::move(op));
    return std::move(calls);
  }
  Status enqueue(cudaStream_t stream, i64 m, i64 pad = 0) {
    const int rank = comm_->rank(), ranks = comm_->size();
    const Range rows = kScatters ? split_range(m, ranks, rank) : Range{0, m};
    const i64 k = k_ - 8 * rank;
    TensorView y = matrix_of(dtype_, y_.data(), rows.size(), n_);
    int guards = 1;
    if constexpr (!kScatters)  // every other call into the operator's own memory
      if (m % 2 == 1) y = op_->output(m), guards = 0;
    // All of it: the driver's kernels for other sizes would be loaded, which may wait for a peer's kernel on this GPU.
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, y_.bytes(), stream));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, a_.data(), k + pad, {0, m}, k, 0, rank));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, w_.data(), k, {0, n_}, k, 1, rank));
    WEFT_TRY(op_->run(stream, matrix_of(dtype_, a_.data(), m, k, k + pad), matrix_of(dtype_, w_.data(), n_, k), y));
    const ProductCheck check{y.data, n_, int(rows.begin), int(rows.size()), int(n_), int(k_), 0, 0, ranks, 8, guards};
    WEFT_TRY(counter_.check_product(stream, dtype_, check));
    return counter_.next(stream);
  }
  Status verify(cudaStream_t stream, u32 calls) const { return counter_.verify(*comm_, stream, calls); }

 private:
  CheckedCalls(CudaCommunicator& comm, i64 n, i64 k, DType dtype) : comm_(&comm), n_(n), k_(k), dtype_(dtype) {}
  CudaCommunicator* comm_;
  i64 n_, k_;
  DType dtype_;
  CallCounter counter_;
  std::unique_ptr<Op> op_;
  DeviceBuffer a_, w_, y_;
};

template <class Op>
Status check_uneven_shapes(CudaCommunicator& comm, cudaStream_t stream, const char* variant) {
  for (const auto& [n, k] : {std::pair<i64, i64>{8, 72}, {264, 128}, {424, 448}}) {
    WEFT_ASSIGN(auto calls, CheckedCalls<Op>::create(comm, n, k, variant));
    u32 count = 0;
    for (const i64 m : {i64(1), i64(3), i64(0), i64(130), i64(257), i64(515), i64(1024), kMaxM}) {
      WEFT_TRY(calls.enqueue(stream, m, m % 2 == 1 ? kPad : 0));
      const Status outcome = calls.verify(stream, ++count);
      if (!outcome.ok()) return outcome.with_context(fmt::format("m {} n {} k {}", m, n, k));
    }
  }
  return {};
}

class CudaGemmRsTest : public testing::TestWithParam<const char*> {
  void SetUp() override { WEFT_NEED_COPIES(GetParam()); }
};

// Where rank threads share a GPU no fused operator copies, however it is asked.
TEST(CudaFusedCopies, AreRefusedWhereRankThreadsShareAGpu) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  const int ranks = cuda_device_count() == 1 ? 2 : 4;
  if (ranks <= cuda_device_count()) GTEST_SKIP() << "a GPU for each of " << ranks << " ranks";
  WEFT_ASSERT_OK(run_gpu_ranks(ranks, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    const CudaFusedOptions copy{.variant = "copy"};
    const CudaGemmRsShape shape{.max_m = 2048, .n = 64, .k = 64};
    WEFT_TRY(expect_refused(
        {
            {CudaAgGemm::create(comm, {.max_m = 2048, .k = 64}, copy).status(), "share a GPU"},
            {CudaGemmRs::create(comm, shape, copy).status(), "share a GPU"},
            {CudaGemmAr::create(comm, shape, copy).status(), "share a GPU"},
        },
        Code::kUnimplemented));
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaGemmAr>::create(comm, 64, 64, "auto", 4096));  // where auto would copy
    WEFT_TRY(calls.enqueue(stream, 4096));
    return calls.verify(stream, 1);
  }));
}

TEST_P(CudaGemmRsTest, IsExactOnUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) {
    return check_uneven_shapes<CudaGemmRs>(comm, stream, GetParam());
  }));
}

TEST_P(CudaGemmRsTest, MakesAnAllReduceOnUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) {
    return check_uneven_shapes<CudaGemmAr>(comm, stream, GetParam());
  }));
}

template <class Op>
Status check_f16(CudaCommunicator& comm, cudaStream_t stream, const char* variant) {
  for (const auto& [n, k] : {std::pair<i64, i64>{264, 128}, {424, 448}}) {
    WEFT_ASSIGN(auto calls, CheckedCalls<Op>::create(comm, n, k, variant, kMaxM, DType::kF16));
    WEFT_TRY(calls.enqueue(stream, 300));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (const i64 m : {i64(3), i64(100), i64(130), i64(515), kMaxM})
                    WEFT_TRY(calls.enqueue(stream, m, m % 2 == 1 ? kPad : 0));
                  return {};
                }));
    for (int replay = 0; replay < 9; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.verify(stream, 46));
  }
  return {};
}

TEST_P(CudaGemmRsTest, F16IsExactToo) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_TRY(check_f16<CudaGemmRs>(comm, stream, GetParam()));
    return check_f16<CudaGemmAr>(comm, stream, GetParam());
  }));
}

// No sum is rounded to what looks like a word that has not come.
TEST(CudaGemmRs, NansOfFewRowsArrive) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kM = 11, kN = 24, kK = 136;
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      const CudaGemmRsShape shape{.max_m = kM, .n = kN, .k = kK, .dtype = dtype};
      WEFT_ASSIGN(auto scatter, CudaGemmRs::create(comm, shape));
      WEFT_ASSIGN(auto reduce, CudaGemmAr::create(comm, shape));
      WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kM * kK + kN * kK + 2 * kM * kN) * 2));
      std::byte* const w = memory.as<std::byte>() + kM * kK * 2;
      std::byte* const y = w + kN * kK * 2;
      const i64 mine = split_range(kM, comm.size(), comm.rank()).size();
      WEFT_CUDA_TRY(cudaMemset(memory.data(), 0, memory.bytes()));
      if (comm.rank() == 0) WEFT_CUDA_TRY(cudaMemset(memory.data(), 0xff, size_t(kM * kK) * 2));
      WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
      WEFT_TRY(all_are_ready(comm));
      const TensorView a = matrix_of(dtype, memory.data(), kM, kK), weights = matrix_of(dtype, w, kN, kK);
      const TensorView own = matrix_of(dtype, y, mine, kN), all = matrix_of(dtype, y + kM * kN * 2, kM, kN);
      for (int call = 0; call < 9; ++call) {
        WEFT_TRY(scatter.run(stream, a, weights, own));
        WEFT_TRY(reduce.run(stream, a, weights, all));
      }
      WEFT_TRY(comm.synchronize(stream));
      WEFT_TRY(expect_nans(own, {0, mine}));
      WEFT_TRY(expect_nans(all, {0, kM}));
    }
    return {};
  }));
}

// Enough own waves that rows go back in parts (push) and by the copy engine (copy), in a graph, with late ranks.
TEST_P(CudaGemmRsTest, MakesAnAllReduceOfManyWaves) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kMostM = 4611, kN = 5128, kK = 72;
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaGemmAr>::create(comm, kN, kK, GetParam(), kMostM));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (const i64 m : {kMostM, i64(1030), i64(4096)}) WEFT_TRY(calls.enqueue(stream, m));
                  return {};
                }));
    std::mt19937 random(u32(comm.rank()) + 3);
    for (int replay = 0; replay < 5; ++replay) {
      WEFT_TRY(delay(stream, random() % 300'000));
      WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    }
    return calls.verify(stream, 15);
  }));
}

TEST_P(CudaGemmRsTest, GraphsReplayWithNewInputs) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaGemmRs>::create(comm, 328, 192, GetParam()));
    WEFT_TRY(calls.enqueue(stream, 300));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {  // an odd number of calls
                  for (const i64 m : {600, 7, 512}) WEFT_TRY(calls.enqueue(stream, m));
                  return {};
                }));
    for (int replay = 0; replay < 300; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.enqueue(stream, kMaxM));
    return calls.verify(stream, 902);
  }));
}

TEST_P(CudaGemmRsTest, LateRanksDoNotMatter) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaGemmRs>::create(comm, 264, 128, GetParam()));
    std::mt19937 random(u32(comm.rank()) + 1);
    const int count = test_calls(300);
    for (int i = 0; i < count; ++i) {
      if (random() % 3 == 0) WEFT_TRY(delay(stream, random() % 300'000));
      WEFT_TRY(calls.enqueue(stream, 1 + i64(i) * 131 % kMaxM));
    }
    return calls.verify(stream, u32(count));
  }));
}

// All fused operators in turn on one communicator, as a graph, with late ranks between replays.
TEST_P(CudaGemmRsTest, TakesTurnsWithOtherOperators) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto scatter, CheckedCalls<CudaGemmRs>::create(comm, 264, 128, GetParam()));
    WEFT_ASSIGN(auto reduce, CheckedCalls<CudaGemmAr>::create(comm, 136, 64, GetParam()));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kMaxM) * 256 * 2 * 3));
    WEFT_CUDA_TRY(cudaMemset(memory.data(), 0, memory.bytes()));
    WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
    WEFT_ASSIGN(auto gather, CudaAgGemm::create(comm, {.max_m = kMaxM, .k = 128}, {.variant = GetParam()}));
    const auto gather_once = [&](i64 m) {
      std::byte* d = memory.as<std::byte>();
      return gather.run(stream, bf16_matrix(d, split_range(m, comm.size(), comm.rank()).size(), 128), m,
                        bf16_matrix(d + kMaxM * 256, 128, 128), bf16_matrix(d + kMaxM * 512, m, 128));
    };
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (const i64 m : {i64(513), i64(40), kMaxM}) {
                    WEFT_TRY(scatter.enqueue(stream, m));
                    WEFT_TRY(gather_once(m));
                    WEFT_TRY(reduce.enqueue(stream, m));
                    WEFT_TRY(scatter.enqueue(stream, m / 2));
                  }
                  return {};
                }));
    std::mt19937 random(u32(comm.rank()) + 7);
    for (int replay = 0; replay < 100; ++replay) {
      WEFT_TRY(delay(stream, random() % 200'000));
      WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    }
    WEFT_TRY(scatter.verify(stream, 600));
    return reduce.verify(stream, 300);
  }));
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaGemmRsTest, testing::Values("split", "push", "copy", "auto"),
                         [](const auto& info) { return std::string(info.param); });

// Real values: within the bound of fp32 sums with the peers' parts rounded to bf16, and the same bits when ranks are
// late in other ways.
__global__ void fill_real_kernel(bf16* out, i64 n, u32 seed) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    u32 h = u32(i) * 2654435761u + seed * 40503u;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    out[i] = bf16(float((h ^ (h >> 16)) & 0xffff) / 32768.0f - 1.0f);
  }
}
struct RealCheck {
  const bf16 *a, *w, *y, *again;  // a [ranks][m, k], w [ranks][n, k]; y, again [rows, n]
  int ranks, m, n, k, first, rows;
};
__global__ void check_real_kernel(const RealCheck c, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < i64(c.rows) * c.n; i += i64(gridDim.x) * blockDim.x) {
    const i64 row = c.first + i / c.n, column = i % c.n;
    double sum = 0, bound = 0;
    for (int r = 0; r < c.ranks; ++r) {
      double part = 0, magnitude = 0;
      for (int j = 0; j < c.k; ++j) {
        const double product =
            double(float(c.a[(i64(r) * c.m + row) * c.k + j])) * double(float(c.w[(i64(r) * c.n + column) * c.k + j]));
        part += product;
        magnitude += fabs(product);
      }
      sum += part;
      bound += magnitude * (c.k + c.ranks) * 0x1p-24 + fabs(part) * 0x1p-8;  // fp32 sums, one rounding to bf16
    }
    bound += (fabs(sum) + bound) * 0x1p-8;
    if (!(fabs(double(float(c.y[i])) - sum) <= bound)) atomicAdd(wrong, 1u);
    if (reinterpret_cast<const u16*>(c.y)[i] != reinterpret_cast<const u16*>(c.again)[i]) atomicAdd(wrong + 1, 1u);
  }
}

TEST_P(CudaGemmRsTest, RealValuesAreWithinTheBoundAndRepeatToTheBit) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kM = 700, kN = 264, kK = 320;
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    for (const void* kernel :
         {reinterpret_cast<const void*>(fill_real_kernel), reinterpret_cast<const void*>(check_real_kernel)})
      WEFT_TRY(prepare_kernel("test kernels", kernel, 0));
    WEFT_ASSIGN(auto op, CudaGemmRs::create(comm, {.max_m = kM, .n = kN, .k = kK}, {.variant = GetParam()}));
    const int ranks = comm.size();
    WEFT_ASSIGN(const auto a, DeviceBuffer::create(size_t(ranks * kM * kK) * 2));
    WEFT_ASSIGN(const auto w, DeviceBuffer::create(size_t(ranks * kN * kK) * 2));
    WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(kM * kN) * 2));
    WEFT_ASSIGN(const auto again, DeviceBuffer::create(size_t(kM * kN) * 2));
    WEFT_ASSIGN(const auto wrong, DeviceBuffer::create(8));
    const LaunchShape shape{.grid = 264, .block = 256};
    WEFT_CUDA_TRY(cudaMemsetAsync(wrong.data(), 0, 8, stream));
    WEFT_TRY(launch("fill", fill_real_kernel, shape, stream, a.as<bf16>(), ranks * kM * kK, 1u));
    WEFT_TRY(launch("fill", fill_real_kernel, shape, stream, w.as<bf16>(), ranks * kN * kK, 2u));
    const Range rows = split_range(kM, ranks, comm.rank());
    const auto run = [&](const DeviceBuffer& out) {
      return op.run(stream, bf16_matrix(a.as<bf16>() + comm.rank() * kM * kK, kM, kK),
                    bf16_matrix(w.as<bf16>() + comm.rank() * kN * kK, kN, kK),
                    bf16_matrix(out.data(), rows.size(), kN));
    };
    const RealCheck check{a.as<bf16>(), w.as<bf16>(), y.as<bf16>(), again.as<bf16>(), ranks,
                          int(kM),      int(kN),      int(kK),      int(rows.begin),  int(rows.size())};
    WEFT_TRY(all_are_ready(comm));
    WEFT_TRY(run(y));
    for (int i = 0; i < 20; ++i) {
      WEFT_TRY(delay(stream, u64((comm.rank() * 7 + i * 5) % 11) * 20'000));
      WEFT_CUDA_TRY(cudaMemsetAsync(again.data(), 0xff, again.bytes(), stream));
      WEFT_TRY(run(again));
      WEFT_TRY(launch("check", check_real_kernel, shape, stream, check, wrong.as<u32>()));
    }
    WEFT_TRY(comm.synchronize(stream));
    u32 seen[2];
    WEFT_CUDA_TRY(cudaMemcpy(seen, wrong.data(), sizeof(seen), cudaMemcpyDefault));
    if (seen[0] != 0 || seen[1] != 0)
      return error(Code::kAborted, "{} outputs beyond the bound, {} that differ over runs", seen[0], seen[1]);
    return {};
  }));
}

TEST(CudaGemmRs, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaGemmRs::create(comm, {.max_m = 16, .n = 16, .k = 16}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* d = memory.as<std::byte>();
    return expect_refused({
        {op.run(stream, bf16_matrix(d, 17, 16), bf16_matrix(d, 16, 16), bf16_matrix(d, 9, 16)), "max_m = 16"},
        {op.run(stream, bf16_matrix(d, 8, 24), bf16_matrix(d, 16, 24), bf16_matrix(d, 4, 16)), "k = 16"},
        {op.run(stream, bf16_matrix(d, 8, 16), bf16_matrix(d, 24, 16), bf16_matrix(d, 4, 16)), "w"},
        {op.run(stream, bf16_matrix(d, 8, 16), bf16_matrix(d, 16, 16), bf16_matrix(d, 8, 16)), "y"},
        {op.run(stream, bf16_matrix(d, 8, 16), bf16_matrix(d, 16, 16), bf16_matrix(d, 4, 16, 24)), "row stride"},
        {op.run(stream, matrix_of(DType::kF16, d, 8, 16), bf16_matrix(d, 16, 16), bf16_matrix(d, 4, 16)),
         "gemm_rs: a: expected bf16"},
        {op.run(stream, bf16_matrix(d, 8, 16), bf16_matrix(d, 16, 16), matrix_of(DType::kF16, d, 4, 16)), "gemm_rs: y"},
        {CudaGemmRs::create(comm, {.max_m = 16, .n = 16, .k = 16, .dtype = DType::kF32}).status(),
         "dtype: expected bf16 or f16"},
        {CudaGemmRs::create(comm, {.max_m = 16, .n = 12, .k = 16}).status(), "n"},
        {CudaGemmRs::create(comm, {.max_m = 16, .n = 16, .k = 16}, {.variant = "pull"}).status(), "pull"},
    });
  }));
}

}  // namespace
}  // namespace weft
