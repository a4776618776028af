#include "dist/all_to_all/all_to_all.cuh"
#include "dist/exchange/cuda_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

TEST(CudaAllToAllRows, EvenRowsGoToTheirRanks) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kMost = 400'000;  // elements of a pair
    const int ranks = comm.size();
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kMost) * size_t(ranks) * 4));
    bf16* x = memory.as<bf16>();
    bf16* y = x + kMost * ranks;
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, {.max_bytes_per_pair = kMost * 2}));
    u32 calls = 0;
    const auto enqueue = [&](i64 rows, i64 columns) -> Status {
      const i64 n = rows * columns;
      WEFT_CUDA_TRY(cudaMemsetAsync(y, 0xff, size_t(n * ranks) * 2, stream));
      WEFT_TRY(counter.fill(stream, x, n * ranks, comm.rank()));
      WEFT_TRY(op.run(stream, bf16_matrix(x, rows * ranks, columns), bf16_matrix(y, rows * ranks, columns)));
      for (int p = 0; p < ranks; ++p) WEFT_TRY(counter.check_copy(stream, y + p * n, n, p, comm.rank() * n));
      ++calls;
      return counter.next(stream);
    };
    for (const i64 columns : {i64(1), i64(40), i64(1000)})
      for (const i64 rows : {i64(0), i64(1), i64(13), i64(400)}) WEFT_TRY(enqueue(rows, columns));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&] { return enqueue(37, 24); }));
    for (int replay = 0; replay < 1000; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    calls += 999;
    return counter.verify(comm, stream, calls);
  }));
}

// Rows that `source` sends to `target` in a call.
WEFT_HD i64 rows_between(u32 call, int source, int target) {
  return (call * 7 + u32(source) * 5 + u32(target) * 3) % 11;
}
__global__ void make_splits_kernel(i64* send_rows, int rank, int ranks, const u32* call) {
  for (int p = 0; p < ranks; ++p) send_rows[p] = rows_between(*call, rank, p);
}
__global__ void check_splits_kernel(const bf16* y, i64 columns, const i64* received_rows, int rank, int ranks,
                                    const u32* call, u32* wrong) {
  i64 at = 0;
  for (int p = 0; p < ranks; ++p) {
    const i64 rows = rows_between(*call, p, rank);
    if (received_rows[p] != rows) atomicAdd(wrong, 1u);
    i64 first = 0;
    for (int q = 0; q < rank; ++q) first += rows_between(*call, p, q);
    for (i64 i = threadIdx.x; i < rows * columns; i += blockDim.x)
      if (!(float(y[at + i]) == value_of(*call, p, first * columns + i))) atomicAdd(wrong, 1u);
    at += rows * columns;
  }
}

