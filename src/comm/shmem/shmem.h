// Shmem: device primitives for users' own kernels, named as users of NVSHMEM and Triton-distributed know them, over any
// machine (machine.h): one kernel source runs on CPU ranks, on GPUs and in the simulator. examples/ teaches them in
// order; launch.h and launch.cuh start kernels.
//
// A kernel is a trivially copyable struct of its arguments with
//
//   template <class S> WEFT_HD void operator()(S& s) const;       // S = Shmem<some machine>
//
// that every thread of every block of every rank runs. A block is a thread block on a GPU and a thread on a CPU, where
// it is also its only warp and its only thread. Marked below: [block], [warp] = all threads of it call together with
// the same arguments; [thread] = any thread. sym<T> is an address in symmetric memory (Communicator::alloc), the same
// object on every rank; sizes are bytes, `peer` is a rank, this one included.
//
// Order. A put is a weak store: who sees a signal that the putting thread raised later (notify, signal_op, the signal
// of putmem_signal) sees the put. Puts of other threads of the block count too if a sync_block() lies between them and
// the signal; putmem_signal_* and notify have it inside. Signals are u32 words, release at system scope; waits are
// acquire. One rank writes a word; signals that are waited for often stand a line of 128 bytes apart (kFlagsPerLine
// words).
//
// Waits end at the communicator's deadline. On a CPU the token is then false: return at once, the launch reports it. On
// a GPU the fault is recorded and the kernel traps; the token is always true. Blocks that wait must not keep those from
// running that they wait for: launches refuse grids that are not wholly resident.
//
// Signals are never reset. begin_call() gives the number of this launch, which is right in replayed graphs too; a
// kernel waits for values that grow with it. Comparisons of order are of i32(seen - value), so wrapping is harmless.
#pragma once
#include "comm/machine/machine.h"

namespace weft {

// The outcome of a wait.
struct [[nodiscard]] Token {
  bool heard = false;
  WEFT_HD explicit operator bool() const { return heard; }
};

enum class SignalOp { kSet, kAdd };
enum class Compare { kEq, kNe, kGt, kGe, kLt, kLe };

WEFT_HD bool signal_is(u32 seen, Compare compare, u32 value) {
  const i32 ahead = i32(seen - value);
  switch (compare) {
    case Compare::kEq: return ahead == 0;
    case Compare::kNe: return ahead != 0;
    case Compare::kGt: return ahead > 0;
    case Compare::kGe: return ahead >= 0;
    case Compare::kLt: return ahead < 0;
    case Compare::kLe: return ahead <= 0;
  }
  return false;
}

// What barrier_all() keeps in symmetric memory; create_shmem() (launch.h) makes it, once per communicator.
struct ShmemState {
  sym<u32> barrier_rounds;  // [max_blocks], a line apart: barriers that this rank's block has passed
  sym<u32> barrier_flags;   // [max_blocks][ranks], a line apart
  int max_blocks = 0;

  static i64 words(int max_blocks, int ranks) { return i64(max_blocks) * (1 + ranks) * kFlagsPerLine; }
  static ShmemState at(sym<u32> base, int max_blocks) {
    return {base, base + i64(max_blocks) * kFlagsPerLine, max_blocks};
  }
};

template <SignalMachine M>
class Shmem {
 public:
  // For one launch; both must outlive it. A block's index must be below state.max_blocks.
  WEFT_ANY_SIDE
  WEFT_HD Shmem(M& machine, const ShmemState& state)
      : m_(machine), state_(state), round_(machine.get(state.barrier_rounds + machine.cta() * kFlagsPerLine)) {}

  // ---- who am I. [thread]
  WEFT_ANY_SIDE WEFT_HD int rank() const { return m_.rank(); }
  WEFT_ANY_SIDE WEFT_HD int num_ranks() const { return m_.ranks(); }
  WEFT_ANY_SIDE WEFT_HD int block() const { return m_.cta(); }
  WEFT_ANY_SIDE WEFT_HD int num_blocks() const { return m_.ctas(); }
  WEFT_ANY_SIDE WEFT_HD int thread() const { return m_.lane(); }
  WEFT_ANY_SIDE WEFT_HD int num_threads() const { return m_.lanes(); }
  WEFT_ANY_SIDE WEFT_HD int warp() const { return m_.lane() / m_.warp_size(); }
  WEFT_ANY_SIDE WEFT_HD int num_warps() const { return m_.lanes() / m_.warp_size(); }
  // The rank `distance` in [0, num_ranks()] after this one: for loops over peers in which no two ranks meet at one.
  WEFT_ANY_SIDE
  WEFT_HD int rank_after(int distance) const { return (m_.rank() + distance) % m_.ranks(); }

