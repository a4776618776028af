#include "dist/all_reduce/cuda_norm.cuh"

#include "comm/machine/cuda_words.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "ops/rms_norm/cuda_row.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "all_reduce, rms_norm";
constexpr int kRun = 8;  // columns of a pack
constexpr int kKept =
    2;  // packs of a row that a thread keeps, as rms_norm's kernel does: so their sums have the same bits

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  AllReduceWords buffers;
  const std::byte* x;
  std::byte *residual, *y;
  i64 residual_stride;  // bytes
  const void* weight;
  DType weight_type;
  float epsilon;
  i64 rows, hidden;
};

// S: the residual's type.
template <int Ranks, class T, class S>
struct Hooks {
  const Params<Ranks>& params;
  float (&scratch)[2][32];
  float kept[kKept][kRun];
  float squares = 0;
  int half = 0;

  __device__ __forceinline__ void take(int slot, i64 row, i64 pack, const Pack<T>& sum) {
    S* residual = reinterpret_cast<S*>(params.residual + row * params.residual_stride) + pack * kRun;
    float v[kRun];
    load_floats(residual, v);
#pragma unroll
    for (int i = 0; i < kRun; ++i) v[i] = float(S(v[i] + float(sum.values[i])));
    store_floats(residual, v);
#pragma unroll
    for (int i = 0; i < kRun; ++i) squares += v[i] * v[i];
#pragma unroll
    for (int k = 0; k < kKept; ++k)  // constant indices: they stay in registers
      if (k == slot)
#pragma unroll
        for (int i = 0; i < kRun; ++i) kept[k][i] = v[i];
  }
  __device__ __forceinline__ void row(i64 row) {
    const float scale = norm_scale(squares, params.hidden, params.epsilon, scratch[half]);
    T* y = reinterpret_cast<T*>(params.y) + row * params.hidden;
#pragma unroll
    for (int k = 0; k < kKept; ++k)
      if (const i64 at = (threadIdx.x + k * i64(blockDim.x)) * kRun; at < params.hidden)
        put_normed(y, params.weight, params.weight_type, at, kept[k], scale);
    squares = 0;
    half ^= 1;
  }
};

template <int Ranks, class T, class S>
__global__ void __launch_bounds__(1024) all_reduce_norm_kernel(const __grid_constant__ Params<Ranks> params) {
  __shared__ float scratch[2][32];
  CudaWordsMachine<Ranks> machine(params.group);
  all_reduce_rows_words<T>(machine, params.buffers, reinterpret_cast<const T*>(params.x), params.rows,
                           params.hidden / kRun, Hooks<Ranks, T, S>{params, scratch});
}

// f(T{}, S{}) for 16-bit T and a residual of that type or f32.
template <class F>
Status with_types(DType dtype, DType residual, F&& f) {
  return with_float_types(kOp, residual, dtype, [&](auto s, auto t) -> Status {
    if constexpr (sizeof(t) == 2)
      return f(t, s);
    else
      return error(Code::kUnimplemented, "{}: no kernel for {}", kOp, dtype_name(dtype));
  });
}

}  // namespace

bool fuses_rms_norm(const CudaRmsNormArgs& a) {
  const bool types = (a.x.dtype == DType::kBF16 || a.x.dtype == DType::kF16) && a.residual.data != nullptr &&
                     (a.residual.dtype == a.x.dtype || a.residual.dtype == DType::kF32);
  return types && a.x.shape.rank() == 2 && a.x.dim(1) % kRun == 0 && a.x.dim(1) <= kKept * kRun * 1024 &&
         a.x.is_dense() && allows_eight(a.x) && allows_eight(a.y) && allows_eight(a.weight) && allows_eight(a.residual);
}

Status all_reduce_norm(cudaStream_t stream, CudaCommunicator& comm, const AllReduceWords& buffers,
                       const CudaRmsNormArgs& a) {
  WEFT_TRY(expect_cuda_floats("weight", a.weight, {a.x.dim(1)}));
  WEFT_TRY(expect_cuda_tensor("y", a.y, a.x.dtype, a.x.shape));
  WEFT_TRY(expect_cuda_floats("residual", a.residual, a.x.shape));
  const i64 rows = a.x.dim(0), hidden = a.x.dim(1);
  return with_ranks(comm.size(), [&](auto count) {
    const Params<count()> params{.group = comm.group<count()>(kOp),
                                 .buffers = buffers,
                                 .x = a.x.data,
                                 .residual = a.residual.data,
                                 .y = a.y.data,
                                 .residual_stride = a.residual.byte_strides[0],
                                 .weight = a.weight.data,
                                 .weight_type = a.weight.dtype,
                                 .epsilon = a.epsilon,
                                 .rows = rows,
                                 .hidden = hidden};
    return with_types(a.x.dtype, a.residual.dtype, [&](auto t, auto s) {
      return launch(kOp, all_reduce_norm_kernel<count(), decltype(t), decltype(s)>,
                    {.grid = unsigned(std::min<i64>(rows, comm.max_ctas())),
                     .block = unsigned(norm_threads(hidden, kRun, kKept))},
                    stream, params);
    });
  });
}

Status prepare_all_reduce_norm(DType dtype, int ranks) {
  for (const DType residual : {dtype, DType::kF32}) WEFT_TRY(prepare_cuda_rms_norm(residual, dtype));
  if (dtype == DType::kF32) return {};
  return with_ranks(ranks, [&](auto count) -> Status {
    for (const DType residual : {dtype, DType::kF32})
      WEFT_TRY(with_types(dtype, residual, [&](auto t, auto s) {
        return prepare_kernel(
            kOp, reinterpret_cast<const void*>(all_reduce_norm_kernel<count(), decltype(t), decltype(s)>), 0);
      }));
    return {};
  });
}

}  // namespace weft
