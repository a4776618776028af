// The kernel of cuda_sample(): clusters that take rows in turn.
#pragma once
#include "ops/sampling/cuda_draw.cuh"
#include "ops/sampling/cuda_sample_row.h"

namespace weft::sampling {

struct Params {
  const std::byte* logits;
  const CudaSampleRow* rows;
  i32* tokens;
  i64 logits_stride;  // bytes
  i32 count;          // of rows
  i32 vocab;
  i32 slice;   // tokens of a CTA: a multiple of kStep
  bool eight;  // logits may be read eight at a time
};

constexpr i64 kSharedBytes = (sizeof(Shared) + 15) / 16 * 16;  // beside the slice

// visit(eight logits, where they stand) of those from global memory that are this thread's; visit(one, where) of the
// last of the slice, or of all that may not be read eight at a time.
template <class T, class Visit>
__device__ __forceinline__ void for_each_logit(const T* logits, i32 size, bool eight, Visit&& visit) {
  constexpr int kAhead = sizeof(T) == 4 ? 3 : 5;  // runs that a thread loads at a time
  const i32 whole = eight ? size / 8 : 0;
  for (i32 first = i32(threadIdx.x); first < whole; first += kAhead * kThreads) {
    RawRun<T, 8> runs[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (const i32 run = first + k * kThreads; run < whole) runs[k] = load_run<8>(logits + i64(run) * 8);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const i32 run = first + k * kThreads;
      if (run >= whole) break;
      float v[8];
      to_floats(runs[k], v);
      visit(v, run * 8);
    }
  }
  for (i32 i = whole * 8 + i32(threadIdx.x); i < size; i += kThreads) {
    const float v[1] = {float(logits[i])};
    visit(v, i);
  }
}
template <int N>
__device__ __forceinline__ float largest_of(const float (&v)[N]) {
  float largest = v[0];
#pragma unroll
  for (int i = 1; i < N; ++i) largest = max_nan(largest, v[i]);
  return max_nan(largest, largest);
}

// The likeliest token, or why there is none.
__device__ __forceinline__ i32 fault_of(float largest) {
  if (largest != largest) return kLogitsNan;
  if (fabsf(largest) == INFINITY) return largest > 0 ? kLogitsInfinite : kNothingFinite;
  return 0;
}

__device__ __forceinline__ bool adjusts(const CudaSampleRow& row) {
  return row.allowed != nullptr || row.num_bias > 0 || has_penalty(row.params);
}

// One CTA's part of all rows of a launch.
template <class T>
class Sampler {
 public:
  __device__ Sampler(const Params& p, Shared& s, float* values) : p_(p), s_(s), values_(values) {
    const i32 begin = min(i32(RowCtas::rank()) * p.slice, p.vocab);
    slice_ = {begin, min(p.slice, p.vocab - begin)};
  }

  // Rows first, first + step ... of which a cluster has all.
  __device__ void run(i32 first, i32 step) {
    for (; first < p_.count; first += kBatch * step) {
      const i32 batch = min((p_.count - first + step - 1) / step, kBatch);
      if (i32(threadIdx.x) < batch) {
        s_.given[threadIdx.x] = p_.rows[first + i32(threadIdx.x) * step];
      }
      __syncthreads();
      find_likeliest(first, step, batch);
      for (i32 i = 0; i < batch; ++i) {
        if (greedy(i)) continue;
        if (i + 1 < batch) prefetch(row_of(first + (i + 1) * step) + slice_.begin);
        sample(s_.given[i], first + i * step);
        if (lists_ == i32(RowCtas::kCount)) draw_lists();
      }
      draw_lists();
      RowCtas::sync();  // nobody is in another's shared memory any more, or reads what the next batch overwrites
    }
  }

 private:
  __device__ const T* row_of(i32 index) const {
    return reinterpret_cast<const T*>(p_.logits + i64(index) * p_.logits_stride);
  }

