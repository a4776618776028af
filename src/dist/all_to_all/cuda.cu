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
  i64 align;
  const i64* send_rows;  // [Ranks, groups]
  i64* received_rows;    // [groups, Ranks]
  i64* begins;           // [groups + 1], or null
  Report* report;
};

template <int Ranks>
struct RowHooks {
  const Params<Ranks>& params;
  i64* targets;           // [groups, Ranks] in shared memory: first rows of y
  i64 begins[Ranks + 1];  // of what goes to each rank, in bytes of x

  __device__ __forceinline__ RowHooks(const Params<Ranks>& p, i64* table) : params(p), targets(table) {
    const int groups = p.buffers.groups;
    bool good = true;
    begins[0] = 0;
#pragma unroll
    for (int r = 0; r < Ranks; ++r) {
      const i64 left = p.rows * p.row_bytes - begins[r];
      i64 bytes = 0;
      for (int g = 0; g < groups; ++g) {
        const i64 rows = p.send_rows[r * groups + g];
        good = good && rows >= 0 && rows * p.row_bytes <= p.buffers.slot;
        bytes += good ? rows * p.row_bytes : 0;
        good = good && bytes <= p.buffers.slot && bytes <= left;
      }
      begins[r + 1] = begins[r] + (good ? bytes : 0);
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
  __device__ __forceinline__ i64 bytes_to(int p, int g) const {
    return begins[Ranks] == 0 ? 0 : params.send_rows[p * params.buffers.groups + g] * params.row_bytes;
  }
  __device__ __forceinline__ const std::byte* source(int p) const { return params.x + begins[p]; }
  // A thread per group counts its rows, one adds them up, each fills in its group's targets.
  template <class LengthOf>
  __device__ __forceinline__ bool accept(LengthOf&& length_of) const {
    const int groups = params.buffers.groups;
    const bool speaks = blockIdx.x == 0;
    for (int g = int(threadIdx.x); g < groups; g += int(blockDim.x)) {
      i64 rows = 0;
      for (int p = 0; p < Ranks; ++p) {
        const i64 came = length_of(p, g) / params.row_bytes;
        if (speaks) params.received_rows[g * Ranks + p] = came;
        rows += came;
      }
      targets[g * Ranks] = round_up(rows, params.align);
    }
    __syncthreads();
    i64* const end = targets + groups * Ranks;
    if (threadIdx.x == 0) {
      i64 first = 0;
      for (int g = 0; g < groups; ++g) {
        const i64 rows = targets[g * Ranks];
        targets[g * Ranks] = first;
        if (speaks && params.begins) params.begins[g] = first;
        first += rows;
      }
      *end = first;
      if (speaks && params.begins) params.begins[groups] = first;
    }
    __syncthreads();
    for (int g = int(threadIdx.x); g < groups; g += int(blockDim.x))
      for (int p = 1; p < Ranks; ++p)
        targets[g * Ranks + p] = targets[g * Ranks + p - 1] + length_of(p - 1, g) / params.row_bytes;
    __syncthreads();
    if (speaks && threadIdx.x == 0 && *end > params.room) {
      volatile Report* report = params.report;
      report->rows = *end;
      report->room = params.room;
      report->overflows = report->overflows + 1;
    }
    return *end <= params.room;
  }
  __device__ __forceinline__ std::byte* target(int p, int g) const {
    return params.y + targets[g * Ranks + p] * params.row_bytes;
  }
};

template <int Ranks>
__global__ void __launch_bounds__(1024) all_to_all_splits_kernel(const __grid_constant__ Params<Ranks> params) {
  __shared__ i64 targets[kAllToAllMostGroups * Ranks + 1];
  CudaMachine<Ranks> machine(params.group);
  bool fits = false;
  all_to_all(machine, params.buffers, RowHooks<Ranks>(params, targets), fits);
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
  WEFT_TRY(expect_tensor("all_to_all: send_rows", send_rows, DType::kI64, {comm_->size()}));
  WEFT_TRY(expect_tensor("all_to_all: received_rows", received_rows, DType::kI64, {comm_->size()}));
  return run_groups(stream, x, send_rows, 1, 1, y, received_rows, {});
}

Status CudaAllToAll::run_splits_2d(cudaStream_t stream, const TensorView& x, const TensorView& send_rows, i64 align,
                                   const TensorView& y, const TensorView& received_rows, const TensorView& begins) {
  WEFT_TRY(check_groups(shape_, align, x));
  const i64 groups = shape_.groups;
  WEFT_TRY(expect_tensor("all_to_all: send_rows", send_rows, DType::kI64, {comm_->size(), groups}));
  WEFT_TRY(expect_tensor("all_to_all: received_rows", received_rows, DType::kI64, {groups, comm_->size()}));
  WEFT_TRY(expect_tensor("all_to_all: begins", begins, DType::kI64, {groups + 1}));
  WEFT_TRY(expect_cuda(kOp, "begins", begins));
  return run_groups(stream, x, send_rows, int(groups), align, y, received_rows, begins);
}

Status CudaAllToAll::run_groups(cudaStream_t stream, const TensorView& x, const TensorView& send_rows, int groups,
                                i64 align, const TensorView& y, const TensorView& received_rows,
                                const TensorView& begins) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_rows_alike(x, y));
  WEFT_TRY(expect_cuda(kOp, "x", x));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  WEFT_TRY(expect_cuda(kOp, "send_rows", send_rows));
  WEFT_TRY(expect_cuda(kOp, "received_rows", received_rows));
  if (bytes_per_row(x) == 0)
    return error(Code::kInvalidArgument, "{}: x: rows without bytes, found {}", kOp, x.describe());
  WEFT_TRY(comm_->status());
  AllToAllBuffers buffers = buffers_;
  buffers.tile_bytes = cut_into(shape_.max_bytes_per_pair, kCudaMaxCtas).stride;
  buffers.groups = groups;
  const CudaGrid grid = cuda_grid(shape_.max_bytes_per_pair, comm_->max_ctas());
  return with_any_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{.group = comm_->group<count()>(kOp),
                                 .buffers = buffers,
                                 .x = x.as<const std::byte>(),
                                 .y = y.as<std::byte>(),
                                 .row_bytes = bytes_per_row(x),
                                 .rows = x.dim(0),
                                 .room = y.dim(0),
                                 .align = align,
                                 .send_rows = send_rows.as<const i64>(),
                                 .received_rows = received_rows.as<i64>(),
                                 .begins = begins.as<i64>(),
                                 .report = report_.as<Report>()};
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
