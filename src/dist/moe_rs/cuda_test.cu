// moe_rs and moe_ar.
#include <random>

#include "dist/exchange/cuda_moe_testing.cuh"
#include "dist/moe_ar/moe_ar.cuh"
#include "dist/moe_rs/moe_rs.cuh"

namespace weft {
namespace {

using namespace gpu_test;

constexpr i64 kMaxM = 700, kPerToken = 3, kPad = 8;

// y must be tokens [first, first + tokens) of the sum over ranks, the row behind untouched. Rank r has 8 r columns of K
// less.
struct SumCheck {
  const void* y;
  int first, tokens, n, k, per_token, ranks;
  const i32 *ids, *pairs, *rows;
  const float* weights;
};
template <class T>
__global__ void check_sums_kernel(const SumCheck c, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < i64(c.tokens + 1) * c.n;
       i += i64(gridDim.x) * blockDim.x) {
    const int token = c.first + int(i / c.n), column = int(i % c.n);
    const T& seen = static_cast<const T*>(c.y)[i];
    u16 bits;
    memcpy(&bits, &seen, sizeof(bits));
    float sum = 0;
    for (int slot = 0; i / c.n < c.tokens && slot < c.per_token; ++slot) {
      const int row = c.rows[token * c.per_token + slot];
      if (row < 0) break;
      const int pair = c.pairs[row];
      for (int rank = 0; rank < c.ranks; ++rank)
        for (int j = 0; j < c.k - 8 * rank; ++j)
          sum += c.weights[pair] * element_of(*call, 0, rank, row, j) *
                 element_of(*call, 1, rank, i64(c.ids[pair]) * c.n + column, j);
    }
    if (i / c.n < c.tokens ? !(float(seen) == sum) : bits != 0xffff) atomicAdd(wrong, 1u);
  }
}

template <class Op>
class CheckedCalls {
 public:
  static constexpr bool kScatters = std::is_same_v<Op, CudaMoeRs>;
  static Result<CheckedCalls> create(CudaCommunicator& comm, i64 n, i64 k, i64 experts, DType dtype = DType::kBF16) {
    CheckedCalls calls(comm, n, k, experts, dtype);
    WEFT_ASSIGN(calls.counter_, CallCounter::create());
    WEFT_ASSIGN(calls.routing_, CudaRouting::create(kMaxM, kPerToken, experts));
    WEFT_TRY(with_fused_element(dtype, [](auto element) {
      const void* kernel = reinterpret_cast<const void*>(check_sums_kernel<decltype(element)>);
      return prepare_kernel("test kernels", kernel, 0);
    }));
    WEFT_ASSIGN(calls.a_, DeviceBuffer::create(size_t(kMaxM * kPerToken * (k + kPad)) * 2));
    WEFT_ASSIGN(calls.w_, DeviceBuffer::create(size_t(experts * n * k) * 2));
    WEFT_ASSIGN(calls.y_, DeviceBuffer::create(size_t((kMaxM + 1) * n) * 2));
    WEFT_TRY(set_once(calls.y_));
    WEFT_ASSIGN(auto op, Op::create(comm, {.max_m = kMaxM, .max_rows = kMaxM * kPerToken, .n = n, .dtype = dtype}));
    calls.op_ = std::make_unique<Op>(std::move(op));
    return std::move(calls);
  }
  Status enqueue(cudaStream_t stream, i64 m, i64 pad = 0) {
    const int rank = comm_->rank(), ranks = comm_->size();
    const Range own = kScatters ? split_range(m, ranks, rank) : Range{0, m};
    const i64 k = k_ - 8 * rank, rows = m * kPerToken;
    WEFT_TRY(routing_.enqueue(stream, m, counter_.call()));
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, y_.bytes(), stream));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, a_.data(), k + pad, {0, rows}, k, 0, rank));
    WEFT_TRY(counter_.fill_matrix(stream, dtype_, w_.data(), k, {0, experts_ * n_}, k, 1, rank));
    WEFT_TRY(op_->run(stream, {.a = matrix_of(dtype_, a_.data(), rows, k, k + pad),
                               .offsets = routing_.offsets(),
                               .rows = routing_.rows(m),
                               .weights = routing_.placed(m),
                               .w = experts_of(dtype_, w_.data(), experts_, n_, k),
                               .y = matrix_of(dtype_, y_.data(), own.size(), n_)}));
    const SumCheck check{y_.data(),
                         int(own.begin),
                         int(own.size()),
                         int(n_),
                         int(k_),
                         int(kPerToken),
                         ranks,
                         routing_.ids(),
                         routing_.pairs(m).template as<const i32>(),
                         routing_.rows(m).template as<const i32>(),
                         routing_.weights(m).template as<const float>()};
    WEFT_TRY(with_fused_element(dtype_, [&](auto element) {
      return launch("check", check_sums_kernel<decltype(element)>, {.grid = 264, .block = 256}, stream, check,
                    counter_.call(), counter_.wrong());
    }));
    return counter_.next(stream);
  }
  Status verify(cudaStream_t stream, u32 calls) const { return counter_.verify(*comm_, stream, calls); }

 private:
  CheckedCalls(CudaCommunicator& comm, i64 n, i64 k, i64 experts, DType dtype)
      : comm_(&comm), n_(n), k_(k), experts_(experts), dtype_(dtype) {}
  CudaCommunicator* comm_;
  i64 n_, k_, experts_;
  DType dtype_;
  CallCounter counter_;
  CudaRouting routing_;
  std::unique_ptr<Op> op_;
  DeviceBuffer a_, w_, y_;
};

