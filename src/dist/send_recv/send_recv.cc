#include "dist/send_recv/send_recv.h"

#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kSend = "send";
constexpr const char* kReceive = "receive";
constexpr i64 kTileBytes = 4096;

i64 bytes_of(const TensorView& view) {
  return dtype_bytes(view.dtype, view.shape.elements());
}

}  // namespace

Result<SendRecv> SendRecv::create(Communicator& comm, const SendRecvShape& shape) {
  if (shape.max_bytes < 0) {
    return error(Code::kInvalidArgument, "send_recv: max_bytes: expected at least 0, found {}", shape.max_bytes);
  }
  SendRecv op(comm, shape);
  SendRecvBuffers& b = op.buffers_;
  const int ranks = comm.size();
  b.slot = round_up(shape.max_bytes, kFlagLineBytes);
  b.tile_bytes = cut_tiles(shape.max_bytes, kTileBytes).stride;
  const i64 flags = flags_per_source(kMaxTiles);
  SymmetricLayout layout;
  const i64 sent = layout.reserve<std::byte>(ranks * kFlagLineBytes);
  const i64 received = layout.reserve<std::byte>(ranks * kFlagLineBytes);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 read = layout.reserve<u32>(ranks * kFlagsPerLine);
  const i64 lengths = layout.reserve<std::byte>(2 * ranks * kFlagLineBytes);
  const i64 stage = layout.reserve<std::byte>(2 * ranks * b.slot);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), "send_recv"));
  b.sent = layout.at<EpochWord>(base, sent);
  b.received = layout.at<EpochWord>(base, received);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.read = {layout.at<u32>(base, read), kFlagsPerLine};
  b.lengths = layout.at<u64>(base, lengths);
  b.stage = layout.at<std::byte>(base, stage);
  return op;
}

Status SendRecv::check(const Exec& exec, const char* op, const char* tensor, const TensorView& view, int peer) const {
  WEFT_TRY(expect_cpu(op, exec));
  WEFT_TRY(expect_dense(op, tensor, view));
  if (peer < 0 || peer >= comm_.size() || peer == comm_.rank()) {
    return error(Code::kInvalidArgument, "{}: peer: expected another rank of {}, found {} on rank {}", op, comm_.size(),
                 peer, comm_.rank());
  }
  if (bytes_of(view) > shape_.max_bytes) {
    return error(Code::kInvalidArgument, "{}: {}: {} holds more than max_bytes = {}", op, tensor, view.describe(),
                 shape_.max_bytes);
  }
  return comm_.status();
}

Status SendRecv::send(Exec& exec, const TensorView& x, int peer) {
  WEFT_TRY(check(exec, kSend, "x", x, peer));
  HostMachine m = comm_.machine(exec, kSend);
  return end_call(comm_, exec, send_message(m, buffers_, peer, x.data, bytes_of(x)));
}

Status SendRecv::receive(Exec& exec, const TensorView& y, int peer) {
  WEFT_TRY(check(exec, kReceive, "y", y, peer));
  HostMachine m = comm_.machine(exec, kReceive);
  i64 found = 0;
  WEFT_TRY(end_call(comm_, exec, receive_message(m, buffers_, peer, y.data, bytes_of(y), found)));
  if (found == bytes_of(y)) return {};
  return error(Code::kInvalidArgument, "{}: y: rank {} sent {} bytes, found {}", kReceive, peer, found, y.describe());
}

}  // namespace weft
