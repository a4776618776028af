#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/sampling/cuda_cut.cuh"
#include "ops/sampling/philox.h"
#include "ops/sampling/sampling.cuh"

namespace weft {
namespace {

using namespace sampling;

constexpr i32 kBlock = 256, kGroup = 32;  // weights summed at a time and blocks of those, as on the CPU
constexpr int kAhead = 4;                 // runs of eight logits that a thread loads at a time
constexpr size_t kBucketBytes = kBuckets * 2 * sizeof(u32);
static_assert(kCudaSampleMostTokens / kBlock * sizeof(double) <= kBucketBytes);
constexpr i64 kMostInClusters = 32;                     // rows whose clusters an H200 runs at once
constexpr i64 kMostOfCta = 190 * 1024 / sizeof(float);  // tokens; their weights are in its shared memory
static_assert(kMostOfCta * RowCtas::kCount == kCudaSampleMostTokens);

struct Params {
  const std::byte* logits;
  const CudaSampleRow* rows;
  i32* tokens;
  i64 logits_stride;  // bytes
  i32 vocab;
  i32 slice;          // tokens of a CTA: whole blocks
  bool eight;         // logits may be read eight at a time
  bool greedy_apart;  // greedy_kernel() does those rows: many of them fit better there
};

// What the CTA agrees on. `value` is the largest logit, `token` the first that has it.
struct Largest {
  float value;
  i32 token;
};
struct Shared {
  CutShared cut;
  Largest warps[kWarps], largest;
  i32 fault;
};

__device__ __forceinline__ Largest larger(const Largest& a, const Largest& b) {
  const bool second = b.value > a.value || (b.value == a.value && b.token < a.token);
  return second ? b : a;
}

// The largest of the slice's logits on every thread of the CTA; s.fault where one is NaN. `kept` gets them unless it is
// null or they are already there.
template <class T>
__device__ __forceinline__ Largest find_largest(Shared& s, const T* logits, const Slice& slice, bool eight,
                                                float* kept) {
  Largest best{-INFINITY, 0x7fffffff};
  bool nan = false;
  const auto look = [&](float logit, i32 i) {
    nan |= logit != logit;
    if (logit > best.value) best = {logit, slice.begin + i};  // tokens ascend: the first of equals stays
  };
  const i32 whole = eight ? slice.size / 8 : 0;
  for (i32 first = i32(threadIdx.x); first < whole; first += kAhead * kThreads) {
    float v[kAhead][8];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (const i32 run = first + k * kThreads; run < whole) load_floats(logits + i64(run) * 8, v[k]);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const i32 run = first + k * kThreads;
      if (run >= whole) break;
      if (kept != nullptr) store_floats(kept + i64(run) * 8, v[k]);
#pragma unroll
      for (int i = 0; i < 8; ++i) look(v[k][i], run * 8 + i);
    }
  }
  for (i32 i = whole * 8 + i32(threadIdx.x); i < slice.size; i += kThreads) {
    const float v = float(logits[i]);
    if (kept != nullptr) kept[i] = v;
    look(v, i);
  }
  for (int apart = 16; apart > 0; apart /= 2)
    best = larger(best, {__shfl_xor_sync(~0u, best.value, apart), __shfl_xor_sync(~0u, best.token, apart)});
  if (nan) s.fault = kLogitsNan;
  if (threadIdx.x % 32 == 0) s.warps[threadIdx.x / 32] = best;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) best = larger(best, s.warps[warp]);
  return best;
}

// The row's, on every thread of its CTAs, from those of each; NaN where one has a fault.
__device__ __forceinline__ Largest largest_of_row(Shared& s, Largest best) {
  if (threadIdx.x == 0) s.largest = best;
  RowCtas::sync();
  bool fault = false;
  for (u32 cta = 0; cta < RowCtas::kCount; ++cta) {
    best = larger(best, *RowCtas::of(&s.largest, cta));
    fault |= *RowCtas::of(&s.fault, cta) != 0;
  }
  return fault ? Largest{NAN, 0} : best;
}

// The likeliest token, or why there is none.
__device__ __forceinline__ i32 token_of(const Largest& largest) {
  if (isnan(largest.value)) return kLogitsNan;
  if (isinf(largest.value)) return largest.value > 0 ? kLogitsInfinite : kNothingFinite;
  return largest.token;
}

