#include <array>
#include <cmath>
#include <cstring>

#include "device/thread_pool.h"
#include "ops/cuda_testing.cuh"
#include "ops/grouped_gemm/cuda_cases.h"

namespace weft {
namespace {

using namespace testing;

// One thread per output, fp64. Counts outputs farther from it than fp32 sums of k terms and one rounding to T may be,
// NaN included.
template <class T>
__global__ void compare_kernel(const T* x, i64 x_stride, const i32* map, int capacity, const i32* offsets, int experts,
                               const T* w, const T* y, i64 y_stride, int n, int k, bool swiglu, u32* wrong) {
  const int columns = swiglu ? n / 2 : n, col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (col >= columns || row >= offsets[experts]) return;
  int expert = 0;
  while (offsets[expert + 1] <= row) ++expert;
  const i64 place = capacity > 0 ? expert * capacity + row - offsets[expert] : row;
  const i64 x_row = map ? map[place] : place;
  const T* from = x + x_row * x_stride;
  // The product with w's row `at` of the expert, and how far fp32 sums may be from it.
  const auto dot = [&](int at, double& error) {
    const T* weight = w + (i64(expert) * n + at) * k;
    double sum = 0, magnitude = 0;
    for (int i = 0; i < k; ++i) {
      const double product = double(float(from[i])) * double(float(weight[i]));
      sum += product;
      magnitude += fabs(product);
    }
    error = magnitude * k * 0x1p-24;
    return sum;
  };
  double error = 0, sum = dot(col, error);
  if (swiglu) {
    // silu is nowhere steeper than 1.1; its exponential, quotient and product are off by some 2^-20 of it.
    double up_error = 0;
    const double up = dot(columns + col, up_error), activated = sum / (1 + exp(-sum));
    error = 1.1 * error * (fabs(up) + up_error) + fabs(activated) * up_error;
    sum = activated * up;
    error += fabs(sum) * 0x1p-20;
  }
  constexpr double kRounding = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-11;
  constexpr double kSubnormal = std::is_same_v<T, bf16> ? 1e-30 : 0x1p-25;
  const double bound = error + (fabs(sum) + error) * kRounding + kSubnormal;
  if (!(fabs(double(float(y[row * y_stride + col])) - sum) <= bound)) atomicAdd(wrong, 1u);
}

struct Case {
  i64 experts, tokens, per_token, n, k;
  i64 pad = 0;    // elements between rows
  i64 spare = 0;  // rows beyond the routed ones
  u64 seed = 0;   // of random_routing(): even, skewed, sparse, with gaps
  bool map = false, swiglu = false;
  bool apart = false;  // every expert's rows of x, or of the map, begin at a multiple of all tokens
  DType dtype = DType::kBF16;

  i64 columns() const { return swiglu ? n / 2 : n; }
  i64 places(i64 rows) const { return apart ? experts * std::max<i64>(1, tokens) : rows; }
  i64 x_rows(i64 rows) const { return map ? tokens : places(rows); }
};

// The rows of every expert: offsets [experts + 1], and each row's token.
struct Routing {
  std::vector<i32> offsets, tokens;
};
Routing route(const Case& c, u64 seed) {
  const std::vector<i32> ids = random_routing(c.tokens, c.experts, c.per_token, seed);
  Routing routing{{0}, {}};
  for (i64 e = 0; e < c.experts; ++e) {
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == i32(e)) routing.tokens.push_back(i32(i64(i) / c.per_token));
    routing.offsets.push_back(i32(routing.tokens.size()));
  }
  return routing;
}

// Runs the case on the device with one plan after another (none: the planned one), twice each, the second time out of a
// graph that was captured with another routing.
class Check {
 public:
  static Result<Check> create(cudaStream_t stream, const Case& c) {
    Check check(stream, c);
    const i64 rows = c.tokens * c.per_token + c.spare, x_rows = c.x_rows(rows);
    WEFT_ASSIGN(check.x_, CudaMatrix::create(c.dtype, x_rows, c.k, c.pad));
    WEFT_ASSIGN(check.w_, CudaMatrix::create(c.dtype, c.experts * c.n, c.k));
    WEFT_ASSIGN(check.y_, CudaMatrix::create(c.dtype, rows, c.columns(), c.pad));
    WEFT_ASSIGN(check.map_, CudaMatrix::create(DType::kI32, 1, c.places(rows)));
    WEFT_ASSIGN(check.offsets_, CudaMatrix::create(DType::kI32, 1, c.experts + 1));
    WEFT_ASSIGN(check.wrong_, DeviceBuffer::create(sizeof(u32)));
    WEFT_TRY(check.x_.upload(random_floats(c.dtype, x_rows * c.k, 1)));
    WEFT_TRY(check.w_.upload(random_floats(c.dtype, c.experts * c.n * c.k, 2)));
    return std::move(check);
  }

