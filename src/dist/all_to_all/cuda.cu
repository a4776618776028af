#include "comm/machine/cuda_words.cuh"
#include "device/cuda/nvtx.cuh"
#include "dist/all_to_all/all_to_all.cuh"
#include "dist/all_to_all/plan.h"
#include "dist/exchange/cuda_tiles.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_to_all";

// In host memory; the last of each kind.
struct Report {
  u64 bad_splits, overflows;
  i64 rows, room;
};

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  AllToAllBuffers buffers;
  const std::byte* x;
  std::byte* y;
  i64 row_bytes, rows, room;  // rows of x, of y
  const i64* send_rows;
  i64* received_rows;
  Report* report;
};

template <int Ranks>
struct RowHooks {
  const Params<Ranks>& params;
  i64 begins[Ranks + 1];  // of what goes to each rank, in bytes of x

  __device__ __forceinline__ explicit RowHooks(const Params<Ranks>& p) : params(p) {
    bool good = true;
    begins[0] = 0;
#pragma unroll
    for (int r = 0; r < Ranks; ++r) {
      const i64 rows = p.send_rows[r];
      const i64 left = p.rows * p.row_bytes - begins[r];
      good = good && rows >= 0 && rows * p.row_bytes <= p.buffers.slot && rows * p.row_bytes <= left;
      begins[r + 1] = begins[r] + (good ? rows * p.row_bytes : 0);
    }
    if (good) return;
#pragma unroll
    for (int r = 0; r <= Ranks; ++r) begins[r] = 0;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      volatile Report* report = p.report;
      report->bad_splits = report->bad_splits + 1;
    }
  }
  __device__ __forceinline__ i64 bytes_to(int p) const { return begins[p + 1] - begins[p]; }
  __device__ __forceinline__ const std::byte* source(int p) const { return params.x + begins[p]; }
  template <class LengthOf>
  __device__ __forceinline__ bool accept(LengthOf&& length_of) const {
    const bool speaks = blockIdx.x == 0 && threadIdx.x == 0;
    i64 found = 0;
    for (int p = 0; p < Ranks; ++p) {
      const i64 rows = length_of(p) / params.row_bytes;
      if (speaks) params.received_rows[p] = rows;
      found += rows;
    }
    if (speaks && found > params.room) {
      volatile Report* report = params.report;
      report->rows = found;
      report->room = params.room;
      report->overflows = report->overflows + 1;
    }
    return found <= params.room;
  }
  template <class LengthOf>
  __device__ __forceinline__ std::byte* target(int rank, LengthOf&& length_of) const {
    std::byte* begin = params.y;
    for (int p = 0; p < rank; ++p) begin += length_of(p);
    return begin;
  }
};

template <int Ranks>
__global__ void __launch_bounds__(1024) all_to_all_splits_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaMachine<Ranks> machine(params.group);
  bool fits = false;
  all_to_all(machine, params.buffers, RowHooks<Ranks>(params), fits);
}

template <int Ranks>
struct EvenParams {
  CudaGroup<Ranks> group;
  AllToAllBuffers buffers;
  const std::byte* x;
  std::byte* y;
  i64 bytes, packs;  // of a pair
};

template <int Ranks>
struct EvenHooks {
  const EvenParams<Ranks>& params;
  __device__ __forceinline__ Part<const std::byte> source(int p) const {
    return {params.x + p * params.bytes, params.bytes};
  }
  __device__ __forceinline__ Part<std::byte> target(int p) const { return {params.y + p * params.bytes, params.bytes}; }
};

template <int Ranks>
__global__ void __launch_bounds__(kWordsThreads) all_to_all_kernel(const __grid_constant__ EvenParams<Ranks> params) {
  CudaWordsMachine<Ranks> machine(params.group);
  all_to_all_words(machine, params.buffers, params.packs, EvenHooks<Ranks>{params});
}

// Splits are the GPU's to read also on one rank.
template <class F>
Status with_any_ranks(int ranks, F&& f) {
  return ranks == 1 ? f(std::integral_constant<int, 1>()) : with_ranks(ranks, std::forward<F>(f));
}

}  // namespace

