#include "dist/all_to_all/all_to_all.h"

#include <numeric>

#include "dist/all_to_all/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_to_all";
constexpr i64 kTileBytes = 4096;

struct RowHooks {
  std::span<const i64> send_rows;  // empty: even_rows to each rank
  i64 even_rows;
  std::span<i64> received_rows;  // empty: not wanted here
  const std::byte* x;
  std::byte* y;
  i64 row_bytes, capacity;  // bytes of y
  int ranks;
  i64 found = 0;

  i64 rows_to(int p) const { return send_rows.empty() ? even_rows : send_rows[size_t(p)]; }
  i64 bytes_to(int p) const { return rows_to(p) * row_bytes; }
  const std::byte* source(int p) const {
    const i64 row =
        send_rows.empty() ? p * even_rows : std::accumulate(send_rows.begin(), send_rows.begin() + p, i64(0));
    return x + row * row_bytes;
  }
  template <class LengthOf>
  bool accept(LengthOf&& length_of) {
    for (int p = 0; p < ranks; ++p) {
      if (!received_rows.empty()) received_rows[size_t(p)] = length_of(p) / row_bytes;
      found += length_of(p);
    }
    return found <= capacity;
  }
  template <class LengthOf>
  std::byte* target(int rank, LengthOf&& length_of) const {
    std::byte* begin = y;
    for (int p = 0; p < rank; ++p) begin += length_of(p);
    return begin;
  }
};

}  // namespace

Result<AllToAll> AllToAll::create(Communicator& comm, const AllToAllShape& shape) {
  AllToAll op(comm, shape);
  WEFT_ASSIGN(op.buffers_, plan_all_to_all(comm, shape, kMaxTiles));
  op.buffers_.tile_bytes = cut_tiles(shape.max_bytes_per_pair, kTileBytes).stride;
  return op;
}

Status AllToAll::check(const Exec& exec, const TensorView& x, const TensorView& y) const {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(expect_dense(kOp, "x", x));
  WEFT_TRY(expect_dense(kOp, "y", y));
  WEFT_TRY(expect_rows_alike(x, y));
  return comm_.status();
}

Status AllToAll::run(Exec& exec, const TensorView& x, const TensorView& y) {
  WEFT_TRY(check(exec, x, y));
  WEFT_TRY(expect_tensor("all_to_all: y", y, x.dtype, x.shape));
  WEFT_ASSIGN(const i64 rows, even_rows(shape_, x, comm_.size()));
  const i64 row_bytes = bytes_per_row(x);
  if (rows * row_bytes == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  RowHooks hooks{{}, rows, {}, x.data, y.data, row_bytes, x.dim(0) * row_bytes, comm_.size()};
  bool fits = true;
  WEFT_TRY(end_call(comm_, exec, all_to_all(m, buffers_, hooks, fits)));
  if (fits) return {};
  return error(Code::kInvalidArgument, "{}: y: the ranks sent {} rows, found {}", kOp, hooks.found / row_bytes,
               y.describe());
}

Status AllToAll::run_splits(Exec& exec, const TensorView& x, std::span<const i64> send_rows, const TensorView& y,
                            std::span<i64> received_rows) {
  WEFT_TRY(check(exec, x, y));
  const i64 row_bytes = bytes_per_row(x);
  if (row_bytes == 0) return error(Code::kInvalidArgument, "{}: x: rows without bytes, found {}", kOp, x.describe());
  if (int(send_rows.size()) != comm_.size() || int(received_rows.size()) != comm_.size()) {
    return error(Code::kInvalidArgument, "{}: send_rows, received_rows: expected {} entries, found {} and {}", kOp,
                 comm_.size(), send_rows.size(), received_rows.size());
  }
  i64 total = 0;
  for (int p = 0; p < comm_.size(); ++p) {
    const i64 rows = send_rows[size_t(p)];
    if (rows < 0 || rows > shape_.max_bytes_per_pair / row_bytes) {
      return error(Code::kInvalidArgument, "{}: send_rows[{}]: expected 0 to {} bytes, found {} rows of {}", kOp, p,
                   shape_.max_bytes_per_pair, rows, row_bytes);
    }
    total += rows;
  }
  if (total != x.dim(0)) {
    return error(Code::kInvalidArgument, "{}: x: send_rows add up to {}, found {}", kOp, total, x.describe());
  }
  HostMachine m = comm_.machine(exec, kOp);
  const std::span<i64> counts = exec.thread() == 0 ? received_rows : std::span<i64>();
  RowHooks hooks{send_rows, 0, counts, x.data, y.data, row_bytes, y.dim(0) * row_bytes, comm_.size()};
  bool fits = true;
  WEFT_TRY(end_call(comm_, exec, all_to_all(m, buffers_, hooks, fits)));
  if (fits) return {};
  return error(Code::kResourceExhausted, "{}: y: {} rows came, found room for {}", kOp, hooks.found / row_bytes,
               y.describe());
}

}  // namespace weft
