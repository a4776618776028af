#include "dist/all_gather/all_gather.h"

#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_gather";
constexpr i64 kTileBytes = 4096;

// Where bytes of the output lie, and how many follow without a gap.
struct Place {
  std::byte* address;
  i64 room;
};

// Shards are runs of whole rows.
struct RowHooks {
  const std::byte* shard;
  TensorView y;
  i64 row_bytes, rows;  // of y
  int ranks;
  bool dense = y.is_dense();
  i64 found = 0;  // bytes of all shards
  i64 begin = 0;  // of the selected rank

  const std::byte* source(i64 i) const { return shard + i; }
  template <class LengthOf>
  bool accept(LengthOf&& length_of) {
    for (int p = 0; p < ranks; ++p) found += length_of(p);
    return found == rows * row_bytes;
  }
  template <class LengthOf>
  void select(int rank, LengthOf&& length_of) {
    begin = 0;
    for (int p = 0; p < rank; ++p) begin += length_of(p);
  }
  Place target(i64 i) const {
    if (dense) return {y.data + begin + i, rows * row_bytes - begin - i};
    const i64 row = (begin + i) / row_bytes, in_row = (begin + i) % row_bytes;
    return {y.data + row * y.byte_strides[0] + in_row, row_bytes - in_row};
  }
};

// Shards are runs of columns: every rank has all rows.
struct ColumnHooks : RowHooks {
  i64 width = 0;  // bytes of a row of the selected rank

  template <class LengthOf>
  void select(int rank, LengthOf&& length_of) {
    RowHooks::select(rank, length_of);
    begin /= rows;
    width = length_of(rank) / rows;
  }
  Place target(i64 i) const { return {y.data + i / width * y.byte_strides[0] + begin + i % width, width - i % width}; }
};

}  // namespace

Result<AllGather> AllGather::create(Communicator& comm, const AllGatherShape& shape) {
  if (shape.max_bytes_per_rank < 0) {
    return error(Code::kInvalidArgument, "{}: max_bytes_per_rank: expected at least 0, found {}", kOp,
                 shape.max_bytes_per_rank);
  }
  AllGather op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_all_gather(comm, shape.max_bytes_per_rank));
    return op;
  }
  AllGatherBuffers& b = op.buffers_;
  const int ranks = comm.size();
  b.tile_bytes = cut_tiles(shape.max_bytes_per_rank, kTileBytes).stride;
  b.slot = round_up(shape.max_bytes_per_rank, kFlagLineBytes);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags_per_source(kMaxTiles));
  const i64 lengths = layout.reserve<u64>(2 * ranks * kLengthsPerLine);
  const i64 stage = layout.reserve<std::byte>(2 * ranks * b.slot);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags_per_source(kMaxTiles)};
  b.lengths = layout.at<u64>(base, lengths);
  b.stage = layout.at<std::byte>(base, stage);
  return op;
}

// What both forms ask of shard and y.
Status AllGather::check(const Exec& exec, const TensorView& shard, const TensorView& y) const {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(expect_dense(kOp, "shard", shard));
  if (shard.shape.rank() < 1 || shard.shape.rank() != y.shape.rank() || shard.dtype != y.dtype) {
    return error(Code::kInvalidArgument, "{}: y: {} does not go with a shard {}", kOp, y.describe(), shard.describe());
  }
  const TensorView dense = TensorView::dense(y.data, y.dtype, y.shape);
  for (int i = 1; i < y.shape.rank(); ++i) {
    if (y.byte_strides[size_t(i)] != dense.byte_strides[size_t(i)]) {
      return error(Code::kInvalidArgument, "{}: y: only rows may have a stride, found {}", kOp, y.describe());
    }
  }
  const i64 bytes = dtype_bytes(shard.dtype, shard.shape.elements());
  if (bytes > shape_.max_bytes_per_rank) {
    return error(Code::kInvalidArgument, "{}: shard: {} holds more than max_bytes_per_rank = {}", kOp, shard.describe(),
                 shape_.max_bytes_per_rank);
  }
  return comm_.status();
}

Status AllGather::run(Exec& exec, const TensorView& shard, const TensorView& y) {
  if (gpu_) return gpu::run(*gpu_, exec, shard, y);
  WEFT_TRY(check(exec, shard, y));
  for (int i = 1; i < y.shape.rank(); ++i) {
    if (shard.shape[i] != y.shape[i]) {
      return error(Code::kInvalidArgument, "{}: y: {} does not go with a shard {}", kOp, y.describe(),
                   shard.describe());
    }
  }
  i64 row = 1;
  for (int i = 1; i < y.shape.rank(); ++i) row *= y.shape[i];
  if (row == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  RowHooks hooks{shard.data, y, dtype_bytes(y.dtype, row), y.dim(0), comm_.size()};
  bool fits = true;
  WEFT_TRY(
      end_call(comm_, exec, all_gather(m, buffers_, dtype_bytes(shard.dtype, shard.shape.elements()), hooks, fits)));
  if (fits) return {};
  return error(Code::kInvalidArgument, "{}: y: the shards of all ranks hold {} rows, found {}", kOp,
               hooks.found / hooks.row_bytes, y.describe());
}

Status AllGather::run_columns(Exec& exec, const TensorView& shard, const TensorView& y) {
  WEFT_TRY(check(exec, shard, y));
  if (shard.shape.rank() != 2 || shard.dim(0) != y.dim(0)) {
    return error(Code::kInvalidArgument, "{}: y: {} does not go with columns {}", kOp, y.describe(), shard.describe());
  }
  if (shard.dim(0) == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  ColumnHooks hooks{{shard.data, y, dtype_bytes(y.dtype, y.dim(1)), y.dim(0), comm_.size()}};
  bool fits = true;
  WEFT_TRY(
      end_call(comm_, exec, all_gather(m, buffers_, dtype_bytes(shard.dtype, shard.shape.elements()), hooks, fits)));
  if (fits) return {};
  return error(Code::kInvalidArgument, "{}: y: the shards of all ranks hold {} columns, found {}", kOp,
               hooks.found / hooks.rows / dtype_layout(y.dtype).bytes, y.describe());
}

}  // namespace weft