  Status run(const GroupedGemmPlan* plan) {
    const CudaGroupedGemmArgs args{.x = x_.view(),
                                   .map = c_.map ? map_.as({c_.places(y_.view().dim(0))}) : TensorView{},
                                   .offsets = offsets_.as({c_.experts + 1}),
                                   .w = w_.as({c_.experts, c_.n, c_.k}),
                                   .y = y_.view(),
                                   .swiglu = c_.swiglu,
                                   .capacity = capacity(),
                                   .early = c_.seed % 2 == 1};
    const auto call = [&] {
      return plan ? cuda_grouped_gemm_with(stream_, args, *plan) : cuda_grouped_gemm(stream_, args);
    };
    std::vector<std::byte> first;
    WEFT_TRY(set_routing(c_.seed + 1));
    WEFT_TRY(call());  // loads the kernel
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    WEFT_ASSIGN(const CudaGraph graph, capture_graph(stream_, call));
    for (int run = 0; run < 2; ++run) {
      WEFT_TRY(set_routing(c_.seed));
      WEFT_TRY(y_.clear());
      if (run == 0)
        WEFT_TRY(call());
      else
        WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream_));
      WEFT_TRY(compare());
      WEFT_ASSIGN(auto bytes, y_.bytes());
      if (run == 0)
        first = std::move(bytes);
      else if (bytes != first)
        return error(Code::kAborted, "the graph's bits differ");
    }
    const size_t written = size_t(routed_ * c_.columns()) * 2;
    for (size_t i = written; i < first.size(); ++i)
      if (first[i] != std::byte(0xa5)) return error(Code::kAborted, "row {} was written", i64(i) / (c_.columns() * 2));
    return {};
  }

 private:
  Check(cudaStream_t stream, const Case& c) : stream_(stream), c_(c) {}
  i64 capacity() const { return c_.apart ? std::max<i64>(1, c_.tokens) : 0; }
  Status set_routing(u64 seed) {
    const Routing routing = route(c_, seed);
    routed_ = i64(routing.tokens.size());
    std::vector<i32> map(size_t(c_.places(y_.view().dim(0))), -1);  // what is left so is never read
    for (i64 e = 0; e < c_.experts; ++e) {
      const i32 first = routing.offsets[size_t(e)], end = routing.offsets[size_t(e) + 1];
      const i64 to = c_.apart ? e * capacity() : first;
      std::copy(routing.tokens.begin() + first, routing.tokens.begin() + end, map.begin() + to);
    }
    WEFT_TRY(map_.upload(map));
    return offsets_.upload(routing.offsets);
  }
  Status compare() {
    if (routed_ > 0 && c_.n > 0) {
      WEFT_CUDA_TRY(cudaMemsetAsync(wrong_.data(), 0, sizeof(u32), stream_));
      WEFT_TRY(c_.dtype == DType::kF16 ? compare_as(f16{}) : compare_as(bf16{}));
      u32 wrong = 1;
      WEFT_CUDA_TRY(cudaMemcpyAsync(&wrong, wrong_.data(), sizeof(wrong), cudaMemcpyDefault, stream_));
      WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
      if (wrong != 0) return error(Code::kAborted, "{} wrong outputs of {}", wrong, routed_ * c_.columns());
    }
    return cuda_status(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  template <class T>
  Status compare_as(T) {
    return launch("compare", compare_kernel<T>,
                  {.grid = dim3(unsigned((c_.columns() + 127) / 128), unsigned(routed_)), .block = 128}, stream_,
                  x_.view().as<T>(), x_.view().byte_strides[0] / 2, c_.map ? map_.view().as<i32>() : nullptr,
                  int(capacity()), offsets_.view().as<i32>(), int(c_.experts), w_.view().as<T>(), y_.view().as<T>(),
                  y_.view().byte_strides[0] / 2, int(c_.n), int(c_.k), c_.swiglu, wrong_.as<u32>());
  }

  cudaStream_t stream_;
  Case c_;
  i64 routed_ = 0;
  CudaMatrix x_, w_, y_, map_, offsets_;
  DeviceBuffer wrong_;
};

constexpr Case kCases[] = {
    {.experts = 1, .tokens = 1, .per_token = 1, .n = 16, .k = 8},
    {.experts = 7, .tokens = 0, .per_token = 3, .n = 16, .k = 64, .spare = 3},
    {.experts = 5, .tokens = 130, .per_token = 2, .n = 200, .k = 72, .pad = 8, .spare = 9},
    {.experts = 128, .tokens = 33, .per_token = 8, .n = 200, .k = 328},
    {.experts = 512, .tokens = 20, .per_token = 5, .n = 72, .k = 192},
    {.experts = 6, .tokens = 700, .per_token = 3, .n = 1032, .k = 512},
};

class CudaGroupedGemmTest : public ::testing::TestWithParam<DType> {};

TEST_P(CudaGroupedGemmTest, EveryTileAgreesWithFp64ForEveryRouting) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  const u64 first_seed = GetParam() == DType::kF16 ? 3 : 0;  // types differ in their rounding: one routing does
  for (const Case& one : kCases)
    for (u64 seed = first_seed; seed < 4; ++seed)
      for (const char* how : {"sorted", "map", "map, swiglu", "apart", "apart, swiglu", "map, apart, swiglu"}) {
        Case c = one;
        c.dtype = GetParam();
        c.seed = seed;
        c.map = std::strstr(how, "map") != nullptr;
        c.apart = std::strstr(how, "apart") != nullptr;
        c.swiglu = std::strstr(how, "swiglu") != nullptr;
        if (c.swiglu && c.n % 16 != 0) c.n += 8;
        auto check = Check::create(stream->get(), c);
        WEFT_ASSERT_OK(check.status());
        for (const GemmTileShape& tile : grouped_gemm_tile_shapes())
          for (const int ctas : {1, 7, 132}) {
            const GroupedGemmPlan plan{tile, int((c.n + tile.n - 1) / tile.n), ctas};
            const Status outcome = check->run(&plan);
            ASSERT_TRUE(outcome.ok()) << c.experts << " experts [" << c.n << ", " << c.k << "], " << c.tokens
                                      << " tokens, routing " << c.seed << ", " << how << ", tile " << tile.m << "x"
                                      << tile.n << " on " << ctas << ": " << outcome.message();
          }
        const Status planned = check->run(nullptr);
        ASSERT_TRUE(planned.ok()) << c.experts << " experts, routing " << c.seed << ": " << planned.message();
      }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaGroupedGemmTest, ::testing::Values(DType::kBF16, DType::kF16),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

// The CPU's operator on the same experts.
TEST(CudaGroupedGemm, AgreesWithTheCpus) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  constexpr i64 kExperts = 7, kTokens = 150, kPerToken = 3, kN = 80, kK = 160;
  for (u64 seed = 0; seed < 4; ++seed) {
    std::vector<Tensor> raws;
    auto w = random_experts(DType::kBF16, kExperts, kN, kK, u32(seed), &raws);
    WEFT_ASSERT_OK(w.status());
    std::vector<i32> ids = random_routing(kTokens, kExperts, kPerToken, seed);
    ExpertGroups groups = ExpertGroups::create(i64(ids.size()), kExperts);
    const std::vector<float> x = random_floats(DType::kBF16, kTokens * kK, u32(seed) + 9);
    const ActivationBuffer cpu_x = ActivationBuffer::create(w->activation_format(), kTokens, kK);
    for (i64 t = 0; t < kTokens; ++t) store_activation_row(&x[size_t(t * kK)], cpu_x.view(kTokens), t);
    const Tensor expected = Tensor::zeros(DType::kF32, {kTokens * kPerToken, kN});
    auto pool = ThreadPool::create({.num_threads = 1, .cpus = {}, .spin = 100});
    WEFT_ASSERT_OK(pool.status());
    WEFT_ASSERT_OK((*pool)->run([&](Exec& exec) -> Status {
      WEFT_TRY(groups.sort(exec, TensorView::dense(ids.data(), DType::kI32, {kTokens, kPerToken})));
      return grouped_gemm(exec, cpu_x.view(kTokens), groups, *w, expected.view.rows(0, groups.pairs()));
    }));
    std::vector<i32> offsets{0}, map;
    std::vector<float> weights;
    for (i64 e = 0; e < kExperts; ++e) {
      offsets.push_back(i32(groups.rows(e).end));
      for (i64 i = 0; i < kN * kK; ++i) weights.push_back(float(raws[size_t(e)].view.as<bf16>()[i]));
    }
    for (i64 row = 0; row < kTokens * kPerToken; ++row)
      map.push_back(row < groups.pairs() ? i32(groups.token(row)) : 0);
    auto gpu_x = CudaMatrix::create(DType::kBF16, kTokens, kK),
         gpu_w = CudaMatrix::create(DType::kBF16, kExperts * kN, kK);
    auto y = CudaMatrix::create(DType::kBF16, kTokens * kPerToken, kN);
    auto gpu_map = CudaMatrix::create(DType::kI32, 1, i64(map.size()));
    auto gpu_offsets = CudaMatrix::create(DType::kI32, 1, kExperts + 1);
    for (const auto* made : {&gpu_x, &gpu_w, &y, &gpu_map, &gpu_offsets}) WEFT_ASSERT_OK(made->status());
    WEFT_ASSERT_OK(gpu_x->upload(x));
    WEFT_ASSERT_OK(gpu_w->upload(weights));
    WEFT_ASSERT_OK(gpu_map->upload(map));
    WEFT_ASSERT_OK(gpu_offsets->upload(offsets));
    WEFT_ASSERT_OK(cuda_grouped_gemm(stream->get(), {.x = gpu_x->view(),
                                                     .map = gpu_map->as({i64(map.size())}),
                                                     .offsets = gpu_offsets->as({kExperts + 1}),
                                                     .w = gpu_w->as({kExperts, kN, kK}),
                                                     .y = y->view()}));
    ASSERT_EQ(cudaStreamSynchronize(stream->get()), cudaSuccess);
    const auto found = y->floats();
    WEFT_ASSERT_OK(found.status());
    for (i64 e = 0; e < kExperts; ++e)
      for (i64 row = groups.rows(e).begin; row < groups.rows(e).end; ++row) {
        const i64 token = groups.token(row);
        const auto bounds = gemm_error_bounds(cpu_x.view(kTokens).slice(token, token + 1), raws[size_t(e)].view);
        for (i64 j = 0; j < kN; ++j) {  // both sum in fp32; then a rounding to bf16
          const double wanted = double(expected.view.row<float>(row)[j]);
          ASSERT_NEAR(double((*found)[size_t(row * kN + j)]), wanted,
                      2 * bounds[size_t(j)] + (std::abs(wanted) + bounds[size_t(j)]) * 0x1p-8)
              << "row " << row << " column " << j;
        }
      }
  }
}