// The splits are made on the GPU, anew in each replay; nobody else knows them.
TEST(CudaAllToAllRows, SplitsAreReadOnTheGpu) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kRows = 10, kColumns = 24;  // of a pair at most
    const int ranks = comm.size();
    for (const auto kernel :
         {reinterpret_cast<const void*>(make_splits_kernel), reinterpret_cast<const void*>(check_splits_kernel)})
      WEFT_TRY(prepare_kernel("test kernels", kernel, 0));
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kRows * kColumns * ranks) * 4));
    WEFT_ASSIGN(const auto counts, DeviceBuffer::create(256));
    bf16* x = memory.as<bf16>();
    bf16* y = x + kRows * kColumns * ranks;
    i64* send_rows = counts.as<i64>();
    i64* received_rows = send_rows + 16;
    const auto splits = [&](i64* data) { return TensorView::dense(data, DType::kI64, {ranks}, DeviceKind::kCuda); };
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, {.max_bytes_per_pair = kRows * kColumns * 2}));
    const auto enqueue = [&]() -> Status {
      const i64 n = kRows * ranks;
      WEFT_CUDA_TRY(cudaMemsetAsync(y, 0xff, size_t(n * kColumns) * 2, stream));
      WEFT_TRY(counter.fill(stream, x, n * kColumns, comm.rank()));
      WEFT_TRY(launch("make_splits", make_splits_kernel, {}, stream, send_rows, comm.rank(), ranks, counter.call()));
      WEFT_TRY(op.run_splits(stream, bf16_matrix(x, n, kColumns), splits(send_rows), bf16_matrix(y, n, kColumns),
                             splits(received_rows)));
      WEFT_TRY(launch("check_splits", check_splits_kernel, {.block = 128}, stream, y, kColumns, received_rows,
                      comm.rank(), ranks, counter.call(), counter.wrong()));
      return counter.next(stream);
    };
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, enqueue));
    for (int replay = 0; replay < 1000; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(counter.verify(comm, stream, 1000));
    WEFT_TRY(op.outcome());

    // Too small a y on rank 0, then splits of the last rank that are none: told, nothing else happens, the next call
    // works.
    const bool first = comm.rank() == 0, last = comm.rank() == ranks - 1;
    const std::vector<i64> all(size_t(ranks), kRows);
    WEFT_CUDA_TRY(cudaMemcpyAsync(send_rows, all.data(), all.size() * 8, cudaMemcpyDefault, stream));
    WEFT_CUDA_TRY(cudaMemsetAsync(y, 0xff, 2, stream));
    WEFT_TRY(op.run_splits(stream, bf16_matrix(x, kRows * ranks, kColumns), splits(send_rows),
                           bf16_matrix(y, first ? 3 : kRows * ranks, kColumns), splits(received_rows)));
    WEFT_TRY(comm.synchronize(stream));
    u16 bits = 0;
    i64 came = 0;
    WEFT_CUDA_TRY(cudaMemcpy(&bits, y, 2, cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaMemcpy(&came, received_rows, 8, cudaMemcpyDefault));
    if (came != kRows || (bits == 0xffff) != first) return error(Code::kAborted, "{} rows, bits {:x}", came, bits);
    if (op.outcome().code() != (first ? Code::kResourceExhausted : Code::kOk))
      return error(Code::kAborted, "overflow: {}", op.outcome().message());
    if (last) {
      const i64 none = -1;
      WEFT_CUDA_TRY(cudaMemcpyAsync(send_rows, &none, 8, cudaMemcpyDefault, stream));
    }
    WEFT_TRY(op.run_splits(stream, bf16_matrix(x, kRows * ranks, kColumns), splits(send_rows),
                           bf16_matrix(y, kRows * ranks, kColumns), splits(received_rows)));
    WEFT_TRY(comm.synchronize(stream));
    WEFT_CUDA_TRY(cudaMemcpy(&came, received_rows + ranks - 1, 8, cudaMemcpyDefault));
    if (came != 0) return error(Code::kAborted, "{} rows came of no splits", came);
    if (op.outcome().code() != (last ? Code::kInvalidArgument : first ? Code::kResourceExhausted : Code::kOk))
      return error(Code::kAborted, "bad splits: {}", op.outcome().message());
    WEFT_CUDA_TRY(cudaMemsetAsync(counter.call(), 0, 8, stream));
    WEFT_TRY(enqueue());
    return counter.verify(comm, stream, 1);
  }));
}

__global__ void make_groups_kernel(i64* send_rows, int rank, int ranks, int groups, const u32* call) {
  for (int p = 0; p < ranks; ++p)
    for (int g = 0; g < groups; ++g) send_rows[p * groups + g] = rows_between(*call, rank + g, p) % 5;
}
// y is 0xffff where no rows were to go.
__global__ void check_groups_kernel(const bf16* y, i64 rows_of_y, i64 columns, i64 align, const i64* received_rows,
                                    const i64* begins, int rank, int ranks, int groups, const u32* call, u32* wrong) {
  const auto rows_of = [&](int from, int to, int g) { return rows_between(*call, from + g, to) % 5; };
  const auto untouched = [&](i64 first, i64 last) {
    for (i64 i = first * columns + threadIdx.x; i < last * columns; i += blockDim.x) {
      u16 bits;
      memcpy(&bits, y + i, sizeof(bits));
      if (bits != 0xffff) atomicAdd(wrong, 1u);
    }
  };
  i64 row = 0;
  for (int g = 0; g <= groups; ++g) {
    untouched(row, round_up(row, align));
    row = round_up(row, align);
    if (begins[g] != row) atomicAdd(wrong, 1u);
    for (int p = 0; g < groups && p < ranks; ++p) {
      const i64 rows = rows_of(p, rank, g);
      if (received_rows[g * ranks + p] != rows) atomicAdd(wrong, 1u);
      i64 first = 0;  // in p's x
      for (int q = 0; q <= rank; ++q)
        for (int h = 0; h < (q == rank ? g : groups); ++h) first += rows_of(p, q, h);
      for (i64 i = threadIdx.x; i < rows * columns; i += blockDim.x)
        if (!(float(y[row * columns + i]) == value_of(*call, p, first * columns + i))) atomicAdd(wrong, 1u);
      row += rows;
    }
  }
  untouched(row, rows_of_y);
}