  WEFT_ANY_SIDE WEFT_HD void sync_block() { m_.sync(); }      // [block] barrier of its threads
  WEFT_ANY_SIDE WEFT_HD void sync_warp() { m_.sync_warp(); }  // [warp]

  // The number of this launch, from 1 on, counted by `calls` in this rank's memory: one word per kind of kernel, the
  // same launches on every rank. end_call() is the last thing that every block does. [thread], [block]
  WEFT_ANY_SIDE WEFT_HD u32 begin_call(sym<EpochWord> calls) { return m_.epoch(calls); }
  WEFT_ANY_SIDE WEFT_HD void end_call(sym<EpochWord> calls, u32 call) { finish(m_, calls, call); }

  // The plain address of rank `peer`'s object, for loads and stores of one's own. Not in the simulator. [thread]
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD T* symm_at(sym<T> object, int peer) const {
    return m_.at(object, peer);
  }

  // ---- wait and notify

  // Until each of `n` signals of this rank, a line apart from `flags` on, is at least `value`: then all threads of the
  // block see what came before them. `from`: the rank that writes the first one (the next rank the next one), named
  // when the wait expires. [block]
  WEFT_ANY_SIDE
  WEFT_HD Token wait(sym<u32> flags, int n, u32 value, int from = kAnyRank) {
    bool heard = true;
    for (int i = m_.lane(); i < n && heard; i += m_.lanes()) {
      heard = bool(signal_wait_until(flags + i * kFlagsPerLine, Compare::kGe, value,
                                     from == kAnyRank ? kAnyRank : (from + i) % m_.ranks()));
    }
    m_.sync();
    return {heard};
  }
  // `value`, which is only meaningful after the wait that gave `token`. The acquire of the wait orders the loads, so
  // this costs nothing; it says in the source what depends on what. [thread]
  template <class T>
  WEFT_HD T consume_token(T value, Token) const {
    return value;
  }
  // Everything that the block wrote before, then the signal at `peer`. [block]
  WEFT_ANY_SIDE
  WEFT_HD void notify(sym<u32> flag, u32 value, int peer, SignalOp op = SignalOp::kSet) {
    m_.sync();
    if (m_.lane() == 0) signal_op(flag, value, op, peer);
  }

  // ---- signals. [thread]

  // Everything that this thread wrote before, then the signal at `peer`: set to `value`, or `value` added to it.
  WEFT_ANY_SIDE
  WEFT_HD void signal_op(sym<u32> flag, u32 value, SignalOp op, int peer) {
    if (op == SignalOp::kSet) {
      m_.raise(flag, peer, value);
    } else {
      m_.add(flag, peer, value);
    }
  }
  // Until this rank's signal compares so with `value`; `from` as in wait(). A peer may be ahead: prefer kGe to kEq.
  WEFT_ANY_SIDE
  WEFT_HD Token signal_wait_until(sym<u32> flag, Compare compare, u32 value, int from = kAnyRank) {
    return {m_.await_when(flag, from, value, [=](u32 seen) { return signal_is(seen, compare, value); })};
  }