__device__ __forceinline__ bool adjusts(const CudaSampleRow& row) {
  return row.allowed != nullptr || row.num_bias > 0 || has_penalty(row.params);
}

// out: the slice's logits after mask, bias and penalties. A token outside the vocabulary is s.fault on every CTA.
template <class T>
__device__ __forceinline__ void adjust(Shared& s, const CudaSampleRow& row, const T* logits, const Slice& slice,
                                       i32 vocab, float* out) {
  for (i32 i = i32(threadIdx.x); i < slice.size; i += kThreads) {
    const i32 token = slice.begin + i;
    const bool allowed = row.allowed == nullptr || (row.allowed[token / 32] >> token % 32 & 1);
    out[i] = allowed ? float(logits[i]) : -INFINITY;
  }
  // Where a token's logit lies, or null where it is another CTA's.
  const auto place_of = [&](i32 token) -> float* {
    if (token < 0 || token >= vocab) s.fault = kTokenOutside;
    const i32 i = token - slice.begin;
    return 0 <= i && i < slice.size ? out + i : nullptr;
  };
  __syncthreads();
  for (i32 i = i32(threadIdx.x); i < row.num_bias; i += kThreads) {
    const LogitBias bias = row.bias[i];
    if (float* const logit = place_of(bias.token)) *logit = __fadd_rn(*logit, bias.bias);
  }
  __syncthreads();
  const SamplingParams& p = row.params;
  for (i32 i = i32(threadIdx.x); has_penalty(p) && i < row.num_counts; i += kThreads) {
    const TokenCount count = row.counts[i];
    float* const place = place_of(count.token);
    if (place == nullptr) continue;
    float logit = *place;
    logit = logit > 0 ? __fdiv_rn(logit, p.repetition_penalty) : __fmul_rn(logit, p.repetition_penalty);
    if (count.in_answer > 0)
      logit = __fsub_rn(logit, __fadd_rn(__fmul_rn(p.frequency_penalty, float(count.in_answer)), p.presence_penalty));
    *place = logit;
  }
  __syncthreads();
}

// simd.h's generic exp() of (logit - largest) / temperature, operation by operation: no multiply-add may be fused.
__device__ __forceinline__ float weight_of(float logit, float largest, float temperature) {
  constexpr float kLowest = -87.3f, kHighest = 88.3f, kShift = 12582912.0f;
  const auto times_plus = [](float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); };
  const float below = __fsub_rn(logit, largest);
  const float x = temperature == 1 ? below : __fdiv_rn(below, temperature);
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

__device__ __forceinline__ void drop_beyond(const Cut& cut, float* weights, const Slice& slice) {
  for (i32 i = i32(threadIdx.x); i < slice.size; i += kThreads)
    if (!cut.keeps(__float_as_uint(weights[i]), slice.begin + i)) weights[i] = 0;
  __syncthreads();
}

// [a warp] As the CPU's pass_over() for up to 32 parts, a lane's each; the part on all lanes, and what is left there.
__device__ __forceinline__ i32 pass_over(double mine, i32 count, double& left) {
  i32 part = 0;
  for (; part + 1 < count; ++part) {
    const double total = shuffle(mine, part);
    if (left < total) break;
    left = __dadd_rn(left, -total);
  }
  return part;
}

// [a warp] The block in which fraction `u` of the summed totals lies, and what of it is left there.
__device__ __forceinline__ i32 find_block(const double* totals, i32 blocks, double u, double& left) {
  const i32 lane = i32(threadIdx.x % 32), groups = (blocks + kGroup - 1) / kGroup;
  const auto group_total = [&](i32 group) {  // a lane's
    double total = 0;
#pragma unroll 8
    for (i32 b = group * kGroup; b < min((group + 1) * kGroup, blocks); ++b) total = __dadd_rn(total, totals[b]);
    return total;
  };
  double total = 0;
  for (i32 base = 0; base < groups; base += 32) {
    const double mine = group_total(base + lane);
    for (i32 i = 0; i < min(32, groups - base); ++i) total = __dadd_rn(total, shuffle(mine, i));
  }
  left = __dmul_rn(u, total);
  i32 group = 0;
  for (i32 base = 0; base < groups; base += 32) {
    // A run of groups ends with its last one, but only the last of all takes any rest.
    const i32 count = min(33, groups - base);
    group = base + pass_over(group_total(base + lane), count, left);
    if (group < base + 32) break;
  }
  const i32 first = group * kGroup, count = min(kGroup, blocks - first);
  return first + pass_over(lane < count ? totals[first + lane] : 0.0, count, left);
}

