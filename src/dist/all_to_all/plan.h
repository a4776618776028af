// What the all-to-alls of CPU and GPU ranks share on the host's side.
#pragma once
#include "dist/all_to_all/all_to_all.h"
#include "dist/exchange/plan.h"

namespace weft {

// Collective: the buffers, for up to `tiles` tiles of a pair. C: Communicator or CudaCommunicator.
template <class C>
Result<AllToAllBuffers> plan_all_to_all(C& comm, const AllToAllShape& shape, i64 tiles) {
  if (shape.max_bytes_per_pair < 0)
    return error(Code::kInvalidArgument, "all_to_all: max_bytes_per_pair: expected at least 0, found {}",
                 shape.max_bytes_per_pair);
  if (shape.groups < 1 || shape.groups > kAllToAllMostGroups)
    return error(Code::kInvalidArgument, "all_to_all: groups: expected 1 to {}, found {}", kAllToAllMostGroups,
                 shape.groups);
  AllToAllBuffers b;
  b.slot = round_up(shape.max_bytes_per_pair, kFlagLineBytes);
  const i64 flags = flags_per_source(tiles);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(comm.size() * flags);
  const i64 lengths = layout.reserve<u64>(2 * comm.size() * AllToAllBuffers::length_stride(shape.groups));
  const i64 stage = layout.reserve<std::byte>(2 * comm.size() * b.slot);
  WEFT_ASSIGN(const auto base, comm.template alloc<std::byte>(layout.bytes(), "all_to_all"));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.lengths = layout.at<u64>(base, lengths);
  b.stage = layout.at<std::byte>(base, stage);
  return b;
}

inline i64 bytes_per_row(const TensorView& view) {
  i64 elements = 1;
  for (int i = 1; i < view.shape.rank(); ++i) elements *= view.shape[i];
  return dtype_bytes(view.dtype, elements);
}

inline Status check_groups(const AllToAllShape& shape, i64 align, const TensorView& x) {
  if (align >= 1 && align <= i64(1) << 20) return {};
  return error(Code::kInvalidArgument, "all_to_all: align: expected 1 to 2^20 rows, found {} ({} groups of {})", align,
               shape.groups, x.describe());
}

// x and y hold rows of one kind.
inline Status expect_rows_alike(const TensorView& x, const TensorView& y) {
  bool same = x.dtype == y.dtype && x.shape.rank() == y.shape.rank() && x.shape.rank() >= 1;
  for (int i = 1; same && i < x.shape.rank(); ++i) same = x.shape[i] == y.shape[i];
  if (same) return {};
  return error(Code::kInvalidArgument, "all_to_all: y: {} does not go with x {}", y.describe(), x.describe());
}

// The rows that each of `ranks` ranks gets of x where all get the same.
inline Result<i64> even_rows(const AllToAllShape& shape, const TensorView& x, int ranks) {
  const i64 rows = x.dim(0) / ranks;
  if (x.dim(0) % ranks == 0 && rows * bytes_per_row(x) <= shape.max_bytes_per_pair) return rows;
  return error(Code::kInvalidArgument,
               "all_to_all: x: {} does not give each of {} ranks the same rows, at most {} bytes", x.describe(), ranks,
               shape.max_bytes_per_pair);
}

}  // namespace weft