TEST(CudaAllToAllRows, GroupsAreReadOnTheGpuAndAligned) {
  WEFT_NEED_GPUS(1);
  for (const auto& [groups, align] : {std::pair{1, i64(1)}, {6, i64(1)}, {6, i64(16)}, {100, i64(4)}})
    WEFT_ASSERT_OK(run_gpu_ranks(
        test_ranks(), [&, groups = groups, align = align](CudaCommunicator& comm, cudaStream_t stream) -> Status {
          constexpr i64 kMost = 4, kColumns = 24;  // rows of a group at most
          const int ranks = comm.size();
          for (const auto kernel :
               {reinterpret_cast<const void*>(make_groups_kernel), reinterpret_cast<const void*>(check_groups_kernel)})
            WEFT_TRY(prepare_kernel("test kernels", kernel, 0));
          WEFT_ASSIGN(const auto counter, CallCounter::create());
          const i64 n = kMost * groups * ranks, room = n + align * groups + 3;
          WEFT_ASSIGN(const auto x, DeviceBuffer::create(size_t(n * kColumns) * 2));
          WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(room * kColumns) * 2));
          WEFT_ASSIGN(const auto send, DeviceBuffer::create(size_t(ranks * groups) * 8));
          WEFT_ASSIGN(const auto received, DeviceBuffer::create(size_t(ranks * groups) * 8));
          WEFT_ASSIGN(const auto begins, DeviceBuffer::create(size_t(groups + 1) * 8));
          const auto words = [](const DeviceBuffer& data, const Shape& shape) {
            return TensorView::dense(data.data(), DType::kI64, shape, DeviceKind::kCuda);
          };
          WEFT_ASSIGN(auto op, CudaAllToAll::create(
                                   comm, {.max_bytes_per_pair = kMost * groups * kColumns * 2, .groups = groups}));
          const auto enqueue = [&]() -> Status {
            WEFT_CUDA_TRY(cudaMemsetAsync(y.data(), 0xff, y.bytes(), stream));
            WEFT_TRY(counter.fill(stream, x.as<bf16>(), n * kColumns, comm.rank()));
            WEFT_TRY(launch("make_groups", make_groups_kernel, {}, stream, send.as<i64>(), comm.rank(), ranks, groups,
                            counter.call()));
            WEFT_TRY(op.run_splits_2d(stream, bf16_matrix(x.data(), n, kColumns), words(send, {ranks, groups}), align,
                                      bf16_matrix(y.data(), room, kColumns), words(received, {groups, ranks}),
                                      words(begins, {groups + 1})));
            WEFT_TRY(launch("check_groups", check_groups_kernel, {.block = 128}, stream, y.as<bf16>(), room, kColumns,
                            align, received.as<i64>(), begins.as<i64>(), comm.rank(), ranks, groups, counter.call(),
                            counter.wrong()));
            return counter.next(stream);
          };
          WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, enqueue));
          for (int replay = 0; replay < 200; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
          WEFT_TRY(counter.verify(comm, stream, 200));
          return op.outcome();
        }));
}

TEST(CudaAllToAllRows, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, {.max_bytes_per_pair = 64}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* data = memory.as<std::byte>();
    const TensorView rows = bf16_matrix(data, 4, 8);
    const TensorView counts = TensorView::dense(data, DType::kI64, {2}, DeviceKind::kCuda);
    return expect_refused({
        {op.run(stream, bf16_matrix(data, 3, 8), bf16_matrix(data, 3, 8)), "the same rows"},
        {op.run(stream, bf16_matrix(data, 10, 8), bf16_matrix(data, 10, 8)), "at most 64 bytes"},
        {op.run(stream, rows, bf16_matrix(data, 4, 7)), "does not go with"},
        {op.run(stream, bf16_matrix(data + 2, 4, 8), rows), "not a multiple of 16"},
        {op.run_splits(stream, rows, bf16_matrix(data, 2, 1), rows, counts), "send_rows"},
        {op.run_splits(stream, rows, counts, rows, bf16_matrix(data, 2, 1)), "received_rows"},
    });
  }));
}

}  // namespace
}  // namespace weft