  // ---- puts and gets
  //
  // Copies of `bytes` from local memory to rank `peer`'s `target`, and back, shared out over the threads of the scope.
  // Any alignment on CPUs and GPUs, fastest where both addresses are multiples of 16; the simulator wants that of
  // `target`. What other threads of the scope wrote to `source` must be behind a sync. Afterwards any thread of the
  // scope may reuse a put's source or read a get's target; after a form with nbi only once all of them have called
  // quiet() and synced. A put has arrived when a later signal has; putmem_signal_* sends one.

  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_thread(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kThread>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_warp(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kWarp>(target, source, bytes, peer);
    sync<Scope::kWarp>();
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_block(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kBlock>(target, source, bytes, peer);
    sync<Scope::kBlock>();
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_nbi_thread(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kThread>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_nbi_warp(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kWarp>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_nbi_block(sym<T> target, const void* source, i64 bytes, int peer) {
    put<Scope::kBlock>(target, source, bytes, peer);
  }

  // A put, then one signal at `peer` for all of it: who sees the signal sees the bytes.
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_thread(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value, SignalOp op,
                                    int peer) {
    put_signal<Scope::kThread>(target, source, bytes, flag, value, op, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_warp(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value, SignalOp op,
                                  int peer) {
    put_signal<Scope::kWarp>(target, source, bytes, flag, value, op, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_block(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value, SignalOp op,
                                   int peer) {
    put_signal<Scope::kBlock>(target, source, bytes, flag, value, op, peer);
  }
  // The same: the signal follows a sync of the scope, after which the source is free anyway.
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_nbi_thread(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value,
                                        SignalOp op, int peer) {
    put_signal<Scope::kThread>(target, source, bytes, flag, value, op, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_nbi_warp(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value,
                                      SignalOp op, int peer) {
    put_signal<Scope::kWarp>(target, source, bytes, flag, value, op, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void putmem_signal_nbi_block(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value,
                                       SignalOp op, int peer) {
    put_signal<Scope::kBlock>(target, source, bytes, flag, value, op, peer);
  }

  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_thread(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kThread>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_warp(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kWarp>(target, source, bytes, peer);
    sync<Scope::kWarp>();
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_block(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kBlock>(target, source, bytes, peer);
    sync<Scope::kBlock>();
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_nbi_thread(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kThread>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_nbi_warp(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kWarp>(target, source, bytes, peer);
  }
  WEFT_ANY_SIDE
  template <class T>
  WEFT_HD void getmem_nbi_block(void* target, sym<T> source, i64 bytes, int peer) {
    get<Scope::kBlock>(target, source, bytes, peer);
  }

  // ---- order without a signal, and all ranks at once

  // This thread's earlier puts and stores reach every rank before its later ones: for flags that are plain stores of
  // one's own. Signals need none. [thread]
  WEFT_ANY_SIDE WEFT_HD void fence() { m_.fence(); }
  // This thread's nbi transfers are done. They are loads and stores of this thread on all machines there are, so this
  // is a fence. [thread]
  WEFT_ANY_SIDE WEFT_HD void quiet() { m_.fence(); }
  // Returns once the block of this index has called it on every rank, which all must do equally often; what those
  // blocks wrote before is then visible. Blocks of other indices are not waited for. [block]
  WEFT_ANY_SIDE
  WEFT_HD Token barrier_all() {
    const sym<u32> flags = state_.barrier_flags + i64(m_.cta()) * m_.ranks() * kFlagsPerLine;
    ++round_;
    m_.sync();
    for (int d = 1 + m_.lane(); d < m_.ranks(); d += m_.lanes()) {
      m_.raise(flags + m_.rank() * kFlagsPerLine, rank_after(d), round_);
    }
    bool heard = true;
    for (int d = 1 + m_.lane(); d < m_.ranks() && heard; d += m_.lanes()) {
      const int p = rank_after(d);
      heard = bool(signal_wait_until(flags + p * kFlagsPerLine, Compare::kGe, round_, p));
    }
    m_.sync();
    if (m_.lane() == 0) m_.put(state_.barrier_rounds + m_.cta() * kFlagsPerLine, m_.rank(), round_);
    return {heard};
  }

 private:
  enum class Scope { kThread, kWarp, kBlock };

  WEFT_ANY_SIDE
  template <Scope K>
  WEFT_HD Lanes lanes() const {
    if constexpr (K == Scope::kThread) {
      return {0, 1};
    } else if constexpr (K == Scope::kWarp) {
      return {m_.lane() % m_.warp_size(), m_.warp_size()};
    } else {
      return {m_.lane(), m_.lanes()};
    }
  }
  WEFT_ANY_SIDE
  template <Scope K>
  WEFT_HD void sync() {
    if constexpr (K == Scope::kWarp) m_.sync_warp();
    if constexpr (K == Scope::kBlock) m_.sync();
  }
  WEFT_ANY_SIDE
  template <Scope K, class T>
  WEFT_HD void put(sym<T> target, const void* source, i64 bytes, int peer) {
    m_.put_bytes(target.template as<std::byte>(), peer, source, bytes, lanes<K>());
  }
  WEFT_ANY_SIDE
  template <Scope K, class T>
  WEFT_HD void get(void* target, sym<T> source, i64 bytes, int peer) {
    m_.get_bytes(target, source.template as<std::byte>(), bytes, peer, lanes<K>());
  }
  WEFT_ANY_SIDE
  template <Scope K, class T>
  WEFT_HD void put_signal(sym<T> target, const void* source, i64 bytes, sym<u32> flag, u32 value, SignalOp op,
                          int peer) {
    put<K>(target, source, bytes, peer);
    sync<K>();
    if (lanes<K>().index == 0) signal_op(flag, value, op, peer);
  }

  M& m_;
  const ShmemState& state_;
  u32 round_;  // of barrier_all()
};

}  // namespace weft
