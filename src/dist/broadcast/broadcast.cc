#include "dist/broadcast/broadcast.h"

#include "dist/broadcast/plan.h"

namespace weft {
namespace {
constexpr const char* kOp = "broadcast";
constexpr i64 kTileBytes = 4096;
}  // namespace

Result<Broadcast> Broadcast::create(Communicator& comm, const BroadcastShape& shape) {
  WEFT_TRY(expect_broadcast(shape, comm.size()));
  Broadcast op(comm, shape);
  WEFT_ASSIGN(op.buffers_, plan_broadcast(comm, shape, kMaxTiles));
  return op;
}

Status Broadcast::run(Exec& exec, const TensorView& data) {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_ASSIGN(const i64 bytes, broadcast_bytes(shape_, data));
  WEFT_TRY(comm_.status());
  if (bytes == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  return end_call(comm_, exec, broadcast(m, buffers_, cut_tiles(bytes, kTileBytes), shape_.root, data.data));
}

}  // namespace weft