class CudaExperts : public OnGpuTest {};

TEST_F(CudaExperts, SortsPairsAsTheCpuDoes) {
  const auto sort = [&](const CudaExpertSortArgs& args) { return cuda_sort_experts(on.stream(), args); };
  for (const auto [tokens, experts, per_token] :
       {std::array<i64, 3>{0, 4, 2}, {1, 1, 1}, {33, 7, 3}, {700, 128, 8}, {3000, 512, 5}})
    for (u64 seed = 0; seed < 4; ++seed)
      WEFT_ASSERT_OK(
          check_expert_sort(on, sort, tokens, experts, per_token, seed, seed != 1)
              .with_context(fmt::format("{} tokens, {} of {} experts, routing {}", tokens, per_token, experts, seed)));
}

TEST_F(CudaExperts, AddsATokensRowsInFp32) {
  const auto sum = [&](const CudaExpertSumArgs& args) { return cuda_expert_sum(on.stream(), args); };
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const i64 per_token : {i64(8), i64(3)})
      for (const bool large : {false, true})
        WEFT_ASSERT_OK(
            check_expert_sum(on, sum, dtype, per_token, large)
                .with_context(fmt::format("{}, {} experts{}", dtype_name(dtype), per_token, large ? ", large" : "")));
}

TEST(CudaGroupedGemm, WhatDoesNotFitIsNamed) {
  WEFT_NEED_GPUS(1);
  auto made = CudaMatrix::create(DType::kBF16, 64, 64);
  auto half = CudaMatrix::create(DType::kF16, 64, 64);
  auto ints = CudaMatrix::create(DType::kI32, 1, 16);
  WEFT_ASSERT_OK(made.status());
  WEFT_ASSERT_OK(half.status());
  WEFT_ASSERT_OK(ints.status());
  const CudaGroupedGemmArgs good{
      .x = made->as({8, 16}), .map = {}, .offsets = ints->as({4}), .w = made->as({3, 8, 16}), .y = made->as({8, 8})};
  const auto changed = [&](auto change) {
    CudaGroupedGemmArgs args = good;
    change(args);
    return cuda_grouped_gemm(nullptr, args).message();
  };
  EXPECT_EQ(changed([&](auto& a) { a.w = made->as({3, 12, 16}); }),
            "w bf16 [3, 12, 16]: expected dense, 16-byte aligned, n and k > 0 divisible by 8");
  EXPECT_EQ(changed([&](auto& a) { a.w = made->as({3, 8, 24}); }), "x: expected bf16 [8, 24], found bf16 [8, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.y = made->as({8, 16}); }), "y: expected bf16 [-1, 8], found bf16 [8, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.x = made->as({7, 16}); }), "x: expected bf16 [8, 16], found bf16 [7, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.offsets = ints->as({3}); }), "offsets: expected i32 [4], found i32 [3]");
  EXPECT_EQ(changed([&](auto& a) { a.map = ints->as({7}); }), "map: expected i32 [8], found i32 [7]");
  EXPECT_NE(changed([&](auto& a) { a.swiglu = true; }).find("as many columns of gate as of up"), std::string::npos);
  EXPECT_EQ(changed([&](auto& a) { a.capacity = 2; }), "x: expected bf16 [6, 16], found bf16 [8, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.w.device = DeviceKind::kCpu; }), "w: not in CUDA memory");
  EXPECT_EQ(changed([&](auto& a) { a.x = half->as({8, 16}); }), "w: expected f16 [-1, -1, -1], found bf16 [3, 8, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.w = half->as({3, 8, 16}); }),
            "w: expected bf16 [-1, -1, -1], found f16 [3, 8, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.y = half->as({8, 8}); }), "y: expected bf16 [-1, 8], found f16 [8, 8]");
  EXPECT_EQ(changed([&](auto& a) { a.x.dtype = DType::kF32; }), "x: expected bf16 or f16, found f32 [8, 16]");
  const TensorView rows = ints->as({2, 2});
  TensorView weights = rows;
  weights.dtype = DType::kF32;
  EXPECT_EQ(cuda_expert_sum(nullptr, {half->as({8, 16}), rows, weights, made->as({2, 16})}).message(),
            "y: expected f16 [2, 16], found bf16 [2, 16]");
  EXPECT_EQ(changed([&](auto& a) { a.w = made->as({513, 0, 16}); }), "w: expected 1 to 512 experts, found 513");
}

}  // namespace
}  // namespace weft
