// Tutorial 4: reduce-scatter.
//
// Every rank has a vector; rank r gets part r of their sum. Here everybody pulls: it publishes its vector in symmetric
// memory, all meet at a barrier, and then each reads its part of all others.
//
// New here: barrier_all(), getmem, and a fixed order of addition, which makes the sum the same bits in every run.
#include "ranks.h"

using namespace weft;

constexpr i64 kElements = 9973;
constexpr int kLaunches = 5;

struct ReduceScatter {
  sym<EpochWord> calls;
  sym<float> published;  // [kElements]
  const float* x;        // [kElements]
  float* scratch;        // [kElements]: what was pulled
  float* y;              // this rank's part

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const Run mine = split_run(kElements, s.num_ranks(), s.rank());

    // barrier_all() is a meeting of the blocks of one index on all ranks, and of no others. So block b publishes
    // exactly what block b of the other ranks will read: of every rank's part, piece b.
    const auto piece_of = [&](int rank) {
      const Run part = split_run(kElements, s.num_ranks(), rank);
      const Run piece = split_run(part.size(), s.num_blocks(), s.block());
      return Run{part.begin + piece.begin, part.begin + piece.end};
    };
    for (int rank = 0; rank < s.num_ranks(); ++rank) {
      const Run piece = piece_of(rank);
      s.putmem_nbi_block(published + piece.begin, x + piece.begin, piece.size() * i64(sizeof(float)), s.rank());
    }
    if (!s.barrier_all()) return;  // everybody has published

    const Run piece = piece_of(s.rank());
    for (int rank = 0; rank < s.num_ranks(); ++rank) {  // in rank order on every rank: never "as they come"
      s.getmem_block(scratch + piece.begin, published + piece.begin, piece.size() * i64(sizeof(float)), rank);
      for (i64 i = piece.begin + s.thread(); i < piece.end; i += s.num_threads()) {
        y[i - mine.begin] = (rank == 0 ? 0 : y[i - mine.begin]) + scratch[i];
      }
      s.sync_block();  // before scratch is filled anew
    }

    // The next launch overwrites what others read now. One buffer and a second barrier, or two halves and none: see
    // tutorial 2 for the faster way.
    if (!s.barrier_all()) return;
    s.end_call(calls, call);
  }
};

float element(int launch, int rank, i64 i) {
  return float((rank + 1) * (i % 101) + launch);
}

template <class Rank>
Status example(Rank& rank) {
  ReduceScatter kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(kernel.published, rank.template symmetric<float>(kElements));
  const Run mine = split_run(kElements, rank.size(), rank.rank());
  std::vector<float> summand(kElements), sum(size_t(mine.size()));
  WEFT_ASSIGN(auto x, rank.local(summand));
  WEFT_ASSIGN(auto scratch, rank.local(summand));
  WEFT_ASSIGN(auto y, rank.local(sum));
  kernel.x = x.data();
  kernel.scratch = scratch.data();
  kernel.y = y.data();

  WEFT_TRY(rank.template prepare<ReduceScatter>());
  for (int launch = 0; launch < kLaunches; ++launch) {
    for (i64 i = 0; i < kElements; ++i) summand[size_t(i)] = element(launch, rank.rank(), i);
    for (i64 i = 0; i < mine.size(); ++i) {
      sum[size_t(i)] = 0;
      for (int r = 0; r < rank.size(); ++r) sum[size_t(i)] += element(launch, r, mine.begin + i);
    }
    WEFT_TRY(rank.write(x, summand));
    WEFT_TRY(rank.run("reduce_scatter", kernel));
    WEFT_ASSIGN(const auto found, rank.read(y));
    WEFT_TRY(examples::expect_equal(sum, found));
  }
  return {};
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
