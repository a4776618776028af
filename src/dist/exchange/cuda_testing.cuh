// What the GPU tests of the operators of many ranks share: checked calls whose number lives in device memory, so that a
// replayed graph has new data each time, and data whose sums are exact.
#pragma once
#include <vector>

#include "base/tensor.h"
#include "comm/cuda_testing.cuh"
#include "comm/machine/pack.h"
#include "device/cuda/testing.cuh"
#include "dist/exchange/fused_element.cuh"

namespace weft::gpu_test {

// x[i] of a rank in a call: small integers, whose sums over 8 ranks are exact in bf16.
WEFT_HD float value_of(u32 call, int rank, i64 i) {
  return float(int((call * 131 + u32(rank) * 17 + u32(i) * 3) % 61) - 30);
}
static __global__ void fill_kernel(bf16* x, i64 n, int rank, const u32* call) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = bf16(value_of(*call, rank, i));
}
static __global__ void check_sum_kernel(const bf16* y, i64 n, int ranks, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    float sum = 0;
    for (int rank = 0; rank < ranks; ++rank) sum += value_of(*call, rank, i);
    if (!(float(y[i]) == sum)) atomicAdd(wrong, 1u);
  }
}
// y[i] must be element first + i of `source`.
static __global__ void check_copy_kernel(const bf16* y, i64 n, int source, i64 first, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    if (!(float(y[i]) == value_of(*call, source, first + i))) atomicAdd(wrong, 1u);
}
static __global__ void next_call_kernel(u32* call) {
  ++*call;
}
static __global__ void delay_kernel(u64 ns) {
  const u64 start = ptx::globaltimer_ns();
  while (ptx::globaltimer_ns() - start < ns) __nanosleep(200);
}

// The elements of the matrices of a product: -1, 0 and 1, so that the sum of some thousand terms is exact in bf16.
// which: 0 = x, 1 = w. `source`: the rank that owns the matrix.
WEFT_HD float element_of(u32 call, int which, int source, i64 row, i64 column) {
  u32 h = call * 2654435761u + u32(which * 16 + source) * 40503u + u32(row) * 69069u + u32(column) * 362437u;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  const u32 pick = (h >> 8) % 4;
  return pick == 0 ? 1.0f : pick == 1 ? -1.0f : 0.0f;
}
// Rows [first, first + rows) of a matrix.
template <class T>
__global__ void fill_matrix_kernel(T* out, i64 stride, int first, int rows, int columns, int which, int source,
                                   const u32* call) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < i64(rows) * columns; i += i64(gridDim.x) * blockDim.x)
    out[i / columns * stride + i % columns] = T(element_of(*call, which, source, first + i / columns, i % columns));
}

// y [rows + guards, n] must be rows [first, first + rows) of the sum over `terms` of x w^T, and the guards untouched
// (0xffff). Term t: x of source x_source + t, w of source w_source + t, over k - t * k_less columns.
struct ProductCheck {
  const void* y;
  i64 stride;
  int first, rows, n, k;
  int x_source, w_source, terms, k_less, guards = 1;
};
template <class T>
__global__ void check_product_kernel(const ProductCheck c, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < i64(c.rows + c.guards) * c.n;
       i += i64(gridDim.x) * blockDim.x) {
    const int row = int(i / c.n), column = int(i % c.n);
    const T& seen = static_cast<const T*>(c.y)[row * c.stride + column];
    u16 bits;
    memcpy(&bits, &seen, sizeof(bits));
    float sum = 0;
    if (row < c.rows)
      for (int t = 0; t < c.terms; ++t)
        for (int j = 0; j < c.k - t * c.k_less; ++j)
          sum +=
              element_of(*call, 0, c.x_source + t, c.first + row, j) * element_of(*call, 1, c.w_source + t, column, j);
    if (row < c.rows ? !(float(seen) == sum) : bits != 0xffff) atomicAdd(wrong, 1u);
  }
}

