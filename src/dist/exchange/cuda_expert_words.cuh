// The kernel of moe_rs and moe_ar behind their grouped GEMM: sum_experts() on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "comm/machine/cuda_words.cuh"
#include "device/cuda/sm90.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "dist/exchange/expert_words.h"
#include "dist/exchange/fused_element.cuh"
#include "ops/grouped_gemm/cuda_sum.cuh"

namespace weft {

template <int Ranks>
struct ExpertWordsParams {
  CudaGroup<Ranks> group;
  ExpertWords buffers;
  ExpertSums sums;
  std::byte* y;  // own tokens, or all
  RowSplit tokens;
  i64 packs;
};

template <class T, int Ranks, bool All>
struct ExpertSumHooks {
  static constexpr int kSumAhead = Ranks == 8 && std::is_same_v<T, f16> ? 1 : 2;  // two of those would be spilled
  const ExpertWordsParams<Ranks>& params;
  u32 per_row;  // packs of a token

  __device__ __forceinline__ i64 packs_of(int p) const { return params.tokens.size(p) * per_row; }
  template <int N>
  __device__ __forceinline__ void sum(int p, i64 first, i64 step, Pack<T> (&sums)[N]) const {
    const u32 size = u32(packs_of(p)), begin = u32(params.tokens.begin(p));
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] = {};
    if (first >= size) return;
    u32 token[N], column[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const u32 pack = u32(first + k * step), at = pack < size ? pack : u32(first);
      token[k] = begin + at / per_row;
      column[k] = at % per_row * 8;
    }
    float added[N][8];
    params.sums.template add_up<T>(token, column, added);
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (first + k * step < size) store_sums(sums[k].values, added[k], 8);
  }
  __device__ __forceinline__ void keep(int p, i64 pack, const Pack<T>& sums) const {
    if (pack >= packs_of(p)) return;
    const i64 at = (All ? params.tokens.begin(p) * per_row : 0) + pack;
    reinterpret_cast<uint4*>(params.y)[at] = *reinterpret_cast<const uint4*>(&sums);
  }
};

template <class T, int Ranks, bool All>
__global__ void __launch_bounds__(512, 1) expert_words_kernel(const __grid_constant__ ExpertWordsParams<Ranks> params) {
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  CudaWordsMachine<Ranks> machine(params.group);
  sum_experts<T, All>(machine, params.buffers, params.packs,
                      ExpertSumHooks<T, Ranks, All>{params, u32(params.sums.n / 8)});
}

// The operator's half of it: `All` = every rank gets all tokens.
template <bool All>
class CudaExpertWords {
 public:
  // Collective; loads the kernel. `op` names it in errors. dtype: of products and sums, bf16 or f16.
  static Result<CudaExpertWords> create(CudaCommunicator& comm, const char* op, i64 max_m, i64 n, DType dtype) {
    CudaExpertWords words;
    words.op_ = op;
    words.dtype_ = dtype;
    const int ranks = comm.size();
    // Before the collective allocation, which waits for all ranks.
    WEFT_TRY(words.with_kernel(
        ranks, [&](auto, auto kernel) { return prepare_kernel(op, reinterpret_cast<const void*>(kernel), 0); }));
    const i64 most = split_range(max_m, ranks, 0).size() * n * 2;
    SymmetricLayout layout;
    const i64 epoch = layout.reserve<EpochWord>(1);
    const auto inbox = BareInboxPlace::reserve(layout, ranks, most, false);
    const auto sums = BareInboxPlace::reserve(layout, ranks, All ? most : 0, false);
    WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), op));
    words.buffers_ = {layout.at<EpochWord>(base, epoch), inbox.at(base), sums.at(base)};
    return words;
  }
  // The sums of m tokens of all ranks to y: dense, of this rank's tokens or of all.
  Status run(cudaStream_t stream, CudaCommunicator& comm, const ExpertSums& sums, i64 m, std::byte* y) const {
    const i64 packs = bare_packs(split_range(m, comm.size(), 0).size() * sums.n * 2);
    // A quarter of the lanes or more are each crew's that makes sums or takes them.
    const int threads = packs <= 32 * comm.max_ctas() ? 128 : packs <= 64 * comm.max_ctas() ? 256 : 512;
    const i64 ctas = std::clamp<i64>(divide_up(packs, threads / 4), 1, comm.max_ctas());
    return with_kernel(comm.size(), [&](auto count, auto kernel) {
      const ExpertWordsParams<count()> params{comm.group<count()>(op_), buffers_, sums, y,
                                              RowSplit(m, comm.size()), packs};
      return launch(
          op_, kernel,
          {.grid = unsigned(ctas), .block = unsigned(threads), .early = comm.arena().ranks_on_this_gpu() == 1}, stream,
          params);
    });
  }

 private:
  // f(ranks, kernel)
  template <class F>
  Status with_kernel(int ranks, F&& f) const {
    return with_ranks(ranks, [&](auto count) {
      return with_fused_element(
          dtype_, [&](auto element) { return f(count, expert_words_kernel<decltype(element), count(), All>); });
    });
  }
  const char* op_ = "";
  DType dtype_ = DType::kBF16;
  ExpertWords buffers_;
};

}  // namespace weft