  __device__ bool greedy(i32 i) const { return s_.given[i].params.temperature == 0 && !adjusts(s_.given[i]); }
  // The slice of a row comes near.
  __device__ void prefetch([[maybe_unused]] const T* logits) const {
#if !defined(WEFT_EMULATOR)
    constexpr i32 kLine = 128 / sizeof(T);
    for (i32 i = i32(threadIdx.x) * kLine; i < slice_.size; i += kThreads * kLine)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(logits + i));
#endif
  }

  // The batch's greedy rows: all of them stream by before the CTAs tell each other what they found.
  __device__ void find_likeliest(i32 first, i32 step, i32 batch) {
    const i32 warp = i32(threadIdx.x / 32), lane = i32(threadIdx.x % 32);
    for (i32 i = 0; i < batch; ++i) {
      if (!greedy(i)) continue;
      float best = -INFINITY;
      i32 place = kNoToken;
      for_each_logit(row_of(first + i * step) + slice_.begin, slice_.size, p_.eight, [&](const auto& v, i32 at) {
        const float largest = largest_of(v);
        if (largest > best) place = slice_.begin + at;  // places ascend: the first of equals stays
        best = max_nan(best, largest);
      });
      const Largest largest = warp_largest(as_largest(best, place));
      if (lane == 0) s_.batch[i][warp] = largest;
    }
    __syncthreads();
    const bool mine = warp < batch && greedy(warp);
    if (mine) {
      const Largest largest = warp_largest(lane < kWarps ? s_.batch[warp][lane] : smallest());
      if (lane == 0) RowCtas::of(s_.rows[warp], 0)[RowCtas::rank()] = largest;
    }
    RowCtas::sync();
    if (!RowCtas::leads() || !mine) return;
    const Largest largest = warp_largest(lane < i32(RowCtas::kCount) ? s_.rows[warp][lane] : smallest());
    const i32 row = first + warp * step;
    i32 token = fault_of(logit_of(largest));
    if (token == 0) {  // it is one of the eight from the place on
      const i32 i = largest.place + lane;
      token = largest.place +
              __ffs(int(__ballot_sync(~0u, lane < 8 && i < p_.vocab && float(row_of(row)[i]) == logit_of(largest)))) -
              1;
    }
    if (lane == 0) p_.tokens[row] = token;
  }

  __device__ void sample(const CudaSampleRow& row, i32 index) {
    const SamplingParams& params = row.params;
    i32* const to = p_.tokens + index;
    __syncthreads();  // nobody reads the values of the row before any more
    float mine = -INFINITY;
    if (threadIdx.x == 0) s_.fault = 0;
    for (i32 i = slice_.size + i32(threadIdx.x); i < (slice_.size + kStep - 1) / kStep * kStep; i += kThreads)
      values_[i] = -INFINITY;
    if (adjusts(row)) {
      adjust(row, row_of(index) + slice_.begin);
      for_each_four(values_, slice_,
                    [&](i32, const float4& v) { mine = max_nan(mine, largest_of({v.x, v.y, v.z, v.w})); });
    } else {
      for_each_logit(row_of(index) + slice_.begin, slice_.size, p_.eight, [&](const auto& v, i32 at) {
        if constexpr (sizeof(v) == 32)
          store_floats(values_ + at, v);
        else
          values_[at] = v[0];
        mine = max_nan(mine, largest_of(v));
      });
    }
    const float largest = largest_of_row(mine);
    const i32 fault = s_.fault != 0 ? s_.fault : fault_of(largest);
    if (fault != 0) {
      if (RowCtas::leads() && threadIdx.x == 0) *to = fault;
    } else if (params.temperature == 0) {
      find_first(largest, to);
    } else {
      draw_token(row, Weigher(largest, params.temperature), mine, to);
    }
  }

  // Of all the row's threads, on each of them.
  __device__ float largest_of_row(float mine) {
    const i32 warp = i32(threadIdx.x / 32), lane = i32(threadIdx.x % 32);
    const Largest of_warp = warp_largest(as_largest(mine, 0));
    if (lane == 0) s_.batch[0][warp] = of_warp;
    __syncthreads();
    turn_ ^= 1;
    if (warp == 0) RowCtas::tell(s_.largest[turn_], warp_largest(s_.batch[0][lane % kWarps]));
    RowCtas::sync();
    return logit_of(warp_largest(s_.largest[turn_][lane % i32(RowCtas::kCount)]));
  }

