// Tutorial 1: notify and wait.
//
// Ranks stand in a ring. In every round each of them writes a vector into its right neighbour's memory, tells it so,
// and waits for the one from the left. After some rounds every vector has moved on by as many ranks.
//
// What to learn here: symmetric memory, what a signal orders, and that a buffer needs two signals: "it is full" from
// the writer, "it is free again" from the reader.
#include "ranks.h"

using namespace weft;

constexpr int kWords = 1000, kRounds = 7, kLaunches = 3;

// A kernel is a struct of its arguments. Every thread of every block of every rank runs operator(), on CPUs and GPUs.
struct PassOn {
  sym<EpochWord> calls;  // counts the launches: see begin_call()
  sym<u32> full, free;   // signals. A sym<T> is an address that means the same object on every rank
  sym<int> box;          // what the left neighbour wrote for us
  int* mine;             // plain memory of this rank

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    if (s.block() == 0) pass(s, call);  // one block does it all
    s.end_call(calls, call);
  }

  template <class S>
  WEFT_HD void pass(S& s, u32 call) const {
    const int right = s.rank_after(1), left = s.rank_after(s.num_ranks() - 1);
    for (int round = 1; round <= kRounds; ++round) {
      // Signals are never reset: they carry numbers that grow over rounds and launches.
      const u32 number = (call - 1) * kRounds + u32(round);

      // Our right neighbour must have read what we wrote last. In the first round of all nothing was written: 0 >= 0.
      if (!s.wait(free, 1, number - 1, right)) return;

      // The peer's memory, as an address here. All threads of the block write their part of it.
      int* theirs = s.symm_at(box, right);
      for (int i = s.thread(); i < kWords; i += s.num_threads()) theirs[i] = mine[i];

      // notify() first waits for all threads of the block, then raises the signal with release semantics: who sees
      // `number` in `full` sees everything written above.
      s.notify(full, number, right);

      // wait() has acquire semantics and returns a token; false means that the peer never came, and only on a CPU.
      const Token token = s.wait(full, 1, number, left);
      if (!token) return;
      // Reading the box before the wait would be wrong; consume_token() says so in the source.
      const int* ours = s.consume_token(s.symm_at(box, s.rank()), token);
      for (int i = s.thread(); i < kWords; i += s.num_threads()) mine[i] = ours[i] + 1;

      s.notify(free, number, left);
    }
  }
};

template <class Rank>
Status example(Rank& rank) {
  PassOn kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(kernel.full, rank.template symmetric<u32>(1));
  WEFT_ASSIGN(kernel.free, rank.template symmetric<u32>(1));
  WEFT_ASSIGN(kernel.box, rank.template symmetric<int>(kWords));
  std::vector<int> values(kWords);
  for (int i = 0; i < kWords; ++i) values[size_t(i)] = rank.rank() * 10000 + i;
  WEFT_ASSIGN(auto mine, rank.local(values));
  kernel.mine = mine.data();

  WEFT_TRY(rank.template prepare<PassOn>());
  for (int launch = 0; launch < kLaunches; ++launch) WEFT_TRY(rank.run("notify_wait", kernel));

  // Each hop added one; after kRounds * kLaunches of them the vector of the rank that far to the left is here.
  constexpr int kHops = kRounds * kLaunches;
  const int origin = (rank.rank() + (rank.size() - 1) * kHops) % rank.size();
  for (int i = 0; i < kWords; ++i) values[size_t(i)] = origin * 10000 + i + kHops;
  WEFT_ASSIGN(const auto found, rank.read(mine));
  return examples::expect_equal(values, found);
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
