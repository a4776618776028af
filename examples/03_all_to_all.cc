// Tutorial 3: all-to-all with sizes that only the sender knows.
//
// Every rank has a message for every rank, of another length each; this is how tokens travel to the experts of a
// mixture. The receiver learns the length together with the message.
//
// New here: warps work on their own (each serves a peer), puts without a signal, and one signal for several puts.
#include "ranks.h"

using namespace weft;

constexpr i64 kMost = 3000;  // elements of the longest message
constexpr int kLaunches = 5;

// Of the message from one rank to another; some are empty.
WEFT_HD i64 length_of(int from, int to) {
  return (from * 5 + to * 3) % 4 * 997;
}

struct AllToAll {
  sym<EpochWord> calls;
  sym<u32> arrived;  // [ranks], a line apart
  sym<i64> lengths;  // [2][ranks], 16 bytes apart
  sym<int> inbox;    // [2][ranks][kMost]
  const int* x;      // [ranks][kMost]: row r goes to rank r
  int* y;            // [ranks][kMost]: row r comes from rank r, dense from its start on
  i64* y_lengths;    // [ranks]

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const int half = int(call & 1) * s.num_ranks();

    // All warps of all blocks share the peers out. A CPU's thread is one warp.
    const int warp = s.block() * s.num_warps() + s.warp(), warps = s.num_blocks() * s.num_warps();
    for (int d = warp; d < s.num_ranks(); d += warps) {
      const int peer = s.rank_after(d);
      const i64 length = length_of(s.rank(), peer);
      // First the length: a plain put, by every lane of the warp, of the same value. Then message and signal. A signal
      // covers all puts before it, so whoever sees it sees both.
      s.putmem_nbi_thread(lengths + (half + s.rank()) * 2, &length, sizeof length, peer);
      s.putmem_signal_warp(inbox + (half + s.rank()) * kMost, x + peer * kMost, length * i64(sizeof(int)),
                           arrived + s.rank() * kFlagsPerLine, call, SignalOp::kSet, peer);
    }

    // Receiving, block by block. Everybody sends to everybody, itself included, and empty messages signal too: so the
    // two halves may take turns as in tutorial 2.
    for (int d = s.block(); d < s.num_ranks(); d += s.num_blocks()) {
      const int source = s.rank_after(d);
      if (!s.wait(arrived + source * kFlagsPerLine, 1, call, source)) return;
      const i64 length = *s.symm_at(lengths + (half + source) * 2, s.rank());
      if (s.thread() == 0) y_lengths[source] = length;
      s.getmem_block(y + source * kMost, inbox + (half + source) * kMost, length * i64(sizeof(int)), s.rank());
    }
    s.end_call(calls, call);
  }
};

int element(int launch, int from, int to, i64 i) {
  return launch * 10000000 + from * 1000000 + to * 100000 + int(i);
}

template <class Rank>
Status example(Rank& rank) {
  const int ranks = rank.size(), me = rank.rank();
  AllToAll kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(kernel.arrived, rank.template symmetric<u32>(ranks * kFlagsPerLine));
  WEFT_ASSIGN(kernel.lengths, rank.template symmetric<i64>(2 * ranks * 2));
  WEFT_ASSIGN(kernel.inbox, rank.template symmetric<int>(2 * ranks * kMost));
  std::vector<int> sent(size_t(ranks * kMost)), expected(size_t(ranks * kMost));
  std::vector<i64> lengths;
  for (int peer = 0; peer < ranks; ++peer) lengths.push_back(length_of(peer, me));
  WEFT_ASSIGN(auto x, rank.local(sent));
  WEFT_ASSIGN(auto y, rank.local(expected));
  WEFT_ASSIGN(auto y_lengths, rank.local(std::vector<i64>(size_t(ranks))));
  kernel.x = x.data();
  kernel.y = y.data();
  kernel.y_lengths = y_lengths.data();

  WEFT_TRY(rank.template prepare<AllToAll>());
  for (int launch = 0; launch < kLaunches; ++launch) {
    for (int peer = 0; peer < ranks; ++peer) {
      for (i64 i = 0; i < length_of(me, peer); ++i) sent[size_t(peer * kMost + i)] = element(launch, me, peer, i);
      for (i64 i = 0; i < length_of(peer, me); ++i) expected[size_t(peer * kMost + i)] = element(launch, peer, me, i);
    }
    WEFT_TRY(rank.write(x, sent));
    WEFT_TRY(rank.run("all_to_all", kernel));
    WEFT_ASSIGN(const auto found_lengths, rank.read(y_lengths));
    WEFT_TRY(examples::expect_equal(lengths, found_lengths));
    WEFT_ASSIGN(const auto found, rank.read(y));
    WEFT_TRY(examples::expect_equal(expected, found));
  }
  return {};
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