  // values: the slice's logits after mask, bias and penalties. A token outside the vocabulary is a fault of all CTAs.
  __device__ void adjust(const CudaSampleRow& row, const T* logits) {
    for (i32 i = i32(threadIdx.x); i < slice_.size; i += kThreads) {
      const i32 token = slice_.begin + i;
      const bool allowed = row.allowed == nullptr || (row.allowed[token / 32] >> token % 32 & 1);
      values_[i] = allowed ? float(logits[i]) : -INFINITY;
    }
    // Where a token's logit lies, or null where it is another CTA's.
    const auto place_of = [&](i32 token) -> float* {
      if (token < 0 || token >= p_.vocab) s_.fault = kTokenOutside;
      const i32 i = token - slice_.begin;
      return 0 <= i && i < slice_.size ? values_ + i : nullptr;
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

  // The first token with this logit.
  __device__ void find_first(float logit, i32* to) {
    const i32 lane = i32(threadIdx.x % 32), warp = i32(threadIdx.x / 32);
    i32 first = kNoToken;
    for_each_four(values_, slice_, [&](i32 i, const float4& v) {
      const float four[4] = {v.x, v.y, v.z, v.w};
      for (i32 k = 3; k >= 0; --k)
        if (four[k] == logit) first = min(first, slice_.begin + i + k);
    });
    const Largest of_warp = warp_largest({0, first});
    if (lane == 0) s_.warp_matches[warp] = u32(of_warp.place);
    __syncthreads();
    if (warp == 0) RowCtas::tell(s_.matches, u32(warp_largest({0, i32(s_.warp_matches[lane % kWarps])}).place));
    RowCtas::sync();
    if (!RowCtas::leads() || threadIdx.x != 0) return;
    for (u32 cta = 0; cta < RowCtas::kCount; ++cta) first = min(first, i32(s_.matches[cta]));
    *to = first;
  }

  // values: the slice's logits, of which `mine` is the largest that this thread has looked at.
  __device__ void draw_token(const CudaSampleRow& row, const Weigher& weigher, float mine, i32* to) {
    const SamplingParams& params = row.params;
    const bool cuts = params.top_k > 0 && params.top_k < p_.vocab;
    if (cuts && params.top_k <= i32(kMostListed / 2)) {
      const u32 listed = list_likeliest(s_, values_, slice_, weigher, params, mine, u32(lists_));
      if (listed <= kMostListed) {
        if (u32(lists_++) == RowCtas::rank()) mine_ = {&row, to, listed};
        return;
      }
    }
    to_weights(weigher, slice_, values_);
    if (cuts)
      drop_beyond(find_cut<false>(s_, values_, slice_, [&](double total) { return min(total, double(params.top_k)); }),
                  slice_, values_);
    Cut cut;
    if (params.top_p < 1)
      cut = find_cut<true>(s_, values_, slice_, [&](double total) { return __dmul_rn(double(params.top_p), total); });
    draw(s_, values_, slice_, cut, params.min_p, uniform_of(params, row.position), to);
  }

  // A list takes one CTA long, so that each first gets one; then they draw side by side.
  __device__ void draw_lists() {
    if (i32(RowCtas::rank()) < lists_)
      draw_listed(s_, mine_.listed, mine_.row->params, uniform_of(mine_.row->params, mine_.row->position), mine_.to);
    lists_ = 0;
  }

  const Params& p_;
  Shared& s_;
  float* const values_;
  Slice slice_;
  int turn_ = 0;
  i32 lists_ = 0;  // that wait
  struct {
    const CudaSampleRow* row;
    i32* to;
    u32 listed;
  } mine_ = {};  // this CTA's
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(const __grid_constant__ Params p) {
  WEFT_DYNAMIC_SHARED(shared);
  Sampler<T> sampler(p, *reinterpret_cast<Shared*>(shared), reinterpret_cast<float*>(shared + kSharedBytes));
  sampler.run(i32(blockIdx.x / RowCtas::kCount), i32(gridDim.x / RowCtas::kCount));
}

}  // namespace weft::sampling