Result<CudaAllToAll> CudaAllToAll::create(CudaCommunicator& comm, const AllToAllShape& shape) {
  CudaAllToAll op(comm, shape);
  WEFT_ASSIGN(op.report_, HostBuffer::create(sizeof(Report)));
  WEFT_TRY(with_any_ranks(comm.size(), [&](auto count) {  // before the collective allocation: it waits for all ranks
    WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(all_to_all_kernel<count()>), 0));
    return prepare_kernel(kOp, reinterpret_cast<const void*>(all_to_all_splits_kernel<count()>), 0);
  }));
  WEFT_ASSIGN(op.buffers_, plan_all_to_all(comm, shape, kCudaMaxCtas));
  SymmetricLayout layout;
  const auto inbox = BareInboxPlace::reserve(layout, comm.size(), shape.max_bytes_per_pair, true);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  op.buffers_.inbox = inbox.at(base);
  return std::move(op);
}

Status CudaAllToAll::run(cudaStream_t stream, const TensorView& x, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_rows_alike(x, y));
  WEFT_TRY(expect_tensor("all_to_all: y", y, x.dtype, x.shape));
  WEFT_TRY(expect_cuda(kOp, "x", x));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  WEFT_ASSIGN(const i64 rows, even_rows(shape_, x, comm_->size()));
  const i64 bytes = rows * bytes_per_row(x), packs = bare_packs(bytes);
  WEFT_TRY(comm_->status());
  if (bytes == 0) return {};
  const CudaGrid grid = cuda_words_grid(packs, 2, comm_->max_ctas());
  return with_any_ranks(comm_->size(), [&](auto count) {
    const EvenParams<count()> params{comm_->group<count()>(kOp), buffers_, x.as<const std::byte>(),
                                     y.as<std::byte>(),          bytes,    packs};
    return launch(kOp, all_to_all_kernel<count()>, {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)},
                  stream, params);
  });
}

Status CudaAllToAll::run_splits(cudaStream_t stream, const TensorView& x, const TensorView& send_rows,
                                const TensorView& y, const TensorView& received_rows) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_rows_alike(x, y));
  WEFT_TRY(expect_cuda(kOp, "x", x));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  WEFT_TRY(expect_tensor("all_to_all: send_rows", send_rows, DType::kI64, {comm_->size()}));
  WEFT_TRY(expect_tensor("all_to_all: received_rows", received_rows, DType::kI64, {comm_->size()}));
  WEFT_TRY(expect_cuda(kOp, "send_rows", send_rows));
  WEFT_TRY(expect_cuda(kOp, "received_rows", received_rows));
  if (bytes_per_row(x) == 0)
    return error(Code::kInvalidArgument, "{}: x: rows without bytes, found {}", kOp, x.describe());
  WEFT_TRY(comm_->status());
  AllToAllBuffers buffers = buffers_;
  buffers.tile_bytes = cut_into(shape_.max_bytes_per_pair, kCudaMaxCtas).stride;
  const CudaGrid grid = cuda_grid(shape_.max_bytes_per_pair, comm_->max_ctas());
  return with_any_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp),
                                 buffers,
                                 x.as<const std::byte>(),
                                 y.as<std::byte>(),
                                 bytes_per_row(x),
                                 x.dim(0),
                                 y.dim(0),
                                 send_rows.as<const i64>(),
                                 received_rows.as<i64>(),
                                 report_.as<Report>()};
    return launch(kOp, all_to_all_splits_kernel<count()>,
                  {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)}, stream, params);
  });
}

Status CudaAllToAll::outcome() const {
  const volatile Report& report = *report_.as<volatile Report>();
  if (const u64 calls = report.bad_splits; calls > 0)
    return error(Code::kInvalidArgument, "{}: send_rows: no splits of x in {} calls", kOp, calls);
  if (const u64 calls = report.overflows; calls > 0)
    return error(Code::kResourceExhausted, "{}: y: {} rows came, found room for {} ({} calls)", kOp, i64(report.rows),
                 i64(report.room), calls);
  return {};
}

}  // namespace weft
