// The machine: what a communication protocol may ask of the hardware. A protocol is a function template over a type
// that fulfils Machine; there is no base class. Machines: host.h (threads), sim.h (weak-memory fuzzer), CUDA.
//
// One call of a protocol runs on every CTA of every rank. A CTA is a team thread on the host and a thread block on
// CUDA; its lanes run the same text. Marked below: [cta] = all lanes of the CTA call it together; [lane] = any lane.
//
//   rank() ranks() cta() ctas() lane() lanes()      who am I; ranks() may be a compile-time constant
//   kLanePacks                                      packs of 16 bytes that a lane best handles at a time
//   kSumPieces                                      pieces of a sum over ranks that a lane loads ahead; 1: one by one
//   sync()                                    [cta] barrier of the lanes
//   tiles(n, f)                               [cta] f(begin, end) -> bool for the runs of [0, n) that this CTA takes
//                                                   (a function of n and the grid only); false = f gave up
//   put(sym<T>, peer, T)  get(sym<T>) -> T    [lane] weak store to a peer, weak load of the own arena; T up to 16
//   bytes,
//                                                   aligned to its size
//   put_bytes(dst, peer, src, n)              [cta] weak bulk copy to a peer; dst 16-byte aligned,
//                                                   src of any alignment
//   get_bytes(dst, src, n)                    [cta] weak bulk copy out of the own arena; any alignment,
//                                                   fastest at 16 bytes
//   copy_bytes(dst, src, n)                   [cta] a copy within memory that only this rank uses; dst == src is a
//   no-op notify(flag, peer, epoch)                 [lane] release at system scope: everything this CTA wrote before
//   the last
//                                                   sync() is visible to who sees the flag
//   await(flag, peer, epoch) -> bool          [cta] acquire: until the own arena's flag, which `peer` writes, has
//   reached
//                                                   the epoch
//   send(word, peer, data, epoch)             [lane] data and flag in one 8-byte store
//   recv(word, peer, epoch, data&) -> bool    [lane] until that word, which `peer` writes, carries exactly this epoch
//   flush(peer)                               [lane] ends a batch of notify or send: wakes the peer if it sleeps.
//   Required
//                                                   before this CTA waits or ends; no code on CUDA
//   epoch(word) -> u32                        [lane] the number of this call: one more than the last finished one
//   arrive(word) -> bool                      [cta] whether this is the last CTA of the rank to come here in this call:
//   then
//                                                   all that the others did is ordered before what this one does next
//   advance(word, epoch)                      [lane] the last CTA ends the call; the word then reads `epoch`
//
// And what the primitives of users' own kernels stand on (SignalMachine):
//
//   warp_size()  sync_warp()                  [warp] lanes of a warp, which are neighbours; their barrier
//   put_bytes(dst, peer, src, n, lanes)       [lane] this lane's part of a copy that `lanes` make together
//   get_bytes(dst, src, n, peer, lanes)       [lane] the same out of a peer's arena
//   raise(flag, peer, v)  add(flag, peer, v)  [lane] release at system scope: what this lane wrote, and what others of
//                                                   its CTA wrote before a barrier that it has passed; set and add
//   await_when(flag, peer, v, reached)        [lane] -> bool. acquire: until reached(the own arena's flag); `peer` (or
//                                                   kAnyRank) and `v` are for the message of a wait that expires
//   fence()                                   [lane] this lane's earlier stores before its later ones, for everybody
//
// A wait that returns false means that the communicator has failed: the protocol returns false at once.
#pragma once
#include <concepts>
#include <cstddef>
#include <type_traits>

#include "base/host_device.h"
#include "base/types.h"

