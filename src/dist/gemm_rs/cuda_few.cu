// GEMM + reduce-scatter, or all-reduce, for few rows in one kernel: the hooks that gemm_rs puts into the GEMM for few
// rows (ops/gemm/cuda_small_sm90.cuh). Products travel as bf16 words that say themselves whether they have come; two
// halves of the inbox, by the parity of the call, keep calls apart. Sums are fp32 in rank order of rounded products,
// as those of "split".
#include "dist/exchange/few_rows.cuh"
#include "dist/exchange/rank_rows.h"
#include "dist/gemm_rs/gemm_rs.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_rs";

enum class Reach {
  kOwner,    // rows are summed by their owner alone
  kTwoShot,  // who sends the sums to all
  kOneShot,  // rows are sent to and summed by every rank
};

struct Few : FewRowsCrew {
  Reach reach;
  RankRows rows;
  sym<std::byte> inbox;    // [2][source][slot]: products, rows of n
  sym<std::byte> outcome;  // [2][kFewRows][n]: sums, of kTwoShot
  i64 slot_bytes;
  std::byte* y;
  i64 y_stride;  // bytes
  int y_begin;   // the row of the product that is y's first
  int n;

  __device__ __forceinline__ sym<std::byte> product_at(int source, int row, int column, u32 epoch) const {
    return inbox + (i64(epoch & 1) * peers.ranks + source) * slot_bytes + (i64(row) * n + column) * 2;
  }
  __device__ __forceinline__ sym<std::byte> sum_at(int row, int column, u32 epoch) const {
    return outcome + ((i64(epoch & 1) * kFewRows + row) * n + column) * 2;
  }
  __device__ __forceinline__ void send(sym<std::byte> to, int peer, uint2 words) const {
    ptx::st_relaxed_sys(reinterpret_cast<u64*>(peers.at(to, peer)), u64(words.y) << 32 | words.x);
  }
  // Up to kBatch words of `source`, `stride` bytes apart, put into `held` as they come; leaves kNothing behind.
  static constexpr int kBatch = 4;
  __device__ __forceinline__ void take(sym<std::byte> from, i64 stride, int count, int source, u32 epoch,
                                       uint2 (&held)[kBatch]) const {
    std::byte* first = peers.at(from, peers.rank);
    wait_until(peers.fault, {source, from.offset, epoch}, [&](u32& seen) {
      seen = epoch - 1;
      bool all = true;
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (u >= count) break;
        const u64 word = ptx::ld_relaxed_sys(reinterpret_cast<const u64*>(first + u * stride));
        held[u] = {u32(word), u32(word >> 32)};
        all = all && held[u].x != kNothing && held[u].y != kNothing;
      }
      return all;
    });
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u < count) ptx::st_relaxed_sys(reinterpret_cast<u64*>(first + u * stride), ~u64(0));
  }
  __device__ __forceinline__ void store(int row, int column, uint2 words) const {
    *reinterpret_cast<uint2*>(y + (row - y_begin) * y_stride + column * 2) = words;
  }
  __device__ __forceinline__ static void add(float4& sum, uint2 words) {
    sum.x += __uint_as_float(words.x << 16);
    sum.y += __uint_as_float(words.x & 0xffff0000u);
    sum.z += __uint_as_float(words.y << 16);
    sum.w += __uint_as_float(words.y & 0xffff0000u);
  }

  template <class Sums>
  __device__ __forceinline__ void emit(const Sums& sums, u32 epoch) const {
    const int column = sums.column(), rank = peers.rank;
    const bool one_shot = reach == Reach::kOneShot, inside = column < n;
    const int own_begin = one_shot ? 0 : rows.begin(rank), own_end = one_shot ? sums.m : own_begin + rows.size(rank);
    sums.each([&](int row, const float4& sum) {
      if (!inside) return;
      const uint2 words = Sums::rounded(sum);
      if (row >= own_begin && row < own_end) sums.kept(row) = words;
      for (int d = 1; d < peers.ranks; ++d) {
        const int peer = peers.after(d), local = one_shot ? row : row - rows.begin(peer);
        if (one_shot || (local >= 0 && local < rows.size(peer)))
          send(product_at(rank, local, column, epoch), peer, words);
      }
    });
    if (!inside) return;
    const int step = sums.step();
    for (int row = sums.first(own_begin); row < own_end; row += kBatch * step) {
      const int count = min(kBatch, (own_end - row + step - 1) / step);
      float4 total[kBatch];
      for (int source = 0; source < peers.ranks; ++source) {
        uint2 held[kBatch];
        if (source != rank) {
          take(product_at(source, row - own_begin, column, epoch), i64(step) * n * 2, count, source, epoch, held);
        } else {
#pragma unroll
          for (int u = 0; u < kBatch; ++u)
            if (u < count) held[u] = sums.kept(row + u * step);
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
          if (source == 0) total[u] = {-0.0f, -0.0f, -0.0f, -0.0f};  // to which adding changes no bit
          if (u < count) add(total[u], held[u]);
        }
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (u >= count) break;
        const uint2 words = Sums::rounded(total[u]);
        if (reach == Reach::kTwoShot)
          for (int d = 1; d < peers.ranks; ++d) send(sum_at(row + u * step, column, epoch), peers.after(d), words);
        store(row + u * step, column, words);
      }
    }
    if (reach != Reach::kTwoShot) return;
    for (int d = 1; d < peers.ranks; ++d) {
      const int owner = peers.after(d), begin = rows.begin(owner), end = begin + rows.size(owner);
      for (int row = sums.first(begin); row < end; row += kBatch * step) {
        const int count = min(kBatch, (end - row + step - 1) / step);
        uint2 held[kBatch];
        take(sum_at(row, column, epoch), i64(step) * n * 2, count, owner, epoch, held);
#pragma unroll
        for (int u = 0; u < kBatch; ++u)
          if (u < count) store(row + u * step, column, held[u]);
      }
    }
  }
};

}  // namespace

