// GEMM + reduce-scatter, or all-reduce, for few rows in one kernel: the hooks that gemm_rs puts into the GEMM for few
// rows (ops/gemm/cuda_small_sm90.cuh). Products travel as words of two that say themselves whether they have come; two
// halves of the inbox, by the parity of the call, keep calls apart. Sums are fp32 in rank order of rounded products,
// as those of "split".
#include "dist/exchange/few_rows.cuh"
#include "dist/exchange/rank_rows.h"
#include "dist/gemm_rs/gemm_rs.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_rs";

struct RowRange {
  int begin, end;
};

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
  __device__ __forceinline__ void send(sym<std::byte> to, int peer, const uint4& words) const {
    ptx::st_relaxed_sys(reinterpret_cast<uint4*>(peers.at(to, peer)), words);
  }
  // Words that others sent here, as many as `count`, put into `held` as they come; leaves kNothing behind. at(i) says
  // where the i-th lies, source(i) who sends it; below 0: nobody, `held` stays.
  template <int Most, class At, class Source>
  __device__ __forceinline__ void take(int count, u32 epoch, uint4 (&held)[Most], At&& at, Source&& source) const {
    WaitFor wait{-1, inbox.offset, epoch};
    wait_until(peers.fault, wait, [&](u32& seen) {
      seen = epoch - 1;
      int missing = -1;
#pragma unroll
      for (int i = 0; i < Most; ++i) {
        if (i >= count || source(i) < 0) continue;
        held[i] = ptx::ld_relaxed_sys(reinterpret_cast<const uint4*>(peers.at(at(i), peers.rank)));
        if (!is_whole(held[i])) missing = source(i);
      }
      wait.peer = missing;
      return missing < 0;
    });
#pragma unroll
    for (int i = 0; i < Most; ++i)
      if (i < count && source(i) >= 0)
        ptx::st_relaxed_sys(reinterpret_cast<uint4*>(peers.at(at(i), peers.rank)),
                            {kNothing, kNothing, kNothing, kNothing});
  }
  __device__ __forceinline__ void store(int row, int column, const uint4& words) const {
    *reinterpret_cast<uint4*>(y + (row - y_begin) * y_stride + column * 2) = words;
  }
  template <class T>
  __device__ __forceinline__ static void add(float4& sum, u32 first, u32 second) {
    add_pair<T>(sum.x, sum.y, first);
    add_pair<T>(sum.z, sum.w, second);
  }
  __device__ __forceinline__ RowRange rows_of(int rank, int m) const {
    if (reach == Reach::kOneShot) return {0, m};
    return {rows.begin(rank), rows.begin(rank) + rows.size(rank)};
  }

  // Products leave, peers' rows first; own ones are kept.
  template <class Sums>
  __device__ __forceinline__ void send_products(const Sums& sums, u32 epoch) const {
    const bool one_shot = reach == Reach::kOneShot;
    for (int d = one_shot ? peers.ranks : 1; d <= peers.ranks; ++d) {
      const int owner = peers.after(d);
      const auto [begin, end] = rows_of(owner, sums.m);
      sums.each(begin, end, [&](int unit, int row, int column, const sm90::SmallEight& eight) {
        if (column >= n) return;
        const uint4 words = Sums::rounded(eight);
        const sym<std::byte> to = product_at(peers.rank, row - begin, column, epoch);
        if (owner != peers.rank) {
          send(to, owner, words);
          return;
        }
        sums.keep(row, unit, words);
        if (one_shot)
          for (int e = 1; e < peers.ranks; ++e) send(to, peers.after(e), words);
      });
    }
  }
  // Own rows are added up in rank order and stored, of kTwoShot sent to all.
  template <class Config>
  __device__ __forceinline__ void sum_own_rows(const sm90::SmallSums<Config>& sums, u32 epoch) const {
    using Sums = sm90::SmallSums<Config>;
    using T = typename Config::Element;
    constexpr int kSources = 4;  // whose words are looked for together
    const int rank = peers.rank;
    const auto [begin, end] = rows_of(rank, sums.m);
    const auto mine = sums.share(begin, end);
    for (int unit = sums.thread; unit < mine.units; unit += Sums::kThreads) {
      const int row = mine.row(unit), column = sums.column(unit);
      if (column >= n) continue;
      sm90::SmallEight total{{-0.0f, -0.0f, -0.0f, -0.0f}, {-0.0f, -0.0f, -0.0f, -0.0f}};  // + x: no bit of x changes
      for (int first = 0; first < peers.ranks; first += kSources) {
        uint4 held[kSources];
#pragma unroll
        for (int i = 0; i < kSources; ++i)
          if (first + i == rank) held[i] = sums.kept(row, unit);
        take(
            peers.ranks - first, epoch, held, [&](int i) { return product_at(first + i, row - begin, column, epoch); },
            [&](int i) { return first + i == rank ? -1 : first + i; });
#pragma unroll
        for (int i = 0; i < kSources; ++i) {
          if (first + i >= peers.ranks) continue;
          add<T>(total.low, held[i].x, held[i].y);
          add<T>(total.high, held[i].z, held[i].w);
        }
      }
      const uint4 words = Sums::rounded(total);
      if (reach == Reach::kTwoShot)
        for (int d = 1; d < peers.ranks; ++d) send(sum_at(row, column, epoch), peers.after(d), words);
      store(row, column, words);
    }
  }
  // kTwoShot: the owners' sums of all other rows are stored.
  template <class Sums>
  __device__ __forceinline__ void take_sums(const Sums& sums, u32 epoch) const {
    constexpr int kBatch = 4;
    for (int d = 1; d < peers.ranks; ++d) {
      const int owner = peers.after(d);
      const auto [begin, end] = rows_of(owner, sums.m);
      const auto theirs = sums.share(begin, end);
      for (int unit = sums.thread; unit < theirs.units; unit += kBatch * Sums::kThreads) {
        const auto of = [&](int i) { return unit + i * Sums::kThreads; };
        uint4 held[kBatch];
        take(
            kBatch, epoch, held, [&](int i) { return sum_at(theirs.row(of(i)), sums.column(of(i)), epoch); },
            [&](int i) { return of(i) < theirs.units && sums.column(of(i)) < n ? owner : -1; });
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if (of(i) < theirs.units && sums.column(of(i)) < n) store(theirs.row(of(i)), sums.column(of(i)), held[i]);
      }
    }
  }
  template <class Sums>
  __device__ __forceinline__ void emit(const Sums& sums, u32 epoch) const {
    send_products(sums, epoch);
    sum_own_rows(sums, epoch);
    if (reach == Reach::kTwoShot) take_sums(sums, epoch);
  }
};

}  // namespace

Status CudaGemmRs::prepare_few() {
  if (few_rows_ == 0) return {};
  WEFT_TRY(prepare_few_rows<Few>(kOp, shape_.dtype));
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
  return launch_few_rows(kOp, stream, *comm_, a, m, w, constant_w_, few);
}

}  // namespace weft
