#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "device/cuda/testing.cuh"
#include "ops/gemm/cublas.cuh"
#include "ops/gemm/gemm_sm80.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

// One thread per output, fp64. Counts outputs farther than `bound` from it, NaN included.
template <class T>
__global__ void compare_kernel(const T* x, i64 x_stride, const T* w, i64 w_stride, const T* y, i64 y_stride, int m,
                               int n, int k, u32* wrong) {
  const int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (col >= n || row >= m) return;
  double sum = 0, magnitude = 0;
  for (int i = 0; i < k; ++i) {
    const double product = double(float(x[row * x_stride + i])) * double(float(w[col * w_stride + i]));
    sum += product;
    magnitude += fabs(product);
  }
  // fp32 sums of k terms, then one rounding to 8 bits of significand (bf16) or 11.
  const double rounding = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-11;
  const double bound = magnitude * k * 0x1p-24 + fabs(sum) * rounding + (rounding == 0x1p-11 ? 0x1p-25 : 1e-30);
  if (!(fabs(double(float(y[row * y_stride + col])) - sum) <= bound)) atomicAdd(wrong, 1u);
}

struct Case {
  i64 m, n, k;
  i64 pad = 0;  // elements between rows
  DType dtype = DType::kBF16;
};

using Gemm = std::function<Status(cudaStream_t, const CudaGemmArgs&)>;

Status check(cudaStream_t stream, const Case& c, const Gemm& gemm) {
  const i64 x_stride = c.k + c.pad, y_stride = c.n + c.pad;
  const auto bytes = [](i64 rows, i64 stride) { return size_t(std::max<i64>(rows * stride, 1)) * 2; };
  WEFT_ASSIGN(const auto x, DeviceBuffer::create(bytes(c.m, x_stride)));
  WEFT_ASSIGN(const auto w, DeviceBuffer::create(bytes(c.n, x_stride)));
  WEFT_ASSIGN(const auto y, DeviceBuffer::create(bytes(c.m + 1, y_stride)));  // a row more than is written
  WEFT_ASSIGN(const auto wrong, DeviceBuffer::create(4));
  WEFT_TRY(fill_random(stream, c.dtype, x.data(), i64(x.bytes() / 2), 1));
  WEFT_TRY(fill_random(stream, c.dtype, w.data(), i64(w.bytes() / 2), 2));
  WEFT_CUDA_TRY(cudaMemsetAsync(y.data(), 0xff, y.bytes(), stream));  // NaN
  WEFT_CUDA_TRY(cudaMemsetAsync(wrong.data(), 0, 4, stream));
  const auto view = [&](const DeviceBuffer& buffer, i64 rows, i64 cols, i64 stride) {
    TensorView v = TensorView::dense(buffer.data(), c.dtype, {rows, cols}, DeviceKind::kCuda);
    v.byte_strides[0] = stride * 2;
    return v;
  };
  const CudaGemmArgs args{view(x, c.m, c.k, x_stride), view(w, c.n, c.k, x_stride), view(y, c.m, c.n, y_stride)};
  WEFT_TRY(gemm(stream, args));
  const auto compare = [&](auto zero) {
    using T = decltype(zero);
    return launch("compare", compare_kernel<T>,
                  {.grid = dim3(unsigned((c.n + 127) / 128), unsigned(c.m)), .block = 128}, stream, x.as<T>(), x_stride,
                  w.as<T>(), x_stride, y.as<T>(), y_stride, int(c.m), int(c.n), int(c.k), wrong.as<u32>());
  };
  if (c.m * c.n > 0) WEFT_TRY(c.dtype == DType::kF16 ? compare(f16{}) : compare(bf16{}));
  u32 count = 1;
  WEFT_CUDA_TRY(cudaMemcpyAsync(&count, wrong.data(), 4, cudaMemcpyDefault, stream));
  std::vector<u16> rows(y.bytes() / 2);
  WEFT_CUDA_TRY(cudaMemcpyAsync(rows.data(), y.data(), y.bytes(), cudaMemcpyDefault, stream));
  WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
  if (count != 0) return error(Code::kAborted, "[{}, {}, {}]: {} wrong outputs", c.m, c.n, c.k, count);
  for (i64 row = 0; row <= c.m; ++row)
    for (i64 col = row < c.m ? c.n : 0; col < y_stride; ++col)
      if (rows[size_t(row * y_stride + col)] != 0xffff && (row < c.m || c.n > 0))
        return error(Code::kAborted, "[{}, {}, {}]: wrote outside, at row {} column {}", c.m, c.n, c.k, row, col);
  return {};
}