// [a warp] The token at fraction `u` of the summed weights; weight_at(i) is 0 beyond the vocabulary.
template <class WeightAt>
__device__ __forceinline__ i32 draw_from(i32 vocab, const double* totals, double u, WeightAt&& weight_at) {
  const int lane = threadIdx.x % 32;
  const i32 blocks = (vocab + kBlock - 1) / kBlock;
  double left = 0;
  const i32 block = find_block(totals, blocks, u, left);
  i32 last = -1;
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

// All threads of the row's CTAs; the token is returned on the leader's warp 0. weights: the slice's.
__device__ __forceinline__ i32 draw(Shared& s, const Slice& slice, const CudaSampleRow& row, const Params& p,
                                    float* weights) {
  const i32 sums = (slice.size + kBlock - 1) / kBlock * 8;  // eight lanes of each block, as the CPU sums
  const float least = row.params.min_p;
  double* const totals = reinterpret_cast<double*>(RowCtas::of(s.cut.low, 0));
  for (i32 base = i32(threadIdx.x / 32) * 32; base < sums; base += kThreads) {  // the same for all lanes of a warp
    const i32 item = base + i32(threadIdx.x % 32), begin = item / 8 * kBlock, end = min(begin + kBlock, slice.size);
    double sum = 0;
    for (i32 i = begin + item % 8; i < end; i += 8) {
      const float w = weights[i];
      sum = __dadd_rn(sum, double(w < least ? 0.0f : w));
    }
    for (int apart = 1; apart < 8; apart *= 2) sum = __dadd_rn(sum, __shfl_xor_sync(~0u, sum, apart));
    if (item % 8 == 0 && item < sums) totals[slice.begin / kBlock + item / 8] = sum;
  }
  RowCtas::sync();
  if (!RowCtas::leads() || threadIdx.x >= 32) return -1;
  const u64 seed = row.params.seed;
  const std::array<u32, 4> bits =
      philox4x32({u32(row.position), u32(row.position >> 32), u32(row.params.choice), 0}, {u32(seed), u32(seed >> 32)});
  const double u = __dmul_rn(double((u64(bits[0]) << 32 | bits[1]) >> 11), 0x1p-53);
  return draw_from(p.vocab, totals, u, [&](i32 i) {
    const float w = i < p.vocab ? RowCtas::of(weights, u32(i / p.slice))[i % p.slice] : 0.0f;
    return w < least ? 0.0f : w;
  });
}

// [all threads of the row's CTAs] Row's token, or its fault, on the leader's warp 0.
template <class T>
__device__ __forceinline__ i32 sample_row(Shared& s, const Params& p, i64 index, float* weights) {
  const CudaSampleRow& row = p.rows[index];
  const SamplingParams& params = row.params;
  const i32 begin = min(i32(RowCtas::rank()) * p.slice, p.vocab);
  const Slice slice{begin, min(p.slice, p.vocab - begin)};
  const T* logits = reinterpret_cast<const T*>(p.logits + index * p.logits_stride) + begin;
  Largest largest;
  if (adjusts(row)) {
    adjust(s, row, logits, slice, p.vocab, weights);
    if (s.fault != 0) return s.fault;
    __syncthreads();  // all have read the fault before another may be set
    largest = find_largest(s, weights, slice, false, nullptr);
  } else {
    largest = find_largest(s, logits, slice, p.eight, params.temperature == 0 ? nullptr : weights);
  }
  largest = largest_of_row(s, largest);
  const i32 likeliest = token_of(largest);
  if (likeliest < 0 || params.temperature == 0) return likeliest;
#pragma unroll 4
  for (i32 i = i32(threadIdx.x); i < slice.size; i += kThreads)
    weights[i] = weight_of(weights[i], largest.value, params.temperature);
  __syncthreads();
  if (params.top_k > 0 && params.top_k < p.vocab)
    drop_beyond(find_cut<false>(s.cut, weights, slice, [&](double) { return double(params.top_k); }), weights, slice);
  if (params.top_p < 1)
    drop_beyond(
        find_cut<true>(s.cut, weights, slice, [&](double total) { return __dmul_rn(double(params.top_p), total); }),
        weights, slice);
  return draw(s, slice, row, p, weights);
}

// A CTA for each row whose likeliest token is wanted, nothing else.
template <class T>
__global__ void __launch_bounds__(kThreads) greedy_kernel(const __grid_constant__ Params p) {
  __shared__ Shared s;
  const i64 index = blockIdx.x;
  const CudaSampleRow& row = p.rows[index];
  if (row.params.temperature != 0 || adjusts(row)) return;
  if (threadIdx.x == 0) s.fault = 0;
  __syncthreads();
  const T* logits = reinterpret_cast<const T*>(p.logits + index * p.logits_stride);
  const Largest largest = find_largest(s, logits, {0, p.vocab}, p.eight, nullptr);
  if (threadIdx.x == 0) p.tokens[index] = s.fault != 0 ? i32(kLogitsNan) : token_of(largest);
}

// A cluster for a row.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(const __grid_constant__ Params p) {
  __shared__ alignas(16) std::byte buckets[kBucketBytes];
  __shared__ Shared s;
  extern __shared__ float4 weights[];
  if (threadIdx.x == 0) {
    s.fault = 0;
    s.cut.low = reinterpret_cast<u32*>(buckets);
    s.cut.high = s.cut.low + kBuckets;
  }
  __syncthreads();
  const i64 row = blockIdx.x / RowCtas::kCount;
  if (p.greedy_apart && p.rows[row].params.temperature == 0 && !adjusts(p.rows[row])) return;
  const i32 token = sample_row<T>(s, p, row, reinterpret_cast<float*>(weights));
  RowCtas::sync();  // nobody looks into another's shared memory any more
  if (RowCtas::leads() && threadIdx.x == 0) p.tokens[row] = token;
}

