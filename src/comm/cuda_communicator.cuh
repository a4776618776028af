// CudaCommunicator: a group of ranks, one GPU each, with symmetric memory; all that a GPU operator of many ranks needs.
#pragma once
#include <memory>
#include <optional>

#include "comm/arena/cuda_arena.cuh"
#include "comm/clock_sync.cuh"
#include "comm/machine/cuda_peers.cuh"
#include "device/cuda/fault.cuh"
#include "device/exec.h"

namespace weft {

struct CudaCommunicatorOptions {
  int device = -1;                                               // -1 = rank modulo the number of visible GPUs
  size_t arena_bytes = size_t(512) << 20;                        // per rank
  std::chrono::nanoseconds deadline = std::chrono::seconds(10);  // of each wait for a peer, on the device
  CudaSharing sharing = CudaSharing::kAuto;                      // of memory between processes
};

// One per rank. create(), alloc() and destruction are collective: all ranks in the same order, and not while an
// operator runs. The World must outlive it. create() makes `device` current on the calling thread.
class CudaCommunicator {
 public:
  // Errors: kInvalidArgument for a device that is not there, or a deadline <= 0; kUnimplemented for a
  // number of ranks that the protocols are not compiled for; what CudaArena and World return.
  static Result<std::unique_ptr<CudaCommunicator>> create(World& world, const CudaCommunicatorOptions& options = {});

  // The ranks that pass the same color, numbered by (key, rank here), over the same memory. Collective, and from now on
  // what is collective is so over the world: every rank makes the same calls, each in its own group. Faults name ranks
  // of the world.
  Result<std::shared_ptr<CudaCommunicator>> split(int color, int key) const;

  int rank() const { return rank_; }
  int size() const { return int(members_.size()); }
  // The group's ranks by their names in the world.
  const std::vector<int>& members() const { return members_; }
  int device() const { return arena_->device(); }
  // CTAs that a waiting kernel may launch so that all of them are resident, one per multiprocessor, also where other
  // ranks share this GPU. The same on every rank.
  int max_ctas() const { return max_ctas_; }
  // Multiprocessors for kernels that wait for no rank: 0 = all, or, where ranks share a GPU, max_ctas(). CTAs of others
  // that wait for this rank may then stand on all the rest, wherever that is, so that no cluster of CTAs is sure to
  // find room. The same on every rank of equal GPUs.
  int sm_budget() const { return sm_budget_; }
  // What operators that take an Exec are called with.
  Exec exec(cudaStream_t stream) const { return Exec::cuda(stream, sm_budget_, arena_->ranks_on_this_gpu() == 1); }
  World& world() const { return world_; }
  CudaArena& arena() const { return *arena_; }

  // n objects at one offset on all ranks, zero, aligned to 128 bytes. `what` names the owner in errors.
  template <class T>
  Result<sym<T>> alloc(i64 n, const std::string& what) {
    WEFT_ASSIGN(const u64 offset, alloc_bytes(n * i64(sizeof(T)), what));
    return sym<T>{offset};
  }
  template <class T>
  T* at(sym<T> object, int peer) const {
    return reinterpret_cast<T*>(arena_->base(members_[size_t(peer)]) + object.offset);
  }

  // What a kernel of `op` (a literal, named when a wait expires) is launched with. Ranks == size().
  template <int Ranks>
  CudaGroup<Ranks> group(const char* op) {
    WEFT_CHECK(Ranks == size(), Ranks, size());
    CudaGroup<Ranks> group;
    for (int peer = 0; peer < Ranks; ++peer) group.bases[peer] = arena_->base(members_[size_t(peer)]);
    group.rank = rank();
    group.fault = faults_->sink(op, members_);
    return group;
  }

  // The same for kernels whose number of ranks is a run-time value.
  CudaPeers peers(const char* op) {
    CudaPeers peers{};
    for (int peer = 0; peer < size(); ++peer) peers.bases[peer] = arena_->base(members_[size_t(peer)]);
    peers.rank = rank();
    peers.ranks = size();
    peers.fault = faults_->sink(op, members_);
    return peers;
  }

  // From now on kernels of this rank write marks; graphs captured before do not. Collective.
  Status start_trace();
  // Ends the trace: what they wrote, and how this rank's clock differs from rank 0's. Graphs captured while it was
  // taken must not run any more. Collective; no operator may run. Errors: kInvalidArgument without start_trace().
  Result<RankTrace> take_trace();

  // Ok, or what a kernel of this rank waited for in vain, or why the world has failed. A fault is told to all ranks.
  // Where the world has failed, kernels of this rank that wait are told to end, so that freeing what they use need not
  // wait for their deadline.
  Status status() const;
  // Waits for `stream`; a fault that ended its kernels is the status. Where the world fails meanwhile, for instance
  // because a rank's process died, kernels that wait are ended at once instead of at their deadline, by a trap: the
  // status says why the world failed and what this rank waited for, and the GPU's context is lost. Where the stream has
  // not ended 2 s after a failure or a fault, it is given up and devices are abandoned (runtime.cuh), so that nothing
  // on the way to the end of the process waits for it.
  Status synchronize(cudaStream_t stream) const;

 private:
  CudaCommunicator(World& world, std::vector<int> members, int rank, std::shared_ptr<CudaArena> arena,
                   std::shared_ptr<FaultLog> faults, int max_ctas, int sm_budget)
      : world_(world),
        members_(std::move(members)),
        rank_(rank),
        arena_(std::move(arena)),
        faults_(std::move(faults)),
        max_ctas_(max_ctas),
        sm_budget_(sm_budget) {}
  Result<u64> alloc_bytes(i64 bytes, const std::string& what);

  World& world_;
  const std::vector<int> members_;
  const int rank_;
  // Of all groups of this rank.
  const std::shared_ptr<CudaArena> arena_;
  const std::shared_ptr<FaultLog> faults_;
  const int max_ctas_, sm_budget_;
  std::optional<TraceLog> trace_;
  std::optional<ClockSync> clock_;
};

// Protocols on CudaGroup are compiled per world size; these are the sizes. Kernels on CudaPeers take any.
inline bool compiled_for_ranks(int ranks) {
  return ranks == 1 || ranks == 2 || ranks == 3 || ranks == 4 || ranks == 8;
}

// Calls f(std::integral_constant<int, n>) -> Status for n = `ranks` in {2, 3, 4, 8}; kUnimplemented for others.
template <class F>
Status with_ranks(int ranks, F&& f) {
  switch (ranks) {
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 8: return f(std::integral_constant<int, 8>{});
    default:
      return error(Code::kUnimplemented, "this collective is compiled for 2, 3, 4 and 8 ranks, not for {}", ranks);
  }
}

}  // namespace weft
