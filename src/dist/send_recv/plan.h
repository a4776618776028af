// What the point-to-point messages of CPU and GPU ranks share on the host's side.
#pragma once
#include "dist/exchange/plan.h"
#include "dist/send_recv/send_recv.h"

namespace weft {

// Collective: the buffers, for up to `tiles` tiles of a message. C: Communicator or CudaCommunicator.
template <class C>
Result<SendRecvBuffers> plan_send_recv(C& comm, const SendRecvShape& shape, i64 tiles) {
  if (shape.max_bytes < 0)
    return error(Code::kInvalidArgument, "send_recv: max_bytes: expected at least 0, found {}", shape.max_bytes);
  SendRecvBuffers b;
  const int ranks = comm.size();
  b.slot = round_up(shape.max_bytes, kFlagLineBytes);
  const i64 flags = flags_per_source(tiles);
  SymmetricLayout layout;
  const i64 sent = layout.reserve<std::byte>(ranks * kFlagLineBytes);
  const i64 received = layout.reserve<std::byte>(ranks * kFlagLineBytes);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 read = layout.reserve<u32>(ranks * kFlagsPerLine);
  const i64 lengths = layout.reserve<std::byte>(2 * ranks * kFlagLineBytes);
  const i64 stage = layout.reserve<std::byte>(2 * ranks * b.slot);
  WEFT_ASSIGN(const auto base, comm.template alloc<std::byte>(layout.bytes(), "send_recv"));
  b.sent = layout.at<EpochWord>(base, sent);
  b.received = layout.at<EpochWord>(base, received);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.read = {layout.at<u32>(base, read), kFlagsPerLine};
  b.lengths = layout.at<u64>(base, lengths);
  b.stage = layout.at<std::byte>(base, stage);
  return b;
}

inline i64 message_bytes(const TensorView& view) {
  return dtype_bytes(view.dtype, view.shape.elements());
}

// Whether `tensor` of `op` may go between `rank` and `peer`.
inline Status expect_message(const char* op, const char* tensor, const TensorView& view, const SendRecvShape& shape,
                             int peer, int rank, int ranks) {
  WEFT_TRY(expect_dense(op, tensor, view));
  if (peer < 0 || peer >= ranks || peer == rank)
    return error(Code::kInvalidArgument, "{}: peer: expected another rank of {}, found {} on rank {}", op, ranks, peer,
                 rank);
  if (message_bytes(view) > shape.max_bytes)
    return error(Code::kInvalidArgument, "{}: {}: {} holds more than max_bytes = {}", op, tensor, view.describe(),
                 shape.max_bytes);
  return {};
}

// What receive says of a message that y does not take.
inline Status wrong_message(int peer, i64 found, const std::string& y) {
  return error(Code::kInvalidArgument, "receive: y: rank {} sent {} bytes, found {}", peer, found, y);
}

}  // namespace weft
