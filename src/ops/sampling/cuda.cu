#include "device/cuda/rows.cuh"
#include "ops/sampling/cuda_cut.cuh"
#include "ops/sampling/philox.h"
#include "ops/sampling/sampling.cuh"

namespace weft {
namespace {

using namespace sampling;

constexpr i32 kBlock = 256;  // weights summed at a time, as on the CPU
constexpr size_t kSharedBytes = kBuckets * 2 * sizeof(u32);
static_assert(kCudaSampleMostTokens / kBlock * sizeof(double) <= kSharedBytes);

struct Params {
  const std::byte* logits;
  std::byte* workspace;
  const CudaSampleRow* rows;
  i32* tokens;
  i64 logits_stride, workspace_stride;  // bytes
  i32 vocab;
  bool eight;  // logits may be read eight at a time
};

// What the CTA agrees on. `value` is the largest logit, `token` the first that has it.
struct Largest {
  float value;
  i32 token;
};
struct Shared {
  CutShared cut;
  Largest warps[kWarps];
  i32 fault;
};

__device__ __forceinline__ Largest larger(const Largest& a, const Largest& b) {
  const bool second = b.value > a.value || (b.value == a.value && b.token < a.token);
  return second ? b : a;
}

// The largest of logits [vocab] on every thread; s.fault where one is NaN.
template <class T>
__device__ __forceinline__ Largest find_largest(Shared& s, const T* logits, i32 vocab, bool eight) {
  Largest best{-INFINITY, 0x7fffffff};
  bool nan = false;
  const auto look = [&](float logit, i32 token) {
    nan |= logit != logit;
    if (logit > best.value) best = {logit, token};  // tokens ascend: the first of equals stays
  };
  const i32 whole = eight ? vocab / 8 : 0;
  for (i32 run = i32(threadIdx.x); run < whole; run += kThreads) {
    float v[8];
    load_floats(logits + i64(run) * 8, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) look(v[i], run * 8 + i);
  }
  for (i32 i = whole * 8 + i32(threadIdx.x); i < vocab; i += kThreads) look(float(logits[i]), i);
  for (int apart = 16; apart > 0; apart /= 2)
    best = larger(best, {__shfl_xor_sync(~0u, best.value, apart), __shfl_xor_sync(~0u, best.token, apart)});
  if (nan) s.fault = kLogitsNan;
  if (threadIdx.x % 32 == 0) s.warps[threadIdx.x / 32] = best;
  __syncthreads();
  best = s.warps[threadIdx.x % 32];
  for (int apart = 16; apart > 0; apart /= 2)
    best = larger(best, {__shfl_xor_sync(~0u, best.value, apart), __shfl_xor_sync(~0u, best.token, apart)});
  return best;
}

// out [vocab] = logits after mask, bias and penalties.
template <class T>
__device__ __forceinline__ void adjust(Shared& s, const CudaSampleRow& row, const T* logits, i32 vocab, float* out) {
  for (i32 i = i32(threadIdx.x); i < vocab; i += kThreads) {
    const bool allowed = row.allowed == nullptr || (row.allowed[i / 32] >> i % 32 & 1);
    out[i] = allowed ? float(logits[i]) : -INFINITY;
  }
  const auto inside = [&](i32 token) {
    if (0 <= token && token < vocab) return true;
    s.fault = kTokenOutside;
    return false;
  };
  __syncthreads();
  for (i32 i = i32(threadIdx.x); i < row.num_bias; i += kThreads) {
    const LogitBias bias = row.bias[i];
    if (inside(bias.token)) out[bias.token] = __fadd_rn(out[bias.token], bias.bias);
  }
  __syncthreads();
  const SamplingParams& p = row.params;
  for (i32 i = i32(threadIdx.x); has_penalty(p) && i < row.num_counts; i += kThreads) {
    const TokenCount count = row.counts[i];
    if (!inside(count.token)) continue;
    float logit = out[count.token];
    logit = logit > 0 ? __fdiv_rn(logit, p.repetition_penalty) : __fmul_rn(logit, p.repetition_penalty);
    if (count.in_answer > 0)
      logit = __fsub_rn(logit, __fadd_rn(__fmul_rn(p.frequency_penalty, float(count.in_answer)), p.presence_penalty));
    out[count.token] = logit;
  }
  __syncthreads();
}

// simd.h's generic exp() of (logit - largest) / temperature, operation by operation: no multiply-add may be fused.
__device__ __forceinline__ float weight_of(float logit, float largest, float temperature) {
  constexpr float kLowest = -87.3f, kHighest = 88.3f, kShift = 12582912.0f;
  const auto times_plus = [](float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); };
  const float x = __fdiv_rn(__fsub_rn(logit, largest), temperature);
  const float above = kLowest > x ? kLowest : x, clamped = kHighest < above ? kHighest : above;
  const float t = times_plus(clamped, 1.44269504f, kShift);
  const float n = __fsub_rn(t, kShift);
  const float r = times_plus(n, 2.12194440e-4f, times_plus(n, -0.693359375f, clamped));
  float p = times_plus(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = times_plus(p, r, 8.3334519073e-3f);
  p = times_plus(p, r, 4.1665795894e-2f);
  p = times_plus(p, r, 1.6666665459e-1f);
  p = times_plus(p, r, 5.0000001201e-1f);
  p = __fadd_rn(times_plus(p, __fmul_rn(r, r), r), 1.0f);
  const float y = __fmul_rn(p, __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000));
  return x < kLowest ? 0.0f : y;  // x <= 0: never above kHighest
}

__device__ __forceinline__ void drop_beyond(const Cut& cut, float* weights, i32 vocab) {
  for (i32 i = i32(threadIdx.x); i < vocab; i += kThreads)
    if (!cut.keeps(__float_as_uint(weights[i]), i)) weights[i] = 0;
  __syncthreads();
}

// [thread 0] The block in which fraction `u` of the summed totals lies, and what of it is left there.
__device__ __forceinline__ i32 find_block(const double* totals, i32 blocks, double u, double& left) {
  double total = 0;
#pragma unroll 8
  for (i32 b = 0; b < blocks; ++b) total = __dadd_rn(total, totals[b]);
  left = __dmul_rn(u, total);
  i32 block = 0;
  while (block + 1 < blocks && left >= totals[block]) left = __dadd_rn(left, -totals[block++]);
  return block;
}

// [warp 0] The token at fraction `u` of the summed weights; those below `least` count as 0.
__device__ __forceinline__ i32 draw_from(const float* weights, i32 vocab, float least, const double* totals, double u) {
  const int lane = threadIdx.x % 32;
  const i32 blocks = (vocab + kBlock - 1) / kBlock;
  double left = 0;
  i32 block = 0, last = -1;
  if (lane == 0) block = find_block(totals, blocks, u, left);
  left = shuffle(left, 0), block = __shfl_sync(~0u, block, 0);
  const auto weight_at = [&](i32 i) {
    const float w = i < vocab ? weights[i] : 0.0f;
    return w < least ? 0.0f : w;
  };
  for (i32 base = block * kBlock; base < vocab; base += 32) {
    const float mine = weight_at(base + lane);
    for (u32 some = __ballot_sync(~0u, mine > 0); some != 0; some &= some - 1) {
      const int next = __ffs(int(some)) - 1;
      const double weight = double(__shfl_sync(~0u, mine, next));
      last = base + next;  // where rounding leaves a rest: the last token that has any weight
      if (left < weight) return last;
      left = __dadd_rn(left, -weight);
    }
  }
  for (i32 base = block * kBlock; last < 0 && base > 0; base -= 32) {
    const u32 some = __ballot_sync(~0u, weight_at(base - 32 + lane) > 0);
    if (some != 0) last = base - 32 + 31 - __clz(int(some));
  }
  return last;
}

// All threads; the token is returned on warp 0.
__device__ __forceinline__ i32 draw(const float* weights, i32 vocab, const CudaSampleRow& row, double* totals) {
  const i32 sums = (vocab + kBlock - 1) / kBlock * 8;  // eight lanes of each block, as the CPU sums
  const float least = row.params.min_p;
  for (i32 base = i32(threadIdx.x / 32) * 32; base < sums; base += kThreads) {  // the same for all lanes of a warp
    const i32 item = base + i32(threadIdx.x % 32), begin = item / 8 * kBlock, end = min(begin + kBlock, vocab);
    double sum = 0;
    for (i32 i = begin + item % 8; i < end; i += 8) {
      const float w = weights[i];
      sum = __dadd_rn(sum, double(w < least ? 0.0f : w));
    }
    for (int apart = 1; apart < 8; apart *= 2) sum = __dadd_rn(sum, __shfl_xor_sync(~0u, sum, apart));
    if (item % 8 == 0 && item < sums) totals[item / 8] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return -1;
  const u64 seed = row.params.seed;
  const std::array<u32, 4> bits =
      philox4x32({u32(row.position), u32(row.position >> 32), u32(row.params.choice), 0}, {u32(seed), u32(seed >> 32)});
  const double u = __dmul_rn(double((u64(bits[0]) << 32 | bits[1]) >> 11), 0x1p-53);
  return draw_from(weights, vocab, least, totals, u);
}

// [all threads] Row's token, or its fault, on warp 0.
template <class T>
__device__ __forceinline__ i32 sample_row(Shared& s, std::byte* buckets, const Params& p, i64 index) {
  const CudaSampleRow& row = p.rows[index];
  const SamplingParams& params = row.params;
  const T* logits = reinterpret_cast<const T*>(p.logits + index * p.logits_stride);
  float* weights = reinterpret_cast<float*>(p.workspace + index * p.workspace_stride);
  const bool adjusts = row.allowed != nullptr || row.num_bias > 0 || has_penalty(params);
  if (adjusts) {
    adjust(s, row, logits, p.vocab, weights);
    if (s.fault != 0) return s.fault;
    __syncthreads();  // all have read the fault before another may be set
  }
  const Largest largest =
      adjusts ? find_largest(s, weights, p.vocab, false) : find_largest(s, logits, p.vocab, p.eight);
  if (s.fault != 0) return s.fault;
  if (isinf(largest.value)) return largest.value > 0 ? kLogitsInfinite : kNothingFinite;
  if (params.temperature == 0) return largest.token;
  for (i32 i = i32(threadIdx.x); i < p.vocab; i += kThreads)
    weights[i] = weight_of(adjusts ? weights[i] : float(logits[i]), largest.value, params.temperature);
  __syncthreads();
  if (params.top_k > 0 && params.top_k < p.vocab)
    drop_beyond(find_cut<false>(s.cut, weights, p.vocab, [&](double) { return double(params.top_k); }), weights,
                p.vocab);
  if (params.top_p < 1)
    drop_beyond(
        find_cut<true>(s.cut, weights, p.vocab, [&](double total) { return __dmul_rn(double(params.top_p), total); }),
        weights, p.vocab);
  return draw(weights, p.vocab, row, reinterpret_cast<double*>(buckets));
}

// A CTA per row.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const __grid_constant__ Params p) {
  __shared__ alignas(16) std::byte buckets[kSharedBytes];
  __shared__ Shared s;
  if (threadIdx.x == 0) {
    s.fault = 0;
    s.cut.low = reinterpret_cast<u32*>(buckets);
    s.cut.high = s.cut.low + kBuckets;
  }
  __syncthreads();
  const i32 token = sample_row<T>(s, buckets, p, blockIdx.x);
  if (threadIdx.x == 0) p.tokens[blockIdx.x] = token;
}

}  // namespace

