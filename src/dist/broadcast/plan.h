// What the broadcasts of CPU and GPU ranks share on the host's side.
#pragma once
#include "dist/broadcast/broadcast.h"
#include "dist/exchange/plan.h"

namespace weft {

inline Status expect_broadcast(const BroadcastShape& shape, int ranks) {
  if (shape.max_bytes < 0)
    return error(Code::kInvalidArgument, "broadcast: max_bytes: expected at least 0, found {}", shape.max_bytes);
  if (shape.root < 0 || shape.root >= ranks)
    return error(Code::kInvalidArgument, "broadcast: root: expected 0 to {}, found {}", ranks - 1, shape.root);
  return {};
}

// Collective: the buffers, for up to `tiles` tiles. C: Communicator or CudaCommunicator.
template <class C>
Result<BroadcastBuffers> plan_broadcast(C& comm, const BroadcastShape& shape, i64 tiles) {
  BroadcastBuffers b;
  b.half_bytes = round_up(shape.max_bytes, kFlagLineBytes);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(flags_per_source(tiles));
  const i64 read = layout.reserve<u32>(comm.size() * kFlagsPerLine);
  const i64 stage = layout.reserve<std::byte>(2 * b.half_bytes);
  WEFT_ASSIGN(const auto base, comm.template alloc<std::byte>(layout.bytes(), "broadcast"));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags_per_source(tiles)};
  b.read = {layout.at<u32>(base, read), kFlagsPerLine};
  b.stage = layout.at<std::byte>(base, stage);
  return b;
}

// The bytes of `data`, which must be dense.
inline Result<i64> broadcast_bytes(const BroadcastShape& shape, const TensorView& data) {
  WEFT_TRY(expect_dense("broadcast", "data", data));
  const i64 bytes = dtype_bytes(data.dtype, data.shape.elements());
  if (bytes <= shape.max_bytes) return bytes;
  return error(Code::kInvalidArgument, "broadcast: data: {} holds more than max_bytes = {}", data.describe(),
               shape.max_bytes);
}

}  // namespace weft