Status CudaGemmRs::prepare_few() {
  if (few_rows_ == 0) return {};
  WEFT_TRY(prepare_few_rows<Few>(kOp));
  const int ranks = comm_->size();
  // One-shot sends all rows to every rank; with more than two ranks that is more than two-shot sends.
  few_slot_ = (ranks == 2 ? few_rows_ : divide_up(few_rows_, ranks)) * shape_.n * 2;
  const i64 bytes = 2 * ranks * few_slot_, sums = ranks == 2 ? 0 : 2 * kFewRows * shape_.n * 2;
  WEFT_ASSIGN(few_inbox_, comm_->alloc<std::byte>(bytes + sums, kOp));
  few_sums_ = few_inbox_ + bytes;
  WEFT_CUDA_TRY(cudaMemset(comm_->at(few_inbox_, comm_->rank()), 0xff, size_t(bytes + sums)));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  return comm_->world().barrier(Deadline::after(std::chrono::seconds(30)));  // before a peer's first call
}

Status CudaGemmRs::run_few_to_all(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y) {
  WEFT_TRY(comm_->status());
  return run_few(stream, a, w, y, true);
}

Status CudaGemmRs::run_few(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y,
                           bool everywhere) {
  const i64 m = a.dim(0);
  WEFT_CHECK(m > 0 && m <= few_rows_, m, few_rows_);
  Few few{};
  few.peers = comm_->peers(kOp);
  few.words = words_;
  few.reach = !everywhere ? Reach::kOwner : comm_->size() == 2 ? Reach::kOneShot : Reach::kTwoShot;
  few.rows = RankRows(m, comm_->size());
  few.inbox = few_inbox_;
  few.outcome = few_sums_;
  few.slot_bytes = few_slot_;
  few.y = y.data;
  few.y_stride = y.byte_strides[0];
  few.y_begin = everywhere ? 0 : few.rows.begin(comm_->rank());
  few.n = int(shape_.n);
  return launch_few_rows(kOp, stream, *comm_, a, m, w, few);
}

}  // namespace weft
