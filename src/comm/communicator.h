// Communicator: a group of ranks with symmetric memory; all that an operator of many ranks needs.
#pragma once
#include <memory>
#include <vector>

#include "comm/arena/arena.h"
#include "comm/machine/host.h"
#include "device/exec.h"

namespace weft {

class CudaCommunicator;

struct CommunicatorOptions {
  i64 arena_bytes = i64(256) << 20;                              // per rank; becomes resident as it is used
  std::chrono::nanoseconds deadline = std::chrono::seconds(10);  // of each wait for a peer
};

// A handle: copies share the communicator. The World must outlive all of them. create(), split(), alloc() and
// exchange() are collective: every rank of the group calls them in the same order, by one thread, and not while an
// operator of the group runs.
class Communicator {
 public:
  // All ranks of the world. Errors: what Arena::create and World return; kInvalidArgument for a deadline <= 0.
  static Result<Communicator> create(World& world, const CommunicatorOptions& options = {});

  // A handle on this rank's communicator of GPUs, which must outlive all copies: operators created from it run there.
  // Beside them it knows rank, size and world; alloc() and exchange() are kUnimplemented. Its split() is that of
  // CudaCommunicator.
  static Communicator on_gpu(CudaCommunicator& cuda);
  DeviceKind device() const { return state_->cuda ? DeviceKind::kCuda : DeviceKind::kCpu; }
  // Only where device() is kCuda.
  CudaCommunicator& cuda() const { return *state_->cuda; }

  // The ranks that pass the same color, numbered by (key, rank here); the same arena.
  // Errors: kInvalidArgument for a negative color.
  Result<Communicator> split(int color, int key);

  int rank() const { return state_->group.rank; }
  int size() const { return state_->group.ranks(); }
  // The rank in the world of rank `r` here.
  int world_rank(int r) const { return state_->group.world_ranks[size_t(r)]; }
  World& world() const { return *state_->group.world; }
  Arena& arena() const { return *state_->arena; }
  // Ok, or why the world has failed; every operator then returns this.
  Status status() const {
    Failure& failure = world().failure();
    return failure.raised() ? failure.reason() : Status();
  }

  // n objects in the arena at one offset on all ranks of this group, zero, aligned to 128 bytes. `what` names the
  // owner in errors. Errors: kInvalidArgument when ranks differ in what they ask; kResourceExhausted.
  template <class T>
  Result<sym<T>> alloc(i64 n, const std::string& what) {
    WEFT_ASSIGN(const u64 offset, alloc_bytes(n * i64(sizeof(T)), what));
    return sym<T>{offset};
  }

  // Every rank's value, by rank.
  Result<std::vector<u64>> exchange(u64 value);

  // The machine of the calling team thread for one call of `op` (a literal).
  HostMachine machine(const Exec& exec, const char* op) const {
    return HostMachine(state_->group, exec.thread(), exec.num_threads(), op);
  }

 private:
  // In the arena: where exchange() meets.
  struct Mailbox {
    sym<u64> values;  // [2][ranks], a line apart
    sym<u32> flags;   // [ranks], a line apart
    sym<EpochWord> epoch;
    static i64 bytes(int ranks);
    static Mailbox at(u64 offset, int ranks);
  };
  struct State {
    std::shared_ptr<Arena> arena;
    HostGroup group;
    Mailbox mailbox;
    std::shared_ptr<CudaCommunicator> cuda;  // in place of the arena and the mailbox
  };
  explicit Communicator(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Result<u64> alloc_bytes(i64 bytes, const std::string& what);
  static Communicator over(std::shared_ptr<CudaCommunicator> cuda);
  Result<Communicator> split_gpus(int color, int key) const;
  Status expect_cpu(const std::string& what) const;

  std::shared_ptr<State> state_;
};

}  // namespace weft
