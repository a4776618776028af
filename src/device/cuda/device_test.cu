#include <chrono>
#include <thread>
#include <vector>

#include "device/cuda/fault.cuh"
#include "device/cuda/testing.cuh"

namespace weft {
namespace {

__global__ void increment_kernel(u32* value) {
  *value += 1;
}

TEST(CudaRuntime, FaultsNameTheCallAndTheKernel) {
  WEFT_NEED_GPUS(1);
  const auto huge = DeviceBuffer::create(size_t(1) << 50);
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.status().code(), Code::kResourceExhausted);
  EXPECT_NE(huge.status().message().find("1125899906842624 bytes"), std::string::npos) << huge.status().message();
  (void)cudaGetLastError();

  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  const Status launched = launch("increment", increment_kernel, {.block = 4096}, stream->get(), nullptr);
  ASSERT_FALSE(launched.ok());
  EXPECT_EQ(launched.message().find("increment: "), 0u) << launched.message();
  (void)cudaGetLastError();
}

TEST(CudaRuntime, GraphsReplay) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  auto buffer = DeviceBuffer::create(sizeof(u32));
  WEFT_ASSERT_OK(stream.status());
  WEFT_ASSERT_OK(buffer.status());
  ASSERT_EQ(cudaMemset(buffer->data(), 0, sizeof(u32)), cudaSuccess);
  auto graph = capture_graph(stream->get(), [&]() -> Status {
    for (int i = 0; i < 3; ++i) WEFT_TRY(launch("increment", increment_kernel, {}, stream->get(), buffer->as<u32>()));
    return {};
  });
  WEFT_ASSERT_OK(graph.status());
  for (int replay = 0; replay < 1000; ++replay) ASSERT_EQ(cudaGraphLaunch(graph->get(), stream->get()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream->get()), cudaSuccess);
  u32 value = 0;
  ASSERT_EQ(cudaMemcpy(&value, buffer->data(), sizeof(value), cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(value, 3000u);
}

TEST(CudaRuntime, AFailedCaptureLeavesTheStreamUsable) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  auto buffer = DeviceBuffer::create(sizeof(u32));
  WEFT_ASSERT_OK(stream.status());
  const auto graph = capture_graph(stream->get(), [] { return error(Code::kAborted, "on purpose"); });
  EXPECT_EQ(graph.status().message(), "on purpose");
  WEFT_ASSERT_OK(launch("increment", increment_kernel, {}, stream->get(), buffer->as<u32>()));
  EXPECT_EQ(cudaStreamSynchronize(stream->get()), cudaSuccess);
}

__device__ void wait_for(const FaultSink& sink, const u32* word, u32 epoch) {
  wait_until(sink, {1, 4096, epoch}, [&](u32& seen) {
    seen = ptx::ld_acquire_sys(word);
    return int(seen - epoch) >= 0;
  });
}

// Message passing between two CTAs: data by plain stores, CTA barrier, one release; one acquire, CTA barrier, loads.
__global__ void message_passing_kernel(FaultSink sink, u32* data, u32* flag, u32 rounds, u32* wrong) {
  const u32 n = blockDim.x;
  for (u32 round = 1; round <= rounds; ++round) {
    u32* half = data + (round & 1) * n;
    if (blockIdx.x == 0) {
      // Two halves and an answer per round: the reader has left a half before it is written again.
      if (threadIdx.x == 0 && round > 1) wait_for(sink, flag + 32, round - 1);
      __syncthreads();
      half[threadIdx.x] = round * 1000 + threadIdx.x;
      __syncthreads();
      if (threadIdx.x == 0) ptx::st_release_sys(flag, round);
    } else {
      if (threadIdx.x == 0) wait_for(sink, flag, round);
      __syncthreads();
      if (half[threadIdx.x] != round * 1000 + threadIdx.x) atomicAdd(wrong, 1u);
      __syncthreads();
      if (threadIdx.x == 0) ptx::st_release_sys(flag + 32, round);
    }
  }
}

TEST(CudaPtx, ReleaseAndAcquirePassMessages) {
  WEFT_NEED_GPUS(1);
  constexpr u32 kThreads = 256;
  auto log = FaultLog::create(0, 5'000'000'000);
  auto buffer = DeviceBuffer::create((2 * kThreads + 64 + 1) * sizeof(u32));
  auto stream = make_stream();
  WEFT_ASSERT_OK(log.status());
  ASSERT_EQ(cudaMemset(buffer->data(), 0, buffer->bytes()), cudaSuccess);
  u32* data = buffer->as<u32>();
  u32* wrong = data + 2 * kThreads + 64;
  WEFT_ASSERT_OK(launch("message_passing", message_passing_kernel, {.grid = 2, .block = kThreads, .cooperative = true},
                        stream->get(), log->sink("message_passing", {}), data, data + 2 * kThreads, 10000u, wrong));
  ASSERT_EQ(cudaStreamSynchronize(stream->get()), cudaSuccess) << log->reason().message();
  u32 count = 1;
  ASSERT_EQ(cudaMemcpy(&count, wrong, sizeof(count), cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(count, 0u);
}

__global__ void wait_for_nobody_kernel(FaultSink sink, const u32* word) {
  wait_for(sink, word, 7);
}

// A trap ends the context, so this runs in a process of its own and reports through its exit.
[[noreturn]] void hang_and_report() {
  auto log = FaultLog::create(3, 200'000'000);
  auto word = DeviceBuffer::create(sizeof(u32));
  auto stream = make_stream();
  if (!log.ok() || !word.ok() || cudaMemset(word->data(), 0, sizeof(u32)) != cudaSuccess) std::exit(2);
  (void)log->sink("other", {});
  const auto start = std::chrono::steady_clock::now();
  if (!launch("wait_for_nobody", wait_for_nobody_kernel, {.grid = 8, .block = 64}, stream->get(), log->sink("demo", {}),
              word->as<u32>())
           .ok())
    std::exit(3);
  if (cudaStreamSynchronize(stream->get()) == cudaSuccess) std::exit(4);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (seconds < 0.2) std::exit(5);
  std::fprintf(stderr, "%s\n", log->reason().message().c_str());
  std::_Exit(log->reason().code() == Code::kDeadlineExceeded ? 0 : 6);
}

TEST(CudaFaultDeathTest, AnExpiredWaitIsRecordedAndTraps) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  EXPECT_EXIT(
      hang_and_report(), testing::ExitedWithCode(0),
      "rank 3: demo: waited 0.2[0-9] s for epoch 7 of rank 1, saw 0 .CTA [0-7], lane [0-9]+, arena offset 4096.");
}

// The host ends a wait long before its deadline, by the kernel's own clock: until the host learns of the trap, seconds
// may pass.
[[noreturn]] void abort_and_report() {
  auto log = FaultLog::create(3, 20'000'000'000);
  auto word = DeviceBuffer::create(sizeof(u32));
  auto stream = make_stream();
  if (!log.ok() || !word.ok() || cudaMemset(word->data(), 0, sizeof(u32)) != cudaSuccess) std::exit(2);
  if (!launch("wait_for_nobody", wait_for_nobody_kernel, {.grid = 8, .block = 64}, stream->get(), log->sink("demo", {}),
              word->as<u32>())
           .ok())
    std::exit(3);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  if (cudaStreamQuery(stream->get()) != cudaErrorNotReady || log->faulted()) std::exit(4);
  log->abort();
  if (cudaStreamSynchronize(stream->get()) == cudaSuccess) std::exit(5);
  std::fprintf(stderr, "%s\n", log->reason().message().c_str());
  std::_Exit(log->aborted() ? 0 : 6);
}

TEST(CudaFaultDeathTest, TheHostEndsAWait) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  EXPECT_EXIT(abort_and_report(), testing::ExitedWithCode(0),
              "rank 3: demo: waited 0.[0-9]+ s for epoch 7 of rank 1, saw 0");
}

}  // namespace
}  // namespace weft
