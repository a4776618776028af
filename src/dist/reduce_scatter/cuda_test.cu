#include <vector>

#include "dist/all_gather/all_gather.cuh"
#include "dist/barrier/barrier.cuh"
#include "dist/exchange/cuda_testing.cuh"
#include "dist/reduce_scatter/reduce_scatter.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// Reduce-scatter, then all-gather of the shards, is an all-reduce: checked calls over many shapes, then as a graph that
// is replayed a thousand times.
TEST(CudaReduceScatterAllGather, MakeAnAllReduce) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    constexpr i64 kMaxRows = 1111, kMaxColumns = 1000;
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kMaxRows * kMaxColumns) * 6 + 1024));
    bf16* x = memory.as<bf16>();
    bf16* shard = x + kMaxRows * kMaxColumns;
    bf16* y = shard + kMaxRows * kMaxColumns;
    u32 calls = 0;
    const auto test = [&](i64 columns) -> Status {
      WEFT_ASSIGN(auto scatter,
                  CudaReduceScatter::create(comm, {.max_rows = kMaxRows, .columns = columns, .dtype = DType::kBF16}));
      WEFT_ASSIGN(auto gather, CudaAllGather::create(comm, {.max_bytes_per_rank = kMaxRows * columns * 2}));
      const auto enqueue = [&](i64 rows) -> Status {
        const i64 mine = split_range(rows, comm.size(), comm.rank()).size();
        WEFT_CUDA_TRY(cudaMemsetAsync(y, 0xff, size_t(rows * columns) * 2, stream));
        WEFT_TRY(launch("fill", fill_kernel, {.grid = 32, .block = 256}, stream, x, rows * columns, comm.rank(),
                        counter.call()));
        WEFT_TRY(scatter.run(stream, bf16_matrix(x, rows, columns), bf16_matrix(shard, mine, columns)));
        WEFT_TRY(gather.run(stream, bf16_matrix(shard, mine, columns), bf16_matrix(y, rows, columns)));
        WEFT_TRY(launch("check", check_sum_kernel, {.grid = 32, .block = 256}, stream, y, rows * columns, comm.size(),
                        counter.call(), counter.wrong()));
        return counter.next(stream);
      };
      for (const i64 rows : {i64(0), i64(1), i64(comm.size()), i64(13), i64(512), kMaxRows}) {
        WEFT_TRY(enqueue(rows));
        ++calls;
      }
      WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&] { return enqueue(37); }));
      const int replays = test_calls(1000);
      for (int replay = 0; replay < replays; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
      calls += u32(replays);
      return comm.synchronize(stream);  // before the graph goes
    };
    for (const i64 columns : {i64(1), i64(24), kMaxColumns}) WEFT_TRY(test(columns));
    return counter.verify(comm, stream, calls);
  }));
}

TEST(CudaReduceScatterAllGather, RefuseWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto scatter, CudaReduceScatter::create(comm, {.max_rows = 8, .columns = 8, .dtype = DType::kBF16}));
    WEFT_ASSIGN(auto gather, CudaAllGather::create(comm, {.max_bytes_per_rank = 64}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* data = memory.as<std::byte>();
    return expect_refused({
        {scatter.run(stream, bf16_matrix(data, 9, 8), bf16_matrix(data, 4, 8)), "max_rows = 8"},
        {scatter.run(stream, bf16_matrix(data, 8, 7), bf16_matrix(data, 4, 8)), "x"},
        {scatter.run(stream, bf16_matrix(data, 8, 8), bf16_matrix(data, 5, 8)), "y"},
        {scatter.run(stream, bf16_matrix(data + 2, 8, 8), bf16_matrix(data, 4, 8)), "not a multiple of 16"},
        {gather.run(stream, bf16_matrix(data, 5, 8), bf16_matrix(data, 10, 8)), "max_bytes_per_rank = 64"},
        {gather.run(stream, bf16_matrix(data, 3, 8), bf16_matrix(data, 8, 8)), "shard"},
    });
  }));
}

__global__ void stamp_kernel(u32* word, u32 value, u64 delay_ns) {
  const u64 start = ptx::globaltimer_ns();
  while (ptx::globaltimer_ns() - start < delay_ns) __nanosleep(200);
  *word = value;
}
__global__ void count_older_kernel(const u32* words, int n, u32 value, u32* older) {
  for (int i = 0; i < n; ++i)
    if (words[i] < value) ++*older;
}

// Every rank writes its round into every peer's table by plain stores, late by turns; after the barrier nobody may see
// an older one.
TEST(CudaBarrier, OrdersWhatWasWrittenBefore) {
  WEFT_NEED_GPUS(1);
  const int ranks = test_ranks();
  WEFT_ASSERT_OK(run_gpu_ranks(ranks, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_TRY(prepare_kernel("test kernels", reinterpret_cast<const void*>(stamp_kernel), 0));
    WEFT_TRY(prepare_kernel("test kernels", reinterpret_cast<const void*>(count_older_kernel), 0));
    WEFT_ASSIGN(auto barrier, CudaBarrier::create(comm));
    WEFT_ASSIGN(const auto table, comm.alloc<u32>(ranks, "table"));
    WEFT_ASSIGN(const auto older, comm.alloc<u32>(1, "older"));
    for (u32 round = 1; round <= u32(test_calls(500)); ++round) {
      const u64 delay_ns = int(round) % ranks == comm.rank() ? 30'000 : 0;
      for (int peer = 0; peer < ranks; ++peer)
        WEFT_TRY(launch("stamp", stamp_kernel, {}, stream, comm.at(table, peer) + comm.rank(), round, delay_ns));
      WEFT_TRY(barrier.run(stream));
      WEFT_TRY(launch("count_older", count_older_kernel, {}, stream, comm.at(table, comm.rank()), ranks, round,
                      comm.at(older, comm.rank())));
    }
    WEFT_TRY(comm.synchronize(stream));
    u32 count = 1;
    WEFT_CUDA_TRY(cudaMemcpy(&count, comm.at(older, comm.rank()), sizeof(count), cudaMemcpyDefault));
    return count == 0 ? Status() : error(Code::kAborted, "{} stale words", count);
  }));
}

}  // namespace
}  // namespace weft