// K is small so that sums are exact in bf16.
template <class Op>
Status check_uneven_shapes(CudaCommunicator& comm, cudaStream_t stream) {
  for (const auto& [n, k, experts] : {std::array<i64, 3>{8, 72, 5}, {264, 72, 40}, {424, 80, 3}}) {
    WEFT_ASSIGN(auto calls, CheckedCalls<Op>::create(comm, n, k, experts));
    u32 count = 0;
    for (const i64 m : {i64(1), i64(3), i64(0), i64(130), i64(257), i64(515), kMaxM, i64(64)}) {
      WEFT_TRY(calls.enqueue(stream, m, m % 2 == 1 ? kPad : 0));
      const Status outcome = calls.verify(stream, ++count);
      if (!outcome.ok()) return outcome.with_context(fmt::format("m {} n {} k {}, {} experts", m, n, k, experts));
    }
  }
  return {};
}

TEST(CudaMoeRs, IsExactForEveryRoutingAndUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), check_uneven_shapes<CudaMoeRs>));
}

TEST(CudaMoeAr, IsExactForEveryRoutingAndUnevenShapes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), check_uneven_shapes<CudaMoeAr>));
}

template <class Op>
Status check_f16(CudaCommunicator& comm, cudaStream_t stream) {
  for (const auto& [n, k, experts] : {std::array<i64, 3>{264, 72, 40}, {424, 80, 3}}) {
    WEFT_ASSIGN(auto calls, CheckedCalls<Op>::create(comm, n, k, experts, DType::kF16));
    WEFT_TRY(calls.enqueue(stream, 130));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (const i64 m : {i64(1), i64(3), i64(257), kMaxM}) WEFT_TRY(calls.enqueue(stream, m, kPad));
                  return {};
                }));
    for (int replay = 0; replay < 9; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.verify(stream, 37));
  }
  return {};
}

TEST(CudaMoeRs, F16IsExactToo) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), check_f16<CudaMoeRs>));
}

TEST(CudaMoeAr, F16IsExactToo) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), check_f16<CudaMoeAr>));
}

TEST(CudaMoeRs, GraphsReplayWithNewInputsAndRoutings) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaMoeRs>::create(comm, 136, 72, 6));
    WEFT_ASSIGN(auto reduce, CheckedCalls<CudaMoeAr>::create(comm, 72, 64, 9));
    WEFT_TRY(calls.enqueue(stream, 300));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {  // an odd number of calls
                  for (const i64 m : {600, 7, 512}) {
                    WEFT_TRY(calls.enqueue(stream, m));
                    WEFT_TRY(reduce.enqueue(stream, m / 2));
                  }
                  return {};
                }));
    for (int replay = 0; replay < 200; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.enqueue(stream, kMaxM));
    WEFT_TRY(calls.verify(stream, 602));
    return reduce.verify(stream, 600);
  }));
}

TEST(CudaMoeRs, LateRanksDoNotMatter) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls<CudaMoeRs>::create(comm, 200, 72, 7));
    std::mt19937 random(u32(comm.rank()) + 1);
    for (int i = 0; i < 200; ++i) {
      if (random() % 3 == 0) WEFT_TRY(delay(stream, random() % 300'000));
      WEFT_TRY(calls.enqueue(stream, 1 + i64(i) * 131 % kMaxM));
    }
    return calls.verify(stream, 200);
  }));
}

TEST(CudaMoeRs, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaMoeRs::create(comm, {.max_m = 8, .max_rows = 16, .n = 16}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* d = memory.as<std::byte>();
    const auto table = [&](DType dtype, Shape shape) { return TensorView::dense(d, dtype, shape, DeviceKind::kCuda); };
    const CudaMoeArgs good{.a = bf16_matrix(d, 16, 8),
                           .offsets = table(DType::kI32, {4}),
                           .rows = table(DType::kI32, {8, 2}),
                           .weights = table(DType::kF32, {8, 2}),
                           .w = bf16_experts(d, 3, 16, 8),
                           .y = bf16_matrix(d, 4, 16)};
    const auto changed = [&](auto change) {
      CudaMoeArgs args = good;
      change(args);
      return op.run(stream, args);
    };
    return expect_refused({
        {changed([&](auto& a) { a.rows = table(DType::kI32, {9, 2}); }), "max_m = 8"},
        {changed([&](auto& a) { a.a = bf16_matrix(d, 17, 8); }), "max_rows = 16"},
        {changed([&](auto& a) { a.w = bf16_experts(d, 3, 24, 8); }), "w"},
        {changed([&](auto& a) { a.y = bf16_matrix(d, 8, 16); }), "y"},
        {changed([&](auto& a) { a.y = bf16_matrix(d, 4, 16, 24); }), "y"},
        {changed([&](auto& a) { a.weights = table(DType::kI32, {8, 2}); }), "weights"},
        {changed([&](auto& a) { a.offsets = table(DType::kI32, {5}); }), "offsets"},
        {changed([&](auto& a) { a.a = matrix_of(DType::kF16, d, 16, 8); }), "moe_rs: a: expected bf16"},
        {changed([&](auto& a) { a.w = experts_of(DType::kF16, d, 3, 16, 8); }), "moe_rs: w: expected bf16"},
        {changed([&](auto& a) { a.y = matrix_of(DType::kF16, d, 4, 16); }), "moe_rs: y: expected bf16"},
        {CudaMoeRs::create(comm, {.max_m = 16, .max_rows = 16, .n = 12}).status(), "n"},
        {CudaMoeAr::create(comm, {.max_m = 16, .max_rows = 16, .n = 16, .dtype = DType::kF32}).status(),
         "moe_ar: dtype: expected bf16 or f16"},
    });
  }));
}

}  // namespace
}  // namespace weft
