#include "dist/exchange/cuda_testing.cuh"
#include "dist/send_recv/send_recv.cuh"

namespace weft {
namespace {

using namespace gpu_test;

// Every rank sends to the next and receives from the one before, one of them late by turns; sizes change; then a graph.
TEST(CudaSendRecv, MessagesGoAroundTheRing) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    constexpr i64 kMost = 1'500'000;
    const int ranks = comm.size(), next = (comm.rank() + 1) % ranks, before = (comm.rank() + ranks - 1) % ranks;
    if (ranks == 1) return {};
    WEFT_ASSIGN(const auto counter, CallCounter::create());
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(kMost) * 4));
    bf16* x = memory.as<bf16>();
    bf16* y = x + kMost;
    WEFT_ASSIGN(auto op, CudaSendRecv::create(comm, {.max_bytes = kMost * 2}));
    u32 calls = 0;
    const auto enqueue = [&](i64 n) -> Status {
      WEFT_CUDA_TRY(cudaMemsetAsync(y, 0xff, size_t(n) * 2, stream));
      WEFT_TRY(counter.fill(stream, x, n, comm.rank()));
      if (n % 2 == 1 && comm.rank() == int(n) % ranks) WEFT_TRY(delay(stream, 50'000));
      WEFT_TRY(op.send(stream, bf16_matrix(x, n, 1), next));
      WEFT_TRY(op.receive(stream, bf16_matrix(y, n, 1), before));
      WEFT_TRY(counter.check_copy(stream, y, n, before));
      ++calls;
      return counter.next(stream);
    };
    for (const i64 n : {i64(0), i64(1), i64(4099), kMost}) WEFT_TRY(enqueue(n));
    for (i64 n = 1; n < 200; ++n) WEFT_TRY(enqueue(n * 31));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&] { return enqueue(3001); }));
    for (int replay = 0; replay < 1000; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    calls += 999;
    WEFT_TRY(counter.verify(comm, stream, calls));
    WEFT_TRY(op.outcome());

    // A message of another size than y: dropped and told; the next one comes.
    WEFT_CUDA_TRY(cudaMemsetAsync(counter.call(), 0, 8, stream));
    WEFT_TRY(counter.fill(stream, x, 200, comm.rank()));
    WEFT_TRY(op.send(stream, bf16_matrix(x, 100, 1), next));
    WEFT_TRY(op.send(stream, bf16_matrix(x, 200, 1), next));
    WEFT_TRY(op.receive(stream, bf16_matrix(y, 50, 1), before));
    WEFT_TRY(op.receive(stream, bf16_matrix(y, 200, 1), before));
    WEFT_TRY(counter.check_copy(stream, y, 200, before));
    WEFT_TRY(counter.next(stream));
    WEFT_TRY(counter.verify(comm, stream, 1));
    const std::string expected = fmt::format("receive: y: rank {} sent 200 bytes, found 100 bytes", before);
    if (op.outcome().message() != expected) return error(Code::kAborted, "{}", op.outcome().message());
    return {};
  }));
}

TEST(CudaSendRecv, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaSendRecv::create(comm, {.max_bytes = 64}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* data = memory.as<std::byte>();
    const int other = 1 - comm.rank();
    return expect_refused({
        {op.send(stream, bf16_matrix(data, 33, 1), other), "max_bytes = 64"},
        {op.send(stream, bf16_matrix(data, 8, 1), comm.rank()), "peer"},
        {op.send(stream, bf16_matrix(data, 8, 1), 2), "peer"},
        {op.receive(stream, bf16_matrix(data + 2, 8, 1), other), "not a multiple of 16"},
    });
  }));
}

}  // namespace
}  // namespace weft