namespace weft {

// A symmetric address: the same offset in every rank's part of the arena.
template <class T>
struct sym {
  u64 offset = 0;
  WEFT_HD sym operator+(i64 n) const { return {offset + u64(n) * sizeof(T)}; }
  template <class U>
  WEFT_HD sym<U> as() const {
    return {offset};
  }
};

// Payload and readiness in one store.
struct alignas(8) LlWord {
  u32 data, flag;
};

// Counts the calls of one operator on one rank. Grows and wraps; never reset.
struct EpochWord {
  u32 finished;  // the last finished call
  u32 arrived;   // CTAs that have arrived in the running call
};

// Bytes between words that different ranks write, so that no two writers share a cache line.
inline constexpr i64 kFlagLineBytes = 128;
inline constexpr i64 kFlagsPerLine = kFlagLineBytes / i64(sizeof(u32));

// Whether a flag has reached an epoch. A peer runs ahead by a few calls at most, so a word that nobody has touched for
// half the counter's range must not pass: hence a window instead of a signed comparison.
inline constexpr u32 kEpochWindow = 8;
WEFT_HD bool epoch_reached(u32 seen, u32 wanted) {
  return seen - wanted < kEpochWindow;
}

// Lanes that act together: the calling one is number `index` of `count`.
struct Lanes {
  int index = 0, count = 1;
};

// Where a message names the rank that was waited for: nobody in particular.
inline constexpr int kAnyRank = -1;

namespace machine_detail {
struct AnyTile {
  WEFT_HD bool operator()(i64, i64) const { return true; }
};
struct AnyValue {
  WEFT_HD bool operator()(u32) const { return true; }
};
}  // namespace machine_detail

template <class M>
concept Machine = requires(M& m, sym<float> value, sym<u32> flag, sym<LlWord> word, sym<EpochWord> epoch,
                           sym<std::byte> bytes, const void* source, void* target, int peer, u32 v, u32& out, i64 n) {
  { M::kLanePacks } -> std::convertible_to<int>;
  { M::kSumPieces } -> std::convertible_to<int>;
  { m.rank() } -> std::convertible_to<int>;
  { m.ranks() } -> std::convertible_to<int>;
  { m.cta() } -> std::convertible_to<int>;
  { m.ctas() } -> std::convertible_to<int>;
  { m.lane() } -> std::convertible_to<int>;
  { m.lanes() } -> std::convertible_to<int>;
  m.sync();
  { m.tiles(n, machine_detail::AnyTile{}) } -> std::same_as<bool>;
  m.put(value, peer, 1.0f);
  { m.get(value) } -> std::same_as<float>;
  m.put_bytes(bytes, peer, source, n);
  m.get_bytes(target, bytes, n);
  m.copy_bytes(target, source, n);
  m.notify(flag, peer, v);
  { m.await(flag, peer, v) } -> std::same_as<bool>;
  m.send(word, peer, v, v);
  { m.recv(word, peer, v, out) } -> std::same_as<bool>;
  m.flush(peer);
  { m.epoch(epoch) } -> std::same_as<u32>;
  { m.arrive(epoch) } -> std::same_as<bool>;
  m.advance(epoch, v);
};

template <class M>
concept SignalMachine = Machine<M> && requires(M& m, sym<u32> flag, sym<std::byte> bytes, const void* source,
                                               void* target, int peer, u32 v, i64 n, Lanes lanes) {
  { m.warp_size() } -> std::convertible_to<int>;
  m.sync_warp();
  m.put_bytes(bytes, peer, source, n, lanes);
  m.get_bytes(target, bytes, n, peer, lanes);
  m.raise(flag, peer, v);
  m.add(flag, peer, v);
  { m.await_when(flag, peer, v, machine_detail::AnyValue{}) } -> std::same_as<bool>;
  m.fence();
};

// Part `index` of [0, n) cut into `parts`, as split_range() of base/tensor.h cuts.
struct Run {
  i64 begin = 0, end = 0;
  WEFT_HD i64 size() const { return end - begin; }
};
WEFT_HD Run split_run(i64 n, int parts, int index) {
  const i64 base = n / parts, extra = n % parts;
  const i64 begin = index * base + (index < extra ? index : extra);
  return {begin, begin + base + (index < extra ? 1 : 0)};
}

// [0, n) by the lanes of this CTA.
template <class M, class F>
WEFT_HD void each_lane(M& m, i64 n, F&& f) {
  for (i64 i = m.lane(); i < n; i += m.lanes()) f(i);
}

// The other ranks, starting after the own one, so that no two ranks hit one target at once. f(peer).
template <class M, class F>
WEFT_HD void peers(M& m, F&& f) {
  for (int d = 1; d < m.ranks(); ++d) {
    const int p = m.rank() + d;
    f(p < m.ranks() ? p : p - m.ranks());
  }
}

// As peers(), for an f that may give up by returning false.
template <class M, class F>
WEFT_HD bool peers_until(M& m, F&& f) {
  for (int d = 1; d < m.ranks(); ++d) {
    const int p = m.rank() + d;
    if (!f(p < m.ranks() ? p : p - m.ranks())) return false;
  }
  return true;
}

// Ends a call: every CTA of the rank has done its part, the last one advances the epoch.
WEFT_ANY_SIDE
template <class M>
WEFT_HD void finish(M& m, sym<EpochWord> word, u32 epoch) {
  if (m.arrive(word) && m.lane() == 0) m.advance(word, epoch);
}

// Flags of one protocol phase: a line of `per_source` words for every source rank.
struct FlagTable {
  sym<u32> base;
  i64 per_source = 0;  // a multiple of kFlagsPerLine
  WEFT_HD sym<u32> at(int source, i64 index) const { return base + (source * per_source + index); }
};

}  // namespace weft
