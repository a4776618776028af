// NCCL, opened at run time: the rival that benchmarks interleave with, and later the wire between hosts.
#pragma once
#include <cuda_runtime.h>

#include <span>

#include "base/dtype.h"
#include "comm/bootstrap/world.h"

namespace weft {

// A message to or from another rank, in GPU memory.
struct NcclMessage {
  enum class Way { kSend, kReceive } way;
  int peer;
  void* data;
  size_t bytes;
};

// Rank `world.rank()` of an NCCL communicator over the current devices of all ranks.
class NcclCommunicator {
 public:
  // Collective. Opens $WEFT_NCCL if set, else libnccl.so.2. Errors: kUnavailable where it cannot be opened (on every
  // rank alike), kIo with NCCL's text.
  static Result<std::unique_ptr<NcclCommunicator>> create(World& world, Deadline deadline);
  virtual ~NcclCommunicator() = default;
  // "2.28.9"
  virtual std::string version() const = 0;
  // y = sum of x over ranks, `count` elements of `dtype` (bf16 or f16) on the GPU; captures into a graph.
  virtual Status all_reduce(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) = 0;
  // y = the ranks' x, `count` elements each, in rank order.
  virtual Status all_gather(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) = 0;
  // y = elements [rank * count, (rank + 1) * count) of the sum of x over ranks.
  virtual Status reduce_scatter(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) = 0;
  Status all_reduce_bf16(const void* x, void* y, size_t count, cudaStream_t stream) {
    return all_reduce(DType::kBF16, x, y, count, stream);
  }
  Status all_gather_bf16(const void* x, void* y, size_t count, cudaStream_t stream) {
    return all_gather(DType::kBF16, x, y, count, stream);
  }
  Status reduce_scatter_bf16(const void* x, void* y, size_t count, cudaStream_t stream) {
    return reduce_scatter(DType::kBF16, x, y, count, stream);
  }
  // data of rank `root` everywhere.
  virtual Status broadcast(void* data, size_t bytes, int root, cudaStream_t stream) = 0;
  // All of them at once, as one group.
  virtual Status exchange(std::span<const NcclMessage> messages, cudaStream_t stream) = 0;
};

}  // namespace weft
