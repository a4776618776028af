// send_recv on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/send_recv/send_recv.h"

namespace weft {

class CudaSendRecv {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument for max_bytes < 0; kResourceExhausted.
  static Result<CudaSendRecv> create(CudaCommunicator& comm, const SendRecvShape& shape);

  // Sends x to `peer` on `stream`: any dtype and shape, dense, in CUDA memory, 16-byte aligned, at most max_bytes. The
  // kernel waits only while two messages to `peer` have not been received. Messages of a pair come in the order of the
  // sender's calls, whose streams must keep that order. Captures into a graph. Errors: kInvalidArgument before a
  // launch for x, or a peer that is this rank or none; the communicator's failure.
  Status send(cudaStream_t stream, const TensorView& x, int peer);

  // Receives the next message from `peer` into y, of exactly its number of bytes; as send(). A message of another size
  // is dropped, y is not written, and outcome() tells.
  Status receive(cudaStream_t stream, const TensorView& y, int peer);

  // After the streams have been waited for: kInvalidArgument naming the sizes of the last message that y did not take;
  // ok if there was none since create().
  Status outcome() const;

 private:
  CudaSendRecv(CudaCommunicator& comm, const SendRecvShape& shape) : comm_(&comm), shape_(shape) {}
  // direction: 0 send, 1 receive.
  Status launch_on(cudaStream_t stream, int direction, std::byte* data, i64 bytes, int peer);
  CudaCommunicator* comm_;
  SendRecvShape shape_;
  SendRecvBuffers buffers_;
  HostBuffer report_;
};

}  // namespace weft