template <class T>
Status sample_as(cudaStream_t stream, i64 rows, const Params& params) {
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run([] {
    return prepare_kernel("sample", reinterpret_cast<const void*>(sample_kernel<T>), kMostOfCta * sizeof(float));
  }));
  if (params.greedy_apart)
    WEFT_TRY(launch("sample", greedy_kernel<T>, {.grid = unsigned(rows), .block = kThreads}, stream, params));
  return launch("sample", sample_kernel<T>,
                {.grid = unsigned(rows * RowCtas::kCount),
                 .block = kThreads,
                 .shared_bytes = size_t(params.slice) * sizeof(float),
                 .cluster = RowCtas::kCount},
                stream, params);
}

}  // namespace

Status cuda_sample(cudaStream_t stream, const CudaSampleArgs& args) {
  WEFT_TRY(expect_cuda_floats("logits", args.logits, {-1, -1}));
  const i64 rows = args.logits.dim(0), vocab = args.logits.dim(1);
  WEFT_TRY(expect_cuda_tensor("tokens", args.tokens, DType::kI32, {rows}));
  if (rows == 0) return {};
  if (vocab < 1 || vocab > kCudaSampleMostTokens)
    return error(Code::kInvalidArgument, "logits: expected 1 to {} tokens, found {}", kCudaSampleMostTokens, vocab);
  if (args.rows == nullptr)
    return error(Code::kInvalidArgument, "rows: expected {} in device memory, found null", rows);
  const Params params{.logits = args.logits.data,
                      .rows = args.rows,
                      .tokens = args.tokens.as<i32>(),
                      .logits_stride = args.logits.byte_strides[0],
                      .vocab = i32(vocab),
                      .slice = i32(round_up(divide_up(vocab, RowCtas::kCount), kBlock)),
                      .eight = allows_eight(args.logits),
                      .greedy_apart = rows > kMostInClusters};
  if (args.logits.dtype == DType::kBF16) return sample_as<bf16>(stream, rows, params);
  if (args.logits.dtype == DType::kF16) return sample_as<f16>(stream, rows, params);
  return sample_as<float>(stream, rows, params);
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
