// send_recv: messages between two ranks, in order, for pipeline stages.
#pragma once
#include "comm/communicator.h"
#include "dist/send_recv/protocol.h"

namespace weft {

struct SendRecvShape {
  i64 max_bytes = 0;  // of a message
};

class SendRecv {
 public:
  // Collective. Errors: kInvalidArgument for max_bytes < 0; kResourceExhausted.
  static Result<SendRecv> create(Communicator& comm, const SendRecvShape& shape);

  // Sends x, any dtype and shape, dense, at most max_bytes. Returns when x may be changed; waits only while two
  // messages to `peer` have not been received. Every thread of the rank calls it; ends with exec.sync(). Errors:
  // kInvalidArgument for x, or a peer that is this rank or none; the communicator's failure.
  Status send(Exec& exec, const TensorView& x, int peer);

  // Receives the next message from `peer` into y, dense, of exactly its number of bytes. As send(). Errors: also
  // kInvalidArgument naming both sizes when they differ: the message is then dropped.
  Status receive(Exec& exec, const TensorView& y, int peer);

 private:
  SendRecv(Communicator comm, const SendRecvShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const char* op, const char* tensor, const TensorView& view, int peer) const;
  Communicator comm_;
  SendRecvShape shape_;
  SendRecvBuffers buffers_;
};

}  // namespace weft