Status cuda_sample(cudaStream_t stream, const CudaSampleArgs& args) {
  WEFT_TRY(expect_cuda_floats("logits", args.logits, {-1, -1}));
  const i64 rows = args.logits.dim(0), vocab = args.logits.dim(1);
  WEFT_TRY(expect_cuda_tensor("workspace", args.workspace, DType::kF32, {rows, vocab}));
  WEFT_TRY(expect_cuda_tensor("tokens", args.tokens, DType::kI32, {rows}));
  if (rows == 0) return {};
  if (vocab < 1 || vocab > kCudaSampleMostTokens)
    return error(Code::kInvalidArgument, "logits: expected 1 to {} tokens, found {}", kCudaSampleMostTokens, vocab);
  if (args.rows == nullptr)
    return error(Code::kInvalidArgument, "rows: expected {} in device memory, found null", rows);
  const Params params{.logits = args.logits.data,
                      .workspace = args.workspace.data,
                      .rows = args.rows,
                      .tokens = args.tokens.as<i32>(),
                      .logits_stride = args.logits.byte_strides[0],
                      .workspace_stride = args.workspace.byte_strides[0],
                      .vocab = i32(vocab),
                      .eight = allows_eight(args.logits)};
  const auto kernel = args.logits.dtype == DType::kBF16  ? sample_kernel<bf16>
                      : args.logits.dtype == DType::kF16 ? sample_kernel<f16>
                                                         : sample_kernel<float>;
  return launch("sample", kernel, {.grid = unsigned(rows), .block = kThreads}, stream, params);
}

Status cuda_sample_status(i32 token, i64 row) {
  switch (token) {
    case kLogitsNan: return error(Code::kDataLoss, "logits: NaN in row {}", row);
    case kLogitsInfinite: return error(Code::kDataLoss, "logits: infinity in row {}", row);
    case kNothingFinite: return error(Code::kDataLoss, "logits: no finite value in row {}", row);
    case kTokenOutside:
      return error(Code::kInvalidArgument, "bias or counts: a token outside the vocabulary, row {}", row);
    default: return {};
  }
}

}  // namespace weft