// The call's number and the count of wrong elements, in device memory.
class CallCounter {
 public:
  // Loads the kernels above, too: before operators are created, which waits for all ranks.
  static Result<CallCounter> create() {
    for (const void* kernel :
         {reinterpret_cast<const void*>(fill_kernel), reinterpret_cast<const void*>(check_sum_kernel),
          reinterpret_cast<const void*>(check_copy_kernel), reinterpret_cast<const void*>(next_call_kernel),
          reinterpret_cast<const void*>(delay_kernel), reinterpret_cast<const void*>(fill_matrix_kernel<bf16>),
          reinterpret_cast<const void*>(fill_matrix_kernel<f16>),
          reinterpret_cast<const void*>(check_product_kernel<bf16>),
          reinterpret_cast<const void*>(check_product_kernel<f16>)})
      WEFT_TRY(prepare_kernel("test kernels", kernel, 0));
    CallCounter counter;
    WEFT_ASSIGN(counter.words_, DeviceBuffer::create(2 * sizeof(u32)));
    WEFT_CUDA_TRY(cudaMemset(counter.words_.data(), 0, counter.words_.bytes()));
    WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
    return std::move(counter);
  }
  u32* call() const { return words_.as<u32>(); }
  u32* wrong() const { return call() + 1; }
  Status fill(cudaStream_t stream, bf16* x, i64 n, int rank) const {
    return launch("fill", fill_kernel, {.grid = 32, .block = 256}, stream, x, n, rank, call());
  }
  Status check_copy(cudaStream_t stream, const bf16* y, i64 n, int source, i64 first = 0) const {
    return launch("check", check_copy_kernel, {.grid = 32, .block = 256}, stream, y, n, source, first, call(), wrong());
  }
  // x (`which` 0) or w (1) of `dtype`, bf16 or f16.
  Status fill_matrix(cudaStream_t stream, DType dtype, void* out, i64 stride, const Range& rows, i64 columns, int which,
                     int source) const {
    return with_fused_element(dtype, [&](auto element) {
      using T = decltype(element);
      return launch("fill", fill_matrix_kernel<T>, {.grid = 32, .block = 256}, stream, static_cast<T*>(out), stride,
                    int(rows.begin), int(rows.size()), int(columns), which, source, call());
    });
  }
  Status check_product(cudaStream_t stream, DType dtype, const ProductCheck& check) const {
    return with_fused_element(dtype, [&](auto element) {
      return launch("check", check_product_kernel<decltype(element)>, {.grid = 264, .block = 256}, stream, check,
                    call(), wrong());
    });
  }
  Status next(cudaStream_t stream) const { return launch("next_call", next_call_kernel, {}, stream, call()); }
  // Fails unless `calls` calls ran and none gave a wrong element.
  Status verify(const CudaCommunicator& comm, cudaStream_t stream, u32 calls) const {
    WEFT_TRY(comm.synchronize(stream));
    u32 seen[2];
    WEFT_CUDA_TRY(cudaMemcpy(seen, words_.data(), sizeof(seen), cudaMemcpyDefault));
    if (seen[0] != calls || seen[1] != 0)
      return error(Code::kAborted, "{} calls of {}, {} wrong elements", seen[0], calls, seen[1]);
    return {};
  }

 private:
  DeviceBuffer words_;
};

// Memory is allocated and set by the driver's kernels, which may be loaded for that: both may wait for a peer's kernel
// on this GPU, and that for this rank. So nobody starts before all have done so.
inline Status all_are_ready(const CudaCommunicator& comm) {
  return comm.world().barrier(Deadline::after(std::chrono::seconds(30)));
}

// As capture_graph(), ready to be launched on every rank when it returns: to make a graph with copies waits for what
// runs on the GPU, which may be a peer's kernel that waits for this rank. Collective.
inline Result<CudaGraph> capture_on_all(const CudaCommunicator& comm, cudaStream_t stream,
                                        const std::function<Status()>& work) {
  WEFT_ASSIGN(auto graph, capture_graph(stream, work));
  WEFT_CUDA_TRY(cudaGraphUpload(graph.get(), stream));
  WEFT_TRY(comm.synchronize(stream));
  WEFT_TRY(all_are_ready(comm));
  return std::move(graph);
}

// Sets `memory` to 0xff as enqueued calls will, by the same kernel of the driver, which is loaded here. To be called,
// and memory allocated, before an operator is created, which waits for all ranks.
inline Status set_once(const DeviceBuffer& memory) {
  WEFT_CUDA_TRY(cudaMemset(memory.data(), 0xff, memory.bytes()));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  return {};
}

inline Status delay(cudaStream_t stream, u64 ns) {
  return launch("delay", delay_kernel, {}, stream, ns);
}

// Each complaint must have the code and hold its text.
inline Status expect_refused(const std::vector<std::pair<Status, const char*>>& cases,
                             Code code = Code::kInvalidArgument) {
  for (const auto& [status, text] : cases)
    if (status.code() != code || status.message().find(text) == std::string::npos)
      return error(Code::kAborted, "expected a complaint about '{}', found '{}'", text, status.message());
  return {};
}

// A dense matrix of `dtype`, bf16 or f16, is NaN in the rows `nans`, and 0 elsewhere. Synchronises.
inline Status expect_nans(const TensorView& y, const Range& nans) {
  std::vector<u16> bits(size_t(y.shape.elements()));
  WEFT_CUDA_TRY(cudaMemcpy(bits.data(), y.data, bits.size() * 2, cudaMemcpyDefault));
  const int infinity = y.dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  for (size_t i = 0; i < bits.size(); ++i) {
    const i64 row = i64(i) / y.dim(1);
    const bool nan = row >= nans.begin && row < nans.end;
    if (nan ? (bits[i] & 0x7fff) <= infinity : (bits[i] & 0x7fff) != 0)
      return error(Code::kAborted, "{}: row {} is {:#x}", y.describe(), row, bits[i]);
  }
  return {};
}

inline TensorView matrix_of(DType dtype, void* data, i64 rows, i64 columns, i64 stride = 0) {
  TensorView view = TensorView::dense(data, dtype, {rows, columns}, DeviceKind::kCuda);
  if (stride > 0) view.byte_strides[0] = stride * 2;
  return view;
}
inline TensorView bf16_matrix(void* data, i64 rows, i64 columns, i64 stride = 0) {
  return matrix_of(DType::kBF16, data, rows, columns, stride);
}

}  // namespace weft::gpu_test
