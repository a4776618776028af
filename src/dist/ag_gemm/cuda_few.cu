// All-gather + GEMM for few rows in one kernel: the hooks that ag_gemm puts into the GEMM for few rows (ops/gemm/
// cuda_small_sm90.cuh). Before its weights come, every CTA pushes some blocks of K of this rank's rows to all ranks,
// itself included; it then looks out for the same blocks of all ranks' rows, and raises a flag on this GPU for each.
// Four buffers take turns (by the number of the call, which wraps): what call e has filled, call e + 1 empties, and the
// peers fill it again in call e + 4, when they have heard that this rank has got to call e + 3.
#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/exchange/few_rows.cuh"
#include "dist/exchange/plan.h"
#include "dist/exchange/rank_rows.h"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "ag_gemm";

struct Few : FewRowsCrew {
  static constexpr int kBuffers = 4, kBlockBytes = 64 * 2;
  static constexpr int kWords = kBlockBytes / 16, kUnroll = 4,
                       kStep = 256 / kWords;  // rows of a thread are kStep apart
  RankRows rows;
  int k_blocks, row_bytes;
  const std::byte* x;
  i64 x_stride;           // bytes
  sym<std::byte> gather;  // kBuffers times `most_rows` dense rows
  int most_rows;
  u32* here;  // on this GPU, [block of K]: the call whose rows of all ranks are there
  std::byte* y;
  i64 y_stride;  // bytes
  int n;

  __device__ __forceinline__ int first_row(u32 epoch) const { return int(epoch % kBuffers) * most_rows; }
  // visit(u, row) for kUnroll of this thread's rows below `count`, from `first` on.
  template <class Visit>
  __device__ __forceinline__ static void each_row(int first, int count, Visit&& visit) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (const int row = first + u * kStep; row < count) visit(u, row);
  }

  __device__ __forceinline__ void begin(int thread, u32 epoch) const {
    const int mine = rows.size(peers.rank), all = rows.begin(peers.ranks), first = thread / kWords;
    const auto column_of = [&](int block) { return block * kBlockBytes + thread % kWords * 16; };
    for (int block = int(blockIdx.x); block < k_blocks; block += int(gridDim.x)) {
      const int column = column_of(block);
      const sym<std::byte> to = gather + i64(first_row(epoch) + rows.begin(peers.rank)) * row_bytes + column;
      for (int next = first; next < mine && column < row_bytes; next += kUnroll * kStep) {
        uint4 held[kUnroll];
        each_row(next, mine, [&](int u, int row) {
          held[u] = something(__ldcg(reinterpret_cast<const uint4*>(x + row * x_stride + column)));
        });
        for (int d = 1; d <= peers.ranks; ++d) {
          std::byte* there = peers.at(to, peers.after(d));
          each_row(next, mine, [&](int u, int row) {
            ptx::st_relaxed_sys(reinterpret_cast<uint4*>(there + i64(row) * row_bytes), held[u]);
          });
        }
      }
    }
    for (int block = int(blockIdx.x); block < k_blocks; block += int(gridDim.x)) {
      const int column = column_of(block);
      const i64 from = i64(first_row(epoch)) * row_bytes + column;
      for (int next = first; next < all && column < row_bytes; next += kUnroll * kStep)
        await(gather + from, next, all, epoch);
      ptx::named_barrier(1, 256);
      if (thread == 0) ptx::st_release_gpu(here + block, epoch);
    }
    for (int block = int(blockIdx.x); block < k_blocks; block += int(gridDim.x)) {
      const int column = column_of(block);
      std::byte* old = peers.at(gather + i64(first_row(epoch - 1)) * row_bytes + column, peers.rank);
      for (int next = first; next < most_rows && column < row_bytes; next += kUnroll * kStep)
        each_row(next, most_rows, [&](int, int row) {
          *reinterpret_cast<uint4*>(old + i64(row) * row_bytes) = {kNothing, kNothing, kNothing, kNothing};
        });
    }
  }
  // A pair of NaNs that looks like kNothing becomes another.
  __device__ __forceinline__ static uint4 something(uint4 words) {
    const auto one = [](u32 word) { return word == kNothing ? 0x7fff7fffu : word; };
    return {one(words.x), one(words.y), one(words.z), one(words.w)};
  }
  // Until none of this thread's next words lacks.
  __device__ __forceinline__ void await(sym<std::byte> from, int first, int count, u32 epoch) const {
    const std::byte* words = peers.at(from, peers.rank);
    WaitFor wait{-1, from.offset, epoch};
    wait_until(peers.fault, wait, [&](u32& seen) {
      seen = epoch - 1;
      bool whole = true;
      int missing = 0;
      each_row(first, count, [&](int, int row) {
        const uint4 w = ptx::ld_relaxed_sys(reinterpret_cast<const uint4*>(words + i64(row) * row_bytes));
        if (is_whole(w)) return;
        whole = false;
        missing = row;
      });
      if (!whole) wait.peer = rows.owner(missing);
      return whole;
    });
  }
  // As many blocks at a time as a warp has lanes to look at their flags. Who raises them has the deadline.
  __device__ __forceinline__ int arrived(const sm90::SmallBlocks& blocks, int i, u32 epoch) const {
    const int block = i + int(threadIdx.x) % 32;
    if (block < blocks.count)
      while (!epoch_reached(ptx::ld_acquire_gpu(here + blocks.first + block), epoch)) {
      }
    __syncwarp();
    ptx::fence_proxy_async();
    return min(i + 32, blocks.count);
  }
  template <class Sums>
  __device__ __forceinline__ void emit(const Sums& sums, u32) const {
    sums.each(0, sums.m, [&](int, int row, int column, const sm90::SmallEight& eight) {
      if (column < n) *reinterpret_cast<uint4*>(y + row * y_stride + column * 2) = Sums::rounded(eight);
    });
  }
};

}  // namespace

