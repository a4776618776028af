// What the GPU tests of experts over many ranks share: a routing that changes with every call, sorted on the device.
#pragma once
#include "dist/exchange/cuda_testing.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft::gpu_test {

// Distinct experts for every token, some left out; now and then one hot expert, or none at all.
static __global__ void route_kernel(i32* ids, float* weights, int tokens, int per_token, int experts, const u32* call) {
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < tokens * per_token; i += int(gridDim.x * blockDim.x)) {
    const int token = i / per_token, j = i % per_token;
    u32 h = *call * 2654435761u + u32(token) * 69069u;
    h = (h ^ (h >> 15)) * 0x85ebca6bu;
    h ^= h >> 13;
    const bool hot = *call % 4 == 3, none = *call % 7 == 5 || (h >> 8) % 6 == u32(j);
    ids[i] = none ? -1 : (int(hot ? 0 : h % u32(experts)) + j) % experts;
    const float values[] = {0.5f, 1.0f, 2.0f, -1.0f};
    weights[i] = values[(h >> (j % 8)) % 4];
  }
}

// The routing of up to `tokens` tokens in device memory.
class CudaRouting {
 public:
  static Result<CudaRouting> create(i64 tokens, i64 per_token, i64 experts) {
    WEFT_TRY(prepare_kernel("test kernels", reinterpret_cast<const void*>(route_kernel), 0));
    WEFT_TRY(prepare_cuda_grouped_gemm());
    CudaRouting routing;
    routing.per_token_ = per_token;
    routing.experts_ = experts;
    for (DeviceBuffer* b :
         {&routing.ids_, &routing.weights_, &routing.placed_, &routing.map_, &routing.pairs_, &routing.rows_}) {
      WEFT_ASSIGN(*b, DeviceBuffer::create(size_t(tokens * per_token) * 4));
    }
    WEFT_ASSIGN(routing.offsets_, DeviceBuffer::create(size_t(experts + 1) * 4));
    return std::move(routing);
  }
  Status enqueue(cudaStream_t stream, i64 tokens, const u32* call) {
    WEFT_TRY(launch("route", route_kernel, {.grid = 8, .block = 256}, stream, ids_.as<i32>(), weights_.as<float>(),
                    int(tokens), int(per_token_), int(experts_), call));
    return cuda_sort_experts(stream, {.ids = table(ids_, tokens),
                                      .offsets = offsets(),
                                      .map = map(tokens),
                                      .pairs = pairs(tokens),
                                      .rows = rows(tokens),
                                      .weights = weights(tokens),
                                      .placed = placed(tokens)});
  }
  TensorView offsets() const { return list(offsets_, experts_ + 1); }
  TensorView map(i64 tokens) const { return list(map_, tokens * per_token_); }
  TensorView pairs(i64 tokens) const { return list(pairs_, tokens * per_token_); }
  TensorView rows(i64 tokens) const { return table(rows_, tokens); }
  TensorView weights(i64 tokens) const { return table(weights_, tokens, DType::kF32); }
  TensorView placed(i64 tokens) const { return table(placed_, tokens, DType::kF32); }
  const i32* ids() const { return ids_.as<i32>(); }

 private:
  static TensorView list(const DeviceBuffer& b, i64 count) {
    return TensorView::dense(b.data(), DType::kI32, {count}, DeviceKind::kCuda);
  }
  TensorView table(const DeviceBuffer& b, i64 tokens, DType dtype = DType::kI32) const {
    return TensorView::dense(b.data(), dtype, {tokens, per_token_}, DeviceKind::kCuda);
  }
  i64 per_token_ = 0, experts_ = 0;
  DeviceBuffer ids_, weights_, placed_, offsets_, map_, pairs_, rows_;
};

inline TensorView experts_of(DType dtype, void* data, i64 experts, i64 n, i64 k) {
  return TensorView::dense(data, dtype, {experts, n, k}, DeviceKind::kCuda);
}
inline TensorView bf16_experts(void* data, i64 experts, i64 n, i64 k) {
  return experts_of(DType::kBF16, data, experts, n, k);
}

}  // namespace weft::gpu_test
