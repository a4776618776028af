// Tutorial 2: all-gather.
//
// Every rank has a shard; afterwards every rank has all of them, in rank order. Every rank pushes its shard into all
// others' memory. Pushing beats pulling: a store needs no answer.
//
// New here: several blocks share the work, one call moves bytes and signals, and two halves of the buffer take turns,
// so that no signal "free again" is needed.
#include "ranks.h"

using namespace weft;

constexpr i64 kShard = 10007;  // elements of a rank
constexpr int kLaunches = 5;

struct AllGather {
  sym<EpochWord> calls;
  sym<u32> arrived;  // [ranks][blocks], each on a line of its own: hot flags must not share one
  sym<float> stage;  // [2][ranks][kShard]
  const float* shard;
  float* y;  // [ranks][kShard]

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    // Which half? That of the launch's parity. A rank comes to launch 3 only after it has heard all others' launch 2;
    // they had finished launch 1 by then, so its half is free. Hearing from everybody, every time, is what this needs.
    const sym<float> half = stage + (call & 1) * s.num_ranks() * kShard;
    // Block b moves part b of every shard, and waits only for parts b: blocks of one rank need no word to each other.
    const Run part = split_run(kShard, s.num_blocks(), s.block());
    const auto flag = [&](int source) { return arrived + (source * s.num_blocks() + s.block()) * kFlagsPerLine; };

    // The next rank first, then the one after it: no two ranks hit the same one at once.
    for (int d = 1; d < s.num_ranks(); ++d) {
      const int peer = s.rank_after(d);
      // All threads of the block copy, then one of them raises the signal; who sees the signal sees the bytes.
      s.putmem_signal_block(half + s.rank() * kShard + part.begin, shard + part.begin, part.size() * i64(sizeof(float)),
                            flag(s.rank()), call, SignalOp::kSet, peer);
    }
    for (i64 i = part.begin + s.thread(); i < part.end; i += s.num_threads()) y[s.rank() * kShard + i] = shard[i];

    for (int d = 1; d < s.num_ranks(); ++d) {
      const int source = s.rank_after(d);
      if (!s.wait(flag(source), 1, call, source)) return;
      s.getmem_block(y + source * kShard + part.begin, half + source * kShard + part.begin,
                     part.size() * i64(sizeof(float)), s.rank());  // out of our own stage
    }
    s.end_call(calls, call);
  }
};

// Another one in every launch: a stale half would show.
float element(int launch, int rank, i64 i) {
  return float(launch * 1000000 + rank * 100000 + i);
}

template <class Rank>
Status example(Rank& rank) {
  AllGather kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(kernel.arrived, rank.template symmetric<u32>(rank.size() * rank.blocks() * kFlagsPerLine));
  WEFT_ASSIGN(kernel.stage, rank.template symmetric<float>(2 * rank.size() * kShard));
  std::vector<float> mine(kShard), all(size_t(rank.size() * kShard));
  WEFT_ASSIGN(auto shard, rank.local(mine));
  WEFT_ASSIGN(auto y, rank.local(all));
  kernel.shard = shard.data();
  kernel.y = y.data();

  WEFT_TRY(rank.template prepare<AllGather>());
  for (int launch = 0; launch < kLaunches; ++launch) {
    for (i64 i = 0; i < kShard; ++i) mine[size_t(i)] = element(launch, rank.rank(), i);
    for (i64 i = 0; i < i64(all.size()); ++i) all[size_t(i)] = element(launch, int(i / kShard), i % kShard);
    WEFT_TRY(rank.write(shard, mine));
    WEFT_TRY(rank.run("all_gather", kernel));
    WEFT_ASSIGN(const auto found, rank.read(y));
    WEFT_TRY(examples::expect_equal(all, found));
  }
  return {};
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
