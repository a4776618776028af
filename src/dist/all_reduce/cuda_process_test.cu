// Rank processes on GPUs, of which one dies or hangs in the middle of its work.
#include "comm/bootstrap/spawn_testing.h"
#include "comm/cuda_testing.cuh"
#include "device/cuda/testing.cuh"
#include "dist/all_reduce/all_reduce.cuh"

namespace weft {
namespace {

constexpr i64 kElements = 5000;
constexpr int kGoodCalls = 5;

constexpr std::chrono::seconds kLongDeadline{60};
constexpr int kDriver = 30;  // seconds: what the driver may need to end a dead or trapped rank's work; 6 were seen

enum class Fate { kNone, kKilled, kHangs };

// One rank process: some calls that must be right, then rank 1 meets its fate and the others call once more. Prints
// how that ended and exits with the seconds that it took; 100 where it did not end as it should.
[[noreturn]] void run_rank(Fate fate, std::chrono::nanoseconds deadline) {
  auto start = Clock::now();
  bool right = false;
  const Status outcome = run_gpu_ranks(
      test_ranks(),
      [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
        std::fprintf(stderr, "rank %d: memory: %s\n", comm.rank(), comm.arena().way().c_str());
        WEFT_ASSIGN(auto op, CudaAllReduce::create(comm, {.max_elements = kElements, .dtype = DType::kF32}));
        WEFT_ASSIGN(const auto memory, DeviceBuffer::create(kElements * sizeof(float)));
        const TensorView x = TensorView::dense(memory.data(), DType::kF32, {kElements}, DeviceKind::kCuda);
        std::vector<float> values(kElements);
        for (int call = 0; call < kGoodCalls; ++call) {
          for (i64 i = 0; i < kElements; ++i) values[size_t(i)] = float((comm.rank() + 1) * (call + 1)) + float(i);
          WEFT_CUDA_TRY(cudaMemcpyAsync(memory.data(), values.data(), memory.bytes(), cudaMemcpyDefault, stream));
          WEFT_TRY(op.run(stream, x, x));
          WEFT_TRY(comm.synchronize(stream));
          WEFT_CUDA_TRY(cudaMemcpy(values.data(), memory.data(), memory.bytes(), cudaMemcpyDefault));
          const int n = comm.size();
          for (i64 i = 0; i < kElements; ++i)
            if (const float sum = float(n * (n + 1) / 2 * (call + 1)) + float(n) * float(i); values[size_t(i)] != sum)
              return error(Code::kDataLoss, "call {}: element {} is {}, not {}", call, i, values[size_t(i)], sum);
        }
        right = true;
        start = Clock::now();
        if (fate == Fate::kNone) return {};
        if (comm.rank() == 1 && fate == Fate::kKilled) ::raise(SIGKILL);
        if (comm.rank() == 1) return comm.world().barrier(Deadline::after(std::chrono::seconds(60)));
        WEFT_TRY(op.run(stream, x, x));
        return comm.synchronize(stream);
      },
      {.arena_bytes = 8 << 20, .deadline = deadline});
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  const bool expected = right && outcome.ok() == (fate == Fate::kNone);
  if (expected && outcome.ok()) std::exit(int(seconds_since(start)));  // leaves the world
  std::_Exit(expected ? int(seconds_since(start)) : 100);              // the GPU's context is lost
}

TEST(CudaProcesses, DISABLED_RankThatLives) {
  run_rank(Fate::kNone, std::chrono::seconds(10));
}
TEST(CudaProcesses, DISABLED_RankThatMayBeKilled) {
  run_rank(Fate::kKilled, kLongDeadline);
}
TEST(CudaProcesses, DISABLED_RankThatMayHang) {
  run_rank(Fate::kHangs, std::chrono::seconds(1));
}

class CudaProcessesOverWays : public testing::TestWithParam<const char*> {};  // of WEFT_TEST_IPC
INSTANTIATE_TEST_SUITE_P(Ways, CudaProcessesOverWays, testing::Values("0", "1"), [](const auto& info) {
  return std::string(*info.param == '1' ? "cuda_ipc" : "file_descriptors");
});

TEST_P(CudaProcessesOverWays, ShareMemory) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  ::setenv("WEFT_TEST_IPC", GetParam(), 1);
  const auto ends = spawn_test_ranks(test_ranks(), "CudaProcesses.DISABLED_RankThatLives",
                                     Deadline::after(std::chrono::seconds(120)));
  ::unsetenv("WEFT_TEST_IPC");
  WEFT_ASSERT_OK(ends.status());
  const char* way = *GetParam() == '1' ? "memory: cudaIpc (asked for)" : "memory: file descriptors";
  for (const RankEnd& end : *ends) {
    EXPECT_TRUE(end.status >= 0 && WIFEXITED(end.status) && WEXITSTATUS(end.status) < kDriver) << end.output;
    EXPECT_NE(end.output.find(way), std::string::npos) << end.output;
  }
}

// Told by the socket that closes or, where the driver keeps the dead process, by heartbeats that stay away: long before
// the device's deadline. They say what they waited for.
TEST(CudaProcesses, AKilledRankIsNamedByTheOthers) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  const auto ends = spawn_test_ranks(test_ranks(), "CudaProcesses.DISABLED_RankThatMayBeKilled",
                                     Deadline::after(std::chrono::seconds(120)));
  WEFT_ASSERT_OK(ends.status());
  EXPECT_TRUE((*ends)[1].killed_by(SIGKILL)) << (*ends)[1].output;
  for (size_t rank = 0; rank < ends->size(); ++rank) {
    if (rank == 1) continue;
    const RankEnd& end = (*ends)[rank];
    ASSERT_TRUE(end.status >= 0 && WIFEXITED(end.status)) << "rank " << rank << ": " << end.output;
    EXPECT_LT(WEXITSTATUS(end.status), kDriver) << "seconds, rank " << rank << ": " << end.output;
    const std::string who = fmt::format("rank {}: rank 1 (pid {}) ", rank, (*ends)[1].pid);
    EXPECT_TRUE(end.output.find(who + "died") != std::string::npos ||
                end.output.find(who + "stopped responding") != std::string::npos)
        << end.output;
    EXPECT_NE(end.output.find(fmt::format("; rank {}: all_reduce: waited ", rank)), std::string::npos) << end.output;
  }
}

// Rank 0's wait expires and traps; everyone learns why, the rank that hung too.
TEST(CudaProcesses, AHungRankIsNamedAfterTheDeadline) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  const auto ends = spawn_test_ranks(test_ranks(), "CudaProcesses.DISABLED_RankThatMayHang",
                                     Deadline::after(std::chrono::seconds(120)));
  WEFT_ASSERT_OK(ends.status());
  for (size_t rank = 0; rank < ends->size(); ++rank) {
    const RankEnd& end = (*ends)[rank];
    ASSERT_TRUE(end.status >= 0 && WIFEXITED(end.status)) << "rank " << rank << ": " << end.output;
    EXPECT_LT(WEXITSTATUS(end.status), kDriver) << "seconds, rank " << rank << ": " << end.output;
    EXPECT_NE(end.output.find("all_reduce: waited 1."), std::string::npos) << end.output;
  }
}

}  // namespace
}  // namespace weft
