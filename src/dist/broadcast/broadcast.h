// broadcast: the root's bytes on every rank.
#pragma once
#include "comm/communicator.h"
#include "dist/broadcast/protocol.h"

namespace weft {

struct BroadcastShape {
  i64 max_bytes = 0;
  int root = 0;
};

class Broadcast {
 public:
  // Collective. Errors: kInvalidArgument for a root outside the communicator or max_bytes < 0; kResourceExhausted.
  static Result<Broadcast> create(Communicator& comm, const BroadcastShape& shape);
  // data: any dtype and shape, dense, the same on every rank, at most max_bytes: read at the root, written elsewhere.
  // The root may return before the others have read. Every thread of every rank calls it; ends with exec.sync().
  // No bytes: a no-op. Errors: kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const TensorView& data);

 private:
  Broadcast(Communicator comm, const BroadcastShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Communicator comm_;
  BroadcastShape shape_;
  BroadcastBuffers buffers_;
};

}  // namespace weft
