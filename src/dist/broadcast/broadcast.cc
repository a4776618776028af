#include "dist/broadcast/broadcast.h"

#include "dist/exchange/plan.h"

namespace weft {
namespace {
constexpr const char* kOp = "broadcast";
constexpr i64 kTileBytes = 4096;
}  // namespace

Result<Broadcast> Broadcast::create(Communicator& comm, const BroadcastShape& shape) {
  if (shape.max_bytes < 0) {
    return error(Code::kInvalidArgument, "{}: max_bytes: expected at least 0, found {}", kOp, shape.max_bytes);
  }
  if (shape.root < 0 || shape.root >= comm.size()) {
    return error(Code::kInvalidArgument, "{}: root: expected 0 to {}, found {}", kOp, comm.size() - 1, shape.root);
  }
  Broadcast op(comm, shape);
  BroadcastBuffers& b = op.buffers_;
  b.half_bytes = round_up(shape.max_bytes, kFlagLineBytes);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(flags_per_source(kMaxTiles));
  const i64 read = layout.reserve<u32>(comm.size() * kFlagsPerLine);
  const i64 stage = layout.reserve<std::byte>(2 * b.half_bytes);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags_per_source(kMaxTiles)};
  b.read = {layout.at<u32>(base, read), kFlagsPerLine};
  b.stage = layout.at<std::byte>(base, stage);
  return op;
}

Status Broadcast::run(Exec& exec, const TensorView& data) {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(expect_dense(kOp, "data", data));
  const i64 bytes = dtype_bytes(data.dtype, data.shape.elements());
  if (bytes > shape_.max_bytes) {
    return error(Code::kInvalidArgument, "{}: data: {} holds more than max_bytes = {}", kOp, data.describe(),
                 shape_.max_bytes);
  }
  WEFT_TRY(comm_.status());
  if (bytes == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  return end_call(comm_, exec, broadcast(m, buffers_, cut_tiles(bytes, kTileBytes), shape_.root, data.data));
}

}  // namespace weft