TEST(CudaGemm, EveryTileAgreesWithFp64OnUnevenShapes) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const GemmTileShape& tile : gemm_tile_shapes())
    for (const Case& c : {Case{1, 8, 8}, Case{130, 264, 72}, Case{515, 408, 1000, 8}, Case{1024, 1600, 512},
                          Case{130, 264, 72, 0, DType::kF16}, Case{515, 408, 1000, 8, DType::kF16}}) {
      GemmPlan plan = plan_gemm_sm90_tile(c.m, c.n, c.k, 132, tile);
      plan.group = 3;
      for (const int ctas : {1, 5, 132}) {
        plan.ctas = std::min(ctas, plan.tiles());
        const Status outcome = check(stream->get(), c, [&](cudaStream_t on, const CudaGemmArgs& args) {
          return cuda_gemm_with(on, args, plan);
        });
        ASSERT_TRUE(outcome.ok()) << tile.m << "x" << tile.n << " on " << ctas << ": " << outcome.message();
      }
    }
}

// The Ampere kernels on whatever GPU is there, Hopper's too.
TEST(CudaGemmSm80, EveryTileAgreesWithFp64OnUnevenShapes) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const GemmTileSm80& tile : gemm_tiles_sm80())
    for (const Case& c : {Case{1, 8, 8}, Case{130, 264, 72}, Case{515, 408, 1000, 8}, Case{1024, 1600, 512},
                          Case{130, 264, 72, 0, DType::kF16}, Case{515, 408, 1000, 8, DType::kF16}}) {
      GemmPlanSm80 plan = plan_gemm_sm80_tile(c.m, c.n, c.k, 108, tile);
      plan.group = std::min(3, plan.tiles_m);
      for (const int ctas : {1, 5, 0}) {
        const Status outcome = check(stream->get(), c, [&](cudaStream_t on, const CudaGemmArgs& args) {
          return cuda_gemm_sm80_with(on, args, plan, ctas);
        });
        ASSERT_TRUE(outcome.ok()) << tile.m << "x" << tile.n << " on " << ctas << ": " << outcome.message();
      }
    }
}

TEST(CudaGemmSm80, PlannedShapesAgreeWithFp64) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const Case& c : {Case{0, 64, 64}, Case{64, 0, 64}, Case{3, 16, 0}, Case{1, 5120, 5120}, Case{127, 1280, 640, 16},
                        Case{2048, 5120, 640}, Case{777, 2000, 808, 8}, Case{16, 1280, 640, 0, DType::kF16},
                        Case{777, 2000, 808, 8, DType::kF16}})
    WEFT_ASSERT_OK(check(stream->get(), c, cuda_gemm_sm80));
}

TEST(CudaGemm, PlannedShapesAgreeWithFp64) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const Case& c : {Case{0, 64, 64}, Case{64, 0, 64}, Case{3, 16, 0}, Case{1, 5120, 5120}, Case{127, 1280, 640, 16},
                        Case{512, 12800, 512}, Case{2048, 5120, 640}, Case{777, 2000, 808, 8},
                        Case{16, 1280, 640, 0, DType::kF16}, Case{777, 2000, 808, 8, DType::kF16}})
    WEFT_ASSERT_OK(check(stream->get(), c, cuda_gemm));
}

TEST(CudaGemm, TheSmallKernelAgreesWithFp64HoweverItIsCut) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  const auto whole = cuda_small_gemm_room();
  WEFT_ASSERT_OK(whole.status());
  for (const Case& c :
       {Case{1, 8, 8}, Case{8, 136, 512}, Case{9, 1000, 1000, 8}, Case{31, 264, 640}, Case{64, 1280, 72},
        Case{50, 520, 1096}, Case{60, 1600, 2048, 16}, Case{65, 8, 8}, Case{100, 264, 640}, Case{128, 1600, 1096, 8},
        Case{9, 1000, 1000, 8, DType::kF16}, Case{60, 1600, 2048, 16, DType::kF16},
        Case{97, 1600, 2048, 16, DType::kF16}, Case{129, 264, 640}, Case{256, 520, 1096, 8}})
    for (const SmallGemmTile& tile : kSmallTiles)
      for (const int split : {1, 2, 4, 8})
        for (const int ctas : {8, 24, 132}) {  // several turns and one
          const auto plan = plan_small_gemm_sm90_cut(c.m, c.n, c.k, whole->within(ctas), tile, split);
          if (!plan) continue;
          const Status outcome = check(stream->get(), c, [&](cudaStream_t on, const CudaGemmArgs& args) {
            return cuda_gemm_small(on, args, *plan);
          });
          ASSERT_TRUE(outcome.ok()) << tile.row_groups * 64 << " x " << tile.columns << ", stages of " << tile.blocks
                                    << ", K cut by " << split << ", " << plan->ctas << " CTAs: " << outcome.message();
        }
}

