// Copies by the copy engine beside a fused kernel of the same call, on a stream of their own: link after link, a
// one-thread kernel that waits and tells, then a copy. Epochs, counters and credits are read from device memory by
// those kernels, so a captured chain replays correctly, and every wait has the communicator's deadline.
#pragma once
#include "base/tensor.h"
#include "comm/cuda_communicator.cuh"

namespace weft {

// The symmetric words of a chain. The buffers that its copies fill have one half: a rank copies into a peer's buffer
// only once the peer has read what the chained call before brought.
struct ChainWords {
  sym<EpochWord> epoch;  // of the operator
  sym<u32> copied;       // [ranks][flags]: written by the source, a line of its own each source; the call's epoch
  i64 flags = 0;         // per source, a multiple of kFlagsPerLine
  sym<u32> freed;        // [ranks], a line apart: written by the reader, the epoch of the last chained call it has read
  sym<u32> previous;     // own: the epoch of the last chained call
  sym<u32> sent;         // own: the epoch of the call all of whose copies have left

  WEFT_HD sym<u32> copied_at(int source, i64 flag) const { return copied + (source * flags + flag); }
  WEFT_HD sym<u32> freed_at(int reader) const { return freed + reader * kFlagsPerLine; }
};

// What a link's kernel does, in this order; all but `words` may be left out.
struct ChainLink {
  int tell_peer = -1;  // raises the copied flag `tell_flag` of this rank there: the copy before is done
  i64 tell_flag = 0;
  bool last = false;      // then ends the chain: `previous` and `sent` become the epoch
  int free_peer = -1;     // waits until that peer has read the chained call before
  u32* parked = nullptr;  // waits until the word, counted up by the fused kernel, is `parked_wanted`; resets it
  u32 parked_wanted = 0;
};

// A stream beside the caller's. One per operator instance.
class CopyChain {
 public:
  // Loads the link kernel, too. On the current device.
  static Result<CopyChain> create();
  // Later work of the chain follows what `stream` holds now. Launch the fused kernel after this and before the links:
  // were the two streams to share a hardware queue, the kernel must not stand behind them.
  Status fork(cudaStream_t stream);
  Status link(const CudaPeers& peers, const ChainWords& words, const ChainLink& link);
  Status copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t rows);
  // A whole chain: this rank's rows x [M_r, k] bf16 into their place in `all` [m, k] on every peer, split_range(m,
  // ranks, rank), a flag each, to the peer first that needs them first. `op` names the waits.
  Status copy_to_peers(CudaCommunicator& comm, const char* op, const ChainWords& words, sym<std::byte> all,
                       const TensorView& x, i64 m);
  // Later work of `stream` follows the chain.
  Status join(cudaStream_t stream);

 private:
  CudaStream side_;
  CudaEvent forked_, joined_;
};

}  // namespace weft