Status CudaAgGemm::prepare_few() {
  few_rows_ = std::min(push_rows_, kFewRows);
  if (few_rows_ == 0) return {};
  WEFT_TRY(prepare_few_rows<Few>(kOp, shape_.dtype));
  const i64 bytes = Few::kBuffers * few_rows_ * shape_.k * 2;
  SymmetricLayout layout;
  const FusedLayout fused(layout, comm_->size(), kFlagsPerLine);
  const i64 here = layout.reserve<u32>(divide_up(shape_.k, 64));
  const i64 gathered = layout.reserve<std::byte>(bytes);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  few_words_ = fused.at(base);
  few_here_ = layout.at<u32>(base, here);
  few_gathered_ = layout.at<std::byte>(base, gathered);
  WEFT_CUDA_TRY(cudaMemset(comm_->at(few_gathered_, comm_->rank()), 0xff, size_t(bytes)));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  return comm_->world().barrier(Deadline::after(std::chrono::seconds(30)));  // before a peer's first call
}

Status CudaAgGemm::run_few(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y) {
  WEFT_CHECK(m <= few_rows_, m, few_rows_);
  Few few{};
  few.peers = comm_->peers(kOp);
  few.words = few_words_;
  few.rows = RankRows(m, comm_->size());
  few.k_blocks = int(divide_up(shape_.k, 64));
  few.row_bytes = int(shape_.k) * 2;
  few.x = x.as<const std::byte>();
  few.x_stride = x.byte_strides[0];
  few.gather = few_gathered_;
  few.most_rows = int(few_rows_);
  few.here = comm_->at(few_here_, comm_->rank());
  few.y = y.data;
  few.y_stride = y.byte_strides[0];
  few.n = int(w.dim(0));
  const TensorView gathered = TensorView::dense(comm_->at(few_gathered_, comm_->rank()), shape_.dtype,
                                                {Few::kBuffers * few_rows_, shape_.k}, DeviceKind::kCuda);
  return launch_few_rows(kOp, stream, *comm_, gathered, m, w, constant_w_, few);
}

}  // namespace weft
