#include "dist/all_gather/all_gather.cuh"
#include "dist/all_to_all/all_to_all.cuh"
#include "dist/broadcast/broadcast.cuh"
#include "dist/exchange/cuda_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// Mostly words that do not travel as they are, and their neighbours.
__device__ u32 word_of(u32 call, int rank, i64 i) {
  const u32 hash = (call * 131 + u32(rank) * 17 + u32(i)) * 2654435761u >> 16;
  return hash % 5 < 3 ? ~(hash % 5) : hash % 5 == 3 ? 0 : hash;
}
__global__ void fill_words_kernel(u32* x, i64 n, int rank, const u32* call) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = word_of(*call, rank, i);
}
__global__ void check_words_kernel(const u32* y, i64 n, int source, i64 first, const u32* call, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    if (y[i] != word_of(*call, source, first + i)) atomicAdd(wrong, 1u);
}

// all_gather, all_to_all and broadcast in turn, with sizes that are no multiple of 16 bytes.
// bytes.
TEST(CudaWords, BitsOfAnyMeaningArriveAsTheyAre) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kMost = 200'000;  // words of a rank
    const int ranks = comm.size(), rank = comm.rank(), root = ranks - 1;
    for (const auto kernel :
         {reinterpret_cast<const void*>(fill_words_kernel), reinterpret_cast<const void*>(check_words_kernel)})
      WEFT_TRY(prepare_kernel("test kernels", kernel, 0));
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(2 * kMost * ranks) * 4));
    u32* x = memory.as<u32>();
    u32* y = x + kMost * ranks;
    WEFT_ASSIGN(auto gather, CudaAllGather::create(comm, {.max_bytes_per_rank = kMost * 4}));
    WEFT_ASSIGN(auto exchange, CudaAllToAll::create(comm, {.max_bytes_per_pair = kMost * 4}));
    WEFT_ASSIGN(auto broadcast, CudaBroadcast::create(comm, {.max_bytes = kMost * ranks * 4, .root = root}));
    const auto words = [&](u32* data, i64 n) { return TensorView::dense(data, DType::kI32, {n}, DeviceKind::kCuda); };
    const auto fill = [&](i64 n) {
      return launch("fill", fill_words_kernel, {.grid = 32, .block = 256}, stream, x, n, rank, counter.call());
    };
    const auto check = [&](const u32* from, i64 n, int source, i64 first) {
      return launch("check", check_words_kernel, {.grid = 32, .block = 256}, stream, from, n, source, first,
                    counter.call(), counter.wrong());
    };
    u32 calls = 0;
    const auto enqueue = [&](i64 n) -> Status {
      const i64 all = n * ranks;
      WEFT_TRY(fill(all));
      WEFT_TRY(gather.run(stream, words(x, n), words(y, all)));
      for (int p = 0; p < ranks; ++p) WEFT_TRY(check(y + p * n, n, p, 0));
      WEFT_TRY(exchange.run(stream, words(x, all), words(y, all)));
      for (int p = 0; p < ranks; ++p) WEFT_TRY(check(y + p * n, n, p, rank * n));
      WEFT_TRY(broadcast.run(stream, words(x, all)));
      WEFT_TRY(check(x, all, root, 0));
      ++calls;
      return counter.next(stream);
    };
    for (const i64 n : {i64(1), i64(7), i64(4099), kMost}) WEFT_TRY(enqueue(n));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&] { return enqueue(3001); }));
    const int replays = test_calls(300);
    for (int replay = 0; replay < replays; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    return counter.verify(comm, stream, calls + u32(replays) - 1);
  }));
}

}  // namespace
}  // namespace weft
