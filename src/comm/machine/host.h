// The host machine: a CTA is one thread of the rank's team, with one lane; ranks are threads or processes that share
// the arena's memory. Waits poll briefly and then sleep on the rank's doorbell, so that more ranks than CPUs make
// progress; a wait sees a failure of the world within kSliceMs and gives up at the communicator's deadline.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "comm/bootstrap/world.h"
#include "comm/machine/machine.h"
#include "device/spin.h"

#if defined(__SANITIZE_THREAD__)
#define WEFT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEFT_TSAN 1
#endif
#endif

namespace weft {

// In every rank's arena: where its threads sleep and others wake them.
struct Doorbell {
  u32 sleepers;  // threads that sleep or are about to
  u32 rings;     // futex word
};

// What the machines of one communicator share on one rank. Immutable once made.
struct HostGroup {
  int rank = 0;
  std::vector<std::byte*> bases;  // the arena part of each rank of the communicator
  std::vector<int> world_ranks;   // their ranks in the world, for messages
  World* world = nullptr;
  std::chrono::nanoseconds deadline{};  // of one wait
  sym<Doorbell> doorbell;
  int usable_cpus = 1;

  int ranks() const { return int(bases.size()); }
};

class HostMachine {
 public:
  static constexpr int kLanePacks = 16;
  static constexpr int kSumPieces = 1;
  static constexpr int kSliceMs = 20;
  // Polls before a wait sleeps: about 200 us where every thread of every rank has a CPU. Otherwise the peer may need
  // this very CPU, and a wait gives it up almost at once: first by yielding, then by sleeping.
  static constexpr int kSpin = 10000, kSpinShared = 64, kYieldsShared = 2;

  // Thread `cta` of the `ctas` that this rank gives to `op` (a literal; named when a wait gives up).
  HostMachine(const HostGroup& group, int cta, int ctas, const char* op)
      : group_(group),
        bases_(group.bases.data()),
        rank_(group.rank),
        ranks_(group.ranks()),
        cta_(cta),
        ctas_(ctas),
        shared_cpus_(group.world->size() * ctas > group.usable_cpus),
        op_(op) {}

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int cta() const { return cta_; }
  int ctas() const { return ctas_; }
  int lane() const { return 0; }
  int lanes() const { return 1; }
  void sync() {}

  // One contiguous run per thread.
  template <class F>
  bool tiles(i64 n, F&& f) {
    const Run share = split_run(n, ctas_, cta_);
    return share.size() == 0 || f(share.begin, share.end);
  }

  // Host only: the address of a peer's object, for code that computes straight into it.
  template <class T>
  T* at(sym<T> object, int peer) const {
    return reinterpret_cast<T*>(bases_[peer] + object.offset);
  }

  template <class T>
  void put(sym<T> target, int peer, T value) {
    static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
    *at(target, peer) = value;
  }
  template <class T>
  T get(sym<T> source) const {
    static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
    return *at(source, rank_);
  }
  void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes) {
    if (bytes > 0) std::memcpy(at(target, peer), source, size_t(bytes));
  }
  void get_bytes(void* target, sym<std::byte> source, i64 bytes) const {
    if (bytes > 0) std::memcpy(target, at(source, rank_), size_t(bytes));
  }
  void copy_bytes(void* target, const void* source, i64 bytes) const {
    if (bytes > 0 && target != source) std::memcpy(target, source, size_t(bytes));
  }

  void notify(sym<u32> flag, int peer, u32 epoch) {
    std::atomic_ref<u32>(*at(flag, peer)).store(epoch, std::memory_order_release);
  }
  bool await(sym<u32> flag, int peer, u32 epoch) {
    std::atomic_ref<u32> word(*at(flag, rank_));
    return wait(peer, epoch, [&](u32& seen) {
      seen = word.load(std::memory_order_acquire);
      return epoch_reached(seen, epoch);
    });
  }
  void send(sym<LlWord> target, int peer, u32 data, u32 epoch) {
    std::atomic_ref<u64>(*at(target.as<u64>(), peer)).store(u64(epoch) << 32 | data, std::memory_order_relaxed);
  }
  bool recv(sym<LlWord> source, int peer, u32 epoch, u32& data) {
    std::atomic_ref<u64> word(*at(source.as<u64>(), rank_));
    return wait(peer, epoch, [&](u32& seen) {
      const u64 both = word.load(std::memory_order_relaxed);
      data = u32(both);
      seen = u32(both >> 32);
      return seen == epoch;
    });
  }
  // The stores before it come before the look at the sleepers, as a sleeper's registration comes before its last look
  // at the flag: one of the two sees the other.
  void flush(int peer) {
    Doorbell& bell = *at(group_.doorbell, peer);
    std::atomic_ref<u32> sleepers(bell.sleepers);
#if defined(WEFT_TSAN)
    const u32 count = sleepers.fetch_add(0, std::memory_order_seq_cst);  // TSan does not model fences
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const u32 count = sleepers.load(std::memory_order_relaxed);
#endif
    if (count != 0) ring(bell);
  }