// The kernels of a chain start before the one before has ended; each must see all of its output, and write only then.
TEST(CudaGemm, CallsInARowSeeEachOther) {
  WEFT_NEED_GPUS(1);
  const auto chain = [](cudaStream_t stream, bool apart) -> Result<std::vector<u16>> {
    constexpr i64 kWidth = 1536, kRows = 50;
    WEFT_ASSIGN(const auto w, DeviceBuffer::create(kWidth * kWidth * 2));
    WEFT_ASSIGN(const auto x, DeviceBuffer::create(2 * kRows * kWidth * 2));
    WEFT_TRY(fill_random_bf16(stream, w.data(), kWidth * kWidth, 1));
    WEFT_TRY(fill_random_bf16(stream, x.data(), 2 * kRows * kWidth, 2));
    const auto half = [&](int i) {
      return TensorView::dense(x.as<bf16>() + i % 2 * kRows * kWidth, DType::kBF16, {kRows, kWidth}, DeviceKind::kCuda);
    };
    const auto weights = TensorView::dense(w.data(), DType::kBF16, {kWidth, kWidth}, DeviceKind::kCuda);
    for (int i = 0; i < 12; ++i) {  // sums grow by 20 a step
      CudaGemmArgs args{half(i), weights, half(i + 1)};
      args.constant_w = i > 0;
      WEFT_TRY(cuda_gemm(stream, args));
      if (apart) WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
    }
    std::vector<u16> out(2 * kRows * kWidth);
    WEFT_CUDA_TRY(cudaMemcpyAsync(out.data(), x.data(), x.bytes(), cudaMemcpyDefault, stream));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
    return out;
  };
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  const auto expected = chain(stream->get(), true);
  WEFT_ASSERT_OK(expected.status());
  for (int round = 0; round < 20; ++round) {
    const auto seen = chain(stream->get(), false);
    WEFT_ASSERT_OK(seen.status());
    ASSERT_EQ(*seen, *expected) << "round " << round;
  }
}

TEST(CudaGemm, RefusesWrongInput) {
  WEFT_NEED_GPUS(1);
  auto memory = DeviceBuffer::create(1 << 16);
  WEFT_ASSERT_OK(memory.status());
  const auto view = [&](i64 rows, i64 cols, i64 shift = 0) {
    return TensorView::dense(memory->as<std::byte>() + shift, DType::kBF16, {rows, cols}, DeviceKind::kCuda);
  };
  const auto of = [](TensorView v, DType dtype) {
    v.dtype = dtype;
    return v;
  };
  const std::pair<Status, const char*> cases[] = {
      {cuda_gemm(nullptr, {of(view(8, 16), DType::kI32), view(8, 16), view(8, 8)}), "x: expected bf16 or f16"},
      {cuda_gemm(nullptr, {of(view(8, 16), DType::kF16), view(8, 16), view(8, 8)}), "w"},
      {cuda_gemm(nullptr, {view(8, 16), view(8, 24), view(8, 8)}), "w"},
      {cuda_gemm(nullptr, {view(8, 16), view(8, 16), view(9, 8)}), "y"},
      {cuda_gemm(nullptr, {view(8, 12), view(8, 12), view(8, 8)}), "x"},  // row stride of 24 bytes
      {cuda_gemm(nullptr, {view(8, 16, 2), view(8, 16), view(8, 8)}), "x"},
      {cuda_gemm(nullptr, {view(8, 16), view(12, 16), view(8, 12)}), "y"},
  };
  for (const auto& [status, text] : cases) {
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_EQ(status.message().find(text), 0u) << status.message();
  }
}

}  // namespace
}  // namespace weft
