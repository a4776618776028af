// all_to_all on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/all_to_all/all_to_all.h"

namespace weft {

class CudaAllToAll {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument for max_bytes_per_pair < 0;
  // kResourceExhausted.
  static Result<CudaAllToAll> create(CudaCommunicator& comm, const AllToAllShape& shape);

  // Even, on `stream`: rows [r * M / ranks, (r + 1) * M / ranks) of x go to rank r; y takes the same number from each
  // rank, in rank order. x, y [M, ...] dense, in CUDA memory, 16-byte aligned, M divisible by the number of ranks and
  // the same everywhere; not overlapping. Captures into a graph; calls of one CudaAllToAll run in one stream order, the
  // same on every rank. Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& x, const TensorView& y);

  // By splits that the GPU reads: the first send_rows[0] rows of x [M, ...] go to rank 0, the next send_rows[1] to rank
  // 1 ...; y [at least the rows that come, ...] takes the rows of rank 0, then of rank 1 ..., received_rows[r] of them
  // from rank r. send_rows, received_rows: i64 [ranks] in CUDA memory. Counts may be 0 and need not be known at the
  // receiver; their sum may be less than M. Where the splits are no splits of x (negative, beyond M, beyond
  // max_bytes_per_pair), nothing is sent; where more rows come than y holds, y is not written, received_rows is:
  // outcome() tells after the stream has been waited for. Errors as run().
  Status run_splits(cudaStream_t stream, const TensorView& x, const TensorView& send_rows, const TensorView& y,
                    const TensorView& received_rows);

  // The same by splits of two dimensions, as AllToAll::run_splits_2d(): send_rows [ranks, groups], received_rows
  // [groups, ranks], begins [groups + 1], i64 in CUDA memory, groups those of the shape. y holds at least
  // begins[groups] rows; where it does not, it is not written, the other two are.
  Status run_splits_2d(cudaStream_t stream, const TensorView& x, const TensorView& send_rows, i64 align,
                       const TensorView& y, const TensorView& received_rows, const TensorView& begins);

  // What calls of run_splits and run_splits_2d since create() found: kInvalidArgument for splits of this rank that were
  // none, kResourceExhausted for rows that y could not hold, naming the last ones; else ok.
  Status outcome() const;

 private:
  CudaAllToAll(CudaCommunicator& comm, const AllToAllShape& shape) : comm_(&comm), shape_(shape) {}
  Status run_groups(cudaStream_t stream, const TensorView& x, const TensorView& send_rows, int groups, i64 align,
                    const TensorView& y, const TensorView& received_rows, const TensorView& begins);
  CudaCommunicator* comm_;
  AllToAllShape shape_;
  AllToAllBuffers buffers_;
  HostBuffer report_;
};

}  // namespace weft
