// The sim machine: a deterministic fuzzer of protocols on weak memory. Lanes are fibres under a seeded scheduler, on
// one thread. Stores wait in a queue per CTA and drain in any order but that of one address; a release drains after all
// earlier stores of its CTA; bulk stores drain in pieces of 16 bytes; a weak load may return any value not older than
// the CTA's last acquire and its own last store. Waits that can never end are found. Reports what a protocol may not
// do: wait or end a call with a signal that was not flushed.
//
// Not modelled: races between the lanes of a CTA on memory outside the arena, and mixed-size atomics.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/machine/words.h"

namespace weft {

struct SimOptions {
  int ranks = 2;
  int ctas = 1;               // per rank
  int lanes = 1;              // per CTA
  i64 arena_bytes = 1 << 14;  // per rank
  u64 seed = 1;
};

class SimMachine;

class SimWorld {
 public:
  explicit SimWorld(const SimOptions& options);
  ~SimWorld();

  // Runs `body` on every lane of every CTA of every rank. Empty if all of them returned by themselves, else what was
  // found: "deadlock: ..." or "signal not flushed: ...". Once something is found, every wait returns false.
  std::string run(const std::function<void(SimMachine&)>& body);

  // Sets a word of every rank's arena before the run.
  void set_word(u64 offset, u32 value);

 private:
  friend class SimMachine;
  struct Lane;

  static constexpr int kHistory = 3;  // values that a stale load may still return
  struct Word {
    u32 values[kHistory] = {};
    u32 times[kHistory] = {};
    u16 writers[kHistory] = {};  // CTA's index + 1
    u16 count = 1;
    u32 newest() const { return values[count - 1]; }
  };
  struct Store {
    int target;  // rank
    u64 word;    // index
    u32 values[4];
    int count;
    bool release;
    bool add;  // to the word instead of over it
    bool touches(int rank, u64 first, int n) const {
      return target == rank && word < first + u64(n) && first < word + u64(count);
    }
  };
  struct Cta {
    std::deque<Store> stores;
    u32 acquired = 0;  // commits up to here are visible to its weak loads
    int at_sync = 0;
    u32 syncs = 0;
    bool last = false;         // outcome of arrive(), for all lanes
    std::vector<bool> raised;  // peers with signals that are not flushed
  };
  struct Boundary {
    int arrived = 0;
    u32 passed = 0;
  };

  u32 random(u32 below);
  Word& word(int rank, u64 index) { return memory_[size_t(rank)][size_t(index)]; }
  void commit(const Store& store, const Cta& by);
  bool drain_one();
  bool drain_from(Cta& cta);
  void resume(Lane& lane);
  void yield();
  void fail(std::string what);
  std::string waiting() const;
  // Suspends the running fibre until ready(); false once the run has failed.
  template <class Ready>
  bool wait(const char* what, Ready&& ready);
  u16 writer_of(const Cta& cta) const { return u16(&cta - ctas_.data() + 1); }
  Cta& cta_of(int rank, int cta) { return ctas_[size_t(rank * options_.ctas + cta)]; }
  Lane* make_lane(int index);

  const SimOptions options_;
  u64 state_;  // of random()
  u32 drain_one_in_;
  int slow_rank_;  // scheduled less often; -1 = none
  bool contiguous_tiles_;
  u32 now_ = 0;  // commits so far
  std::vector<std::vector<Word>> memory_;
  std::vector<Cta> ctas_;
  std::vector<Boundary> boundaries_;  // per rank
  std::vector<std::unique_ptr<Lane>> lanes_;
  Lane* running_ = nullptr;
  const std::function<void(SimMachine&)>* body_ = nullptr;
  std::string found_;
};

class SimMachine {
 public:
  static constexpr int kLanePacks = 2;
  static constexpr int kSumPieces = 1;
  SimMachine(SimWorld& world, int rank, int cta, int lane) : w_(world), rank_(rank), cta_(cta), lane_(lane) {}

