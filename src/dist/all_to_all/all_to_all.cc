#include "dist/all_to_all/all_to_all.h"

#include <numeric>
#include <vector>

#include "dist/all_to_all/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_to_all";
constexpr i64 kTileBytes = 4096;

struct RowHooks {
  std::span<const i64> send_rows;  // [ranks, groups]; empty: even_rows to each rank
  i64 even_rows;
  std::span<i64> received_rows, begins;  // empty: not wanted here
  const std::byte* x;
  std::byte* y;
  i64 row_bytes, capacity;  // bytes of y
  int ranks, groups;
  i64 align;
  i64 found = 0;                  // rows, with those between groups
  std::vector<i64> targets = {};  // [groups, ranks]: first rows of y

  i64 bytes_to(int p, int g) const {
    return (send_rows.empty() ? even_rows : send_rows[size_t(p * groups + g)]) * row_bytes;
  }
  i64 bytes_to(int p) const {
    i64 bytes = 0;
    for (int g = 0; g < groups; ++g) bytes += bytes_to(p, g);
    return bytes;
  }
  const std::byte* source(int p) const {
    const i64 row =
        send_rows.empty() ? p * even_rows : std::accumulate(send_rows.begin(), send_rows.begin() + p * groups, i64(0));
    return x + row * row_bytes;
  }
  template <class LengthOf>
  bool accept(LengthOf&& length_of) {
    for (int g = 0; g < groups; ++g) {
      found = round_up(found, align);
      if (!begins.empty()) begins[size_t(g)] = found;
      for (int p = 0; p < ranks; ++p) {
        const i64 rows = length_of(p, g) / row_bytes;
        if (!received_rows.empty()) received_rows[size_t(g * ranks + p)] = rows;
        targets.push_back(found);
        found += rows;
      }
    }
    found = round_up(found, align);
    if (!begins.empty()) begins[size_t(groups)] = found;
    return found * row_bytes <= capacity;
  }
  std::byte* target(int p, int g) const { return y + targets[size_t(g * ranks + p)] * row_bytes; }
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
  RowHooks hooks{{}, rows, {}, {}, x.data, y.data, row_bytes, x.dim(0) * row_bytes, comm_.size(), 1, 1};
  bool fits = true;
  WEFT_TRY(end_call(comm_, exec, all_to_all(m, buffers_, hooks, fits)));
  if (fits) return {};
  return error(Code::kInvalidArgument, "{}: y: the ranks sent {} rows, found {}", kOp, hooks.found, y.describe());
}

Status AllToAll::run_splits(Exec& exec, const TensorView& x, std::span<const i64> send_rows, const TensorView& y,
                            std::span<i64> received_rows) {
  return run_groups(exec, x, send_rows, 1, 1, y, received_rows, {});
}

Status AllToAll::run_splits_2d(Exec& exec, const TensorView& x, std::span<const i64> send_rows, i64 align,
                               const TensorView& y, std::span<i64> received_rows, std::span<i64> begins) {
  WEFT_TRY(check_groups(shape_, align, x));
  if (int(begins.size()) != shape_.groups + 1)
    return error(Code::kInvalidArgument, "{}: begins: expected {} entries, found {}", kOp, shape_.groups + 1,
                 begins.size());
  return run_groups(exec, x, send_rows, shape_.groups, align, y, received_rows, begins);
}

Status AllToAll::run_groups(Exec& exec, const TensorView& x, std::span<const i64> send_rows, int groups, i64 align,
                            const TensorView& y, std::span<i64> received_rows, std::span<i64> begins) {
  WEFT_TRY(check(exec, x, y));
  const i64 row_bytes = bytes_per_row(x);
  if (row_bytes == 0) return error(Code::kInvalidArgument, "{}: x: rows without bytes, found {}", kOp, x.describe());
  const int splits = comm_.size() * groups;
  if (int(send_rows.size()) != splits || int(received_rows.size()) != splits) {
    return error(Code::kInvalidArgument, "{}: send_rows, received_rows: expected {} entries, found {} and {}", kOp,
                 splits, send_rows.size(), received_rows.size());
  }
  const i64 most = shape_.max_bytes_per_pair / row_bytes;
  i64 total = 0;
  for (int p = 0; p < comm_.size(); ++p) {
    i64 to_rank = 0;
    for (int g = 0; g < groups; ++g) {
      const i64 rows = send_rows[size_t(p * groups + g)];
      if (rows < 0 || rows > most - to_rank) {
        return error(Code::kInvalidArgument, "{}: send_rows[{}]: expected 0 to {} bytes, found {} rows of {}", kOp,
                     p * groups + g, shape_.max_bytes_per_pair - to_rank * row_bytes, rows, row_bytes);
      }
      to_rank += rows;
    }
    total += to_rank;
  }
  if (total != x.dim(0)) {
    return error(Code::kInvalidArgument, "{}: x: send_rows add up to {}, found {}", kOp, total, x.describe());
  }
  HostMachine m = comm_.machine(exec, kOp);
  const bool tells = exec.thread() == 0;
  RowHooks hooks{.send_rows = send_rows,
                 .even_rows = 0,
                 .received_rows = tells ? received_rows : std::span<i64>(),
                 .begins = tells ? begins : std::span<i64>(),
                 .x = x.data,
                 .y = y.data,
                 .row_bytes = row_bytes,
                 .capacity = y.dim(0) * row_bytes,
                 .ranks = comm_.size(),
                 .groups = groups,
                 .align = align};
  AllToAllBuffers buffers = buffers_;
  buffers.groups = groups;
  bool fits = true;
  WEFT_TRY(end_call(comm_, exec, all_to_all(m, buffers, hooks, fits)));
  if (fits) return {};
  return error(Code::kResourceExhausted, "{}: y: {} rows came, found room for {}", kOp, hooks.found, y.describe());
}

}  // namespace weft