  u32 epoch(sym<EpochWord> word) const {
    return std::atomic_ref<u32>(at(word, rank_)->finished).load(std::memory_order_acquire) + 1;
  }
  bool arrive(sym<EpochWord> word) {
    if (ctas_ == 1) return true;
    std::atomic_ref<u32> arrived(at(word, rank_)->arrived);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 != u32(ctas_)) return false;
    arrived.store(0, std::memory_order_relaxed);
    return true;
  }
  void advance(sym<EpochWord> word, u32 epoch) {
    std::atomic_ref<u32>(at(word, rank_)->finished).store(epoch, std::memory_order_release);
  }

  // A CTA is one lane.
  int warp_size() const { return 1; }
  void sync_warp() {}
  void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes, Lanes) {
    put_bytes(target, peer, source, bytes);
  }
  void get_bytes(void* target, sym<std::byte> source, i64 bytes, int peer, Lanes) const {
    copy_bytes(target, at(source, peer), bytes);
  }
  void raise(sym<u32> flag, int peer, u32 value) {
    notify(flag, peer, value);
    flush(peer);
  }
  void add(sym<u32> flag, int peer, u32 value) {
    std::atomic_ref<u32>(*at(flag, peer)).fetch_add(value, std::memory_order_release);
    flush(peer);
  }
  template <class Reached>
  bool await_when(sym<u32> flag, int peer, u32 wanted, Reached&& reached) {
    std::atomic_ref<u32> word(*at(flag, rank_));
    return wait(peer, wanted, [&](u32& seen) {
      seen = word.load(std::memory_order_acquire);
      return reached(seen);
    });
  }
  void fence() const {
#if !defined(WEFT_TSAN)  // which does not model fences
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }

 private:
  // Until poll(seen) says true.
  template <class Poll>
  bool wait(int peer, u32 wanted, Poll&& poll) {
    u32 seen = 0;
    const int spin = shared_cpus_ ? kSpinShared : kSpin;
    for (int i = 0; i < spin; ++i) {
      if (poll(seen)) return true;
      spin_pause();
    }
    if (shared_cpus_) {
      for (int i = 0; i < kYieldsShared; ++i) {
        ::sched_yield();
        if (poll(seen)) return true;
      }
    }
    return wait_asleep(peer, wanted, seen, poll);
  }

  template <class Poll>
  bool wait_asleep(int peer, u32 wanted, u32& seen, Poll&& poll) {
    const Clock::time_point start = Clock::now();
    Doorbell& bell = *at(group_.doorbell, rank_);
    std::atomic_ref<u32> sleepers(bell.sleepers);
    for (;;) {
      sleepers.fetch_add(1, std::memory_order_seq_cst);
#if !defined(WEFT_TSAN)
      std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
      const u32 rings = std::atomic_ref<u32>(bell.rings).load(std::memory_order_seq_cst);
      const bool ready = poll(seen);
      if (!ready) sleep(bell, rings);
      sleepers.fetch_sub(1, std::memory_order_relaxed);
      if (ready || poll(seen)) return true;
      if (group_.world->failure().raised()) return false;
      if (Clock::now() - start >= group_.deadline) {
        give_up(peer, wanted, seen);
        return false;
      }
    }
  }

  static void ring(Doorbell& bell);
  static void sleep(Doorbell& bell, u32 rings);  // until rung, at most kSliceMs
  void give_up(int peer, u32 wanted, u32 seen) const;

  const HostGroup& group_;
  std::byte* const* const bases_;
  const int rank_, ranks_, cta_, ctas_;
  const bool shared_cpus_;
  const char* const op_;
};

static_assert(SignalMachine<HostMachine>);

}  // namespace weft