  int rank() const { return rank_; }
  int ranks() const { return w_.options_.ranks; }
  int cta() const { return cta_; }
  int ctas() const { return w_.options_.ctas; }
  int lane() const { return lane_; }
  int lanes() const { return w_.options_.lanes; }
  void sync();

  template <class F>
  bool tiles(i64 n, F&& f) {
    if (w_.contiguous_tiles_) {
      const Run run = split_run(n, ctas(), cta_);
      return run.size() == 0 || f(run.begin, run.end);
    }
    for (i64 i = cta_; i < n; i += ctas()) {
      if (!f(i, i + 1)) return false;
    }
    return true;
  }

  template <class T>
  void put(sym<T> target, int peer, T value) {
    static_assert(sizeof(T) <= 16 && sizeof(T) % 4 == 0);
    store(target.offset, peer, &value, sizeof(T), false);
  }
  template <class T>
  T get(sym<T> source) {
    static_assert(sizeof(T) <= 16 && sizeof(T) % 4 == 0);
    T value;
    load(&value, source.offset, sizeof(T), rank_);
    return value;
  }
  void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes);
  void get_bytes(void* target, sym<std::byte> source, i64 bytes);
  void copy_bytes(void* target, const void* source, i64 bytes);

  void notify(sym<u32> flag, int peer, u32 epoch) { signal(flag, peer, epoch, true); }
  bool await(sym<u32> flag, int peer, u32 epoch);
  void send(sym<LlWord> target, int peer, u32 data, u32 epoch);
  bool recv(sym<LlWord> source, int peer, u32 epoch, u32& data);
  void flush(int peer) { here().raised[size_t(peer)] = false; }

  u32 epoch(sym<EpochWord> word) { return w_.word(rank_, word.offset / 4).newest() + 1; }
  bool arrive(sym<EpochWord> word);
  void advance(sym<EpochWord> word, u32 epoch);

  // A CTA is one warp.
  int warp_size() const { return lanes(); }
  void sync_warp() { sync(); }
  void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes, Lanes lanes);
  void get_bytes(void* target, sym<std::byte> source, i64 bytes, int peer, Lanes lanes);
  void raise(sym<u32> flag, int peer, u32 value) { store(flag.offset, peer, &value, sizeof value, true); }
  void add(sym<u32> flag, int peer, u32 value) { store(flag.offset, peer, &value, sizeof value, true, true); }
  template <class Reached>
  bool await_when(sym<u32> flag, int, u32, Reached&& reached) {
    const std::function<bool(u32)> condition(reached);
    return await_value(flag, condition);
  }
  void fence();

  void put_words(sym<BareWords> place, int peer, const BareWords& words);
  template <int N, class Place, class PeerOf>
  bool take_words(BareWords (&taken)[N], u32, Place&& place, PeerOf&& peer_of) {
    for (int k = 0; k < N; ++k) {
      if (peer_of(k) != rank_ && !take_words(place(k), taken[k])) return false;
    }
    return true;
  }
  void empty_words(sym<BareWords> place);

  // The kernel boundary after a call: every CTA of the rank is here and its stores are done. [cta] False = failed.
  bool end_call();

  // Faulty forms, for planted faults.
  void notify_weakly(sym<u32> flag, int peer, u32 epoch) { signal(flag, peer, epoch, false); }
  bool await_weakly(sym<u32> flag, int peer, u32 epoch);  // does not acquire
  bool await_equal(sym<u32> flag, int peer, u32 epoch);

 private:
  SimWorld::Cta& here() { return w_.cta_of(rank_, cta_); }
  void store(u64 offset, int peer, const void* value, i64 bytes, bool release, bool add = false);
  void load(void* value, u64 offset, i64 bytes, int peer);
  u32 load_word(u64 index, int peer);
  bool take_words(sym<BareWords> place, BareWords& taken);
  bool await_value(sym<u32> flag, const std::function<bool(u32)>& reached);
  void signal(sym<u32> flag, int peer, u32 epoch, bool release);
  void expect_flushed();

  SimWorld& w_;
  const int rank_, cta_, lane_;
};

static_assert(WordsMachine<SimMachine>);

}  // namespace weft
