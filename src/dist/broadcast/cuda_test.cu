#include "dist/broadcast/broadcast.cuh"
#include "dist/exchange/cuda_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// Every root; sizes of one tile and of many; a graph; ranks late by turns, so that the root meets missing credits.
TEST(CudaBroadcast, EveryRankHasTheRootsBytes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kMost = 1'500'000;
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kMost) * 2));
    bf16* data = memory.as<bf16>();
    u32 calls = 0;
    for (int root = 0; root < comm.size(); ++root) {
      WEFT_ASSIGN(auto op, CudaBroadcast::create(comm, {.max_bytes = kMost * 2, .root = root}));
      const auto enqueue = [&](i64 n) -> Status {
        WEFT_CUDA_TRY(cudaMemsetAsync(data, 0xff, size_t(n) * 2, stream));
        if (comm.rank() == root) WEFT_TRY(counter.fill(stream, data, n, root));
        if (n % 2 == 1 && comm.rank() == int(n) % comm.size()) WEFT_TRY(delay(stream, 50'000));
        WEFT_TRY(op.run(stream, bf16_matrix(data, n, 1)));
        WEFT_TRY(counter.check_copy(stream, data, n, root));
        ++calls;
        return counter.next(stream);
      };
      for (const i64 n : {i64(0), i64(1), i64(7), i64(4099), kMost}) WEFT_TRY(enqueue(n));
      for (i64 n = 1; n < 200; ++n) WEFT_TRY(enqueue(n * 31));
      WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&] { return enqueue(3001); }));
      for (int replay = 0; replay < 1000; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
      calls += 999;
      WEFT_TRY(comm.synchronize(stream));  // before the graph goes
    }
    return counter.verify(comm, stream, calls);
  }));
}

TEST(CudaBroadcast, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaBroadcast::create(comm, {.max_bytes = 64}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* data = memory.as<std::byte>();
    return expect_refused({
        {op.run(stream, bf16_matrix(data, 33, 1)), "max_bytes = 64"},
        {op.run(stream, bf16_matrix(data + 2, 8, 1)), "not a multiple of 16"},
        {op.run(stream, bf16_matrix(data, 2, 8, 16)), "a row stride"},
        {CudaBroadcast::create(comm, {.max_bytes = 64, .root = 2}).status(), "root"},
    });
  }));
}

}  // namespace
}  // namespace weft
