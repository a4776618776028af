// all_to_all: every rank sends rows to every rank.
#pragma once
#include <span>

#include "comm/communicator.h"
#include "dist/all_to_all/protocol.h"

namespace weft {

struct AllToAllShape {
  i64 max_bytes_per_pair = 0;
  int groups = 1;  // of run_splits_2d(): for instance a rank's experts; 1 to kAllToAllMostGroups
};
inline constexpr int kAllToAllMostGroups = 256;

class AllToAll {
 public:
  // Collective. Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<AllToAll> create(Communicator& comm, const AllToAllShape& shape);

  // Even: rows [r * M / ranks, (r + 1) * M / ranks) of x go to rank r; y takes the same number from each rank, in rank
  // order. x, y [M, ...] dense, M divisible by the number of ranks and the same everywhere; not overlapping.
  // Every thread of every rank calls it; ends with exec.sync(). Errors: kInvalidArgument before anything is sent; the
  // communicator's failure.
  Status run(Exec& exec, const TensorView& x, const TensorView& y);

  // By splits: the first send_rows[0] rows of x [sum of send_rows, ...] go to rank 0, the next send_rows[1] to rank 1
  // ...; y [at least the rows that come, ...] takes the rows of rank 0, then of rank 1 ..., received_rows[r] of them
  // from rank r (written by thread 0). Counts may be 0 and need not be known at the receiver. Other dimensions and
  // dtype the same on every rank. Errors as run(); also kResourceExhausted, after the exchange and naming the rows,
  // when more rows come than y holds: y is not written then, received_rows is, and the next call works.
  Status run_splits(Exec& exec, const TensorView& x, std::span<const i64> send_rows, const TensorView& y,
                    std::span<i64> received_rows);

  // By splits of two dimensions: send_rows [ranks, groups], of rank 0's groups, then of rank 1's ...: the rows of x in
  // that order. y takes them by group, in a group by rank: received_rows [groups, ranks] of them. Group g's rows begin
  // at row begins[g], a multiple of `align`; begins [groups + 1], the last one a multiple, too, behind the last group's
  // rows. Rows between groups stay as they are. The same groups and align on every rank. Otherwise as run_splits(); y
  // holds at least begins[groups] rows.
  Status run_splits_2d(Exec& exec, const TensorView& x, std::span<const i64> send_rows, i64 align, const TensorView& y,
                       std::span<i64> received_rows, std::span<i64> begins);

 private:
  AllToAll(Communicator comm, const AllToAllShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const TensorView& x, const TensorView& y) const;
  Status run_groups(Exec& exec, const TensorView& x, std::span<const i64> send_rows, int groups, i64 align,
                    const TensorView& y, std::span<i64> received_rows, std::span<i64> begins);
  Communicator comm_;
  AllToAllShape shape_;
  AllToAllBuffers buffers_;
};

}  // namespace weft
