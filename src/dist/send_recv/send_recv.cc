#include "dist/send_recv/send_recv.h"

#include "dist/send_recv/plan.h"

namespace weft {
namespace {

constexpr const char* kSend = "send";
constexpr const char* kReceive = "receive";
constexpr i64 kTileBytes = 4096;

}  // namespace

Result<SendRecv> SendRecv::create(Communicator& comm, const SendRecvShape& shape) {
  SendRecv op(comm, shape);
  WEFT_ASSIGN(op.buffers_, plan_send_recv(comm, shape, kMaxTiles));
  op.buffers_.tile_bytes = cut_tiles(shape.max_bytes, kTileBytes).stride;
  return op;
}

Status SendRecv::check(const Exec& exec, const char* op, const char* tensor, const TensorView& view, int peer) const {
  WEFT_TRY(expect_cpu(op, exec));
  WEFT_TRY(expect_message(op, tensor, view, shape_, peer, comm_.rank(), comm_.size()));
  return comm_.status();
}

Status SendRecv::send(Exec& exec, const TensorView& x, int peer) {
  WEFT_TRY(check(exec, kSend, "x", x, peer));
  HostMachine m = comm_.machine(exec, kSend);
  return end_call(comm_, exec, send_message(m, buffers_, peer, x.data, message_bytes(x)));
}

Status SendRecv::receive(Exec& exec, const TensorView& y, int peer) {
  WEFT_TRY(check(exec, kReceive, "y", y, peer));
  HostMachine m = comm_.machine(exec, kReceive);
  i64 found = 0;
  WEFT_TRY(end_call(comm_, exec, receive_message(m, buffers_, peer, y.data, message_bytes(y), found)));
  if (found == message_bytes(y)) return {};
  return wrong_message(peer, found, y.describe());
}

}  // namespace weft
