#include "comm/cuda_testing.cuh"
#include "comm/shmem/checks_testing.h"
#include "comm/shmem/launch.cuh"
#include "device/cuda/testing.cuh"

namespace weft {
namespace {
using namespace shmem_cases;

// A rank of the test: its communicator and stream, and device memory.
struct CudaSite {
  CudaCommunicator& comm;
  cudaStream_t stream;
  ShmemState state;
  int threads;
  bool graph = false;  // replays one captured launch instead of launching anew
  CudaGraph captured{};

  int rank() const { return comm.rank(); }
  int size() const { return comm.size(); }
  int blocks() const { return 3; }
  template <class T>
  Result<sym<T>> alloc(i64 n) {
    return comm.alloc<T>(n, "test");
  }
  struct Memory {
    DeviceBuffer buffer;
    size_t words;
  };
  Result<Memory> memory(const std::vector<u32>& values) {
    WEFT_ASSIGN(auto buffer, DeviceBuffer::create(values.size() * 4 + 4));
    Memory memory{std::move(buffer), values.size()};
    WEFT_TRY(write(memory, values));
    return std::move(memory);
  }
  static u32* data(Memory& memory) { return memory.buffer.as<u32>(); }
  Status write(Memory& memory, const std::vector<u32>& values) {
    WEFT_CUDA_TRY(cudaMemcpyAsync(data(memory), values.data(), values.size() * 4, cudaMemcpyDefault, stream));
    return comm.synchronize(stream);
  }
  Result<std::vector<u32>> read(const Memory& memory) {
    std::vector<u32> values(memory.words);
    WEFT_CUDA_TRY(cudaMemcpyAsync(values.data(), memory.buffer.data(), values.size() * 4, cudaMemcpyDefault, stream));
    WEFT_TRY(comm.synchronize(stream));
    return values;
  }
  template <class Kernel>
  Status prepare() {
    captured.reset();
    return prepare_shmem<Kernel>(comm, "test");
  }
  template <class Kernel>
  Status run(const Kernel& kernel) {
    const auto launched = [&] { return launch_shmem(comm, state, stream, blocks(), threads, "test", kernel); };
    if (!graph) {
      WEFT_TRY(launched());
    } else {
      if (captured.get() == nullptr) {
        WEFT_ASSIGN(captured, capture_graph(stream, launched));
        WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(30))));  // nobody waits on a GPU meanwhile
      }
      WEFT_CUDA_TRY(cudaGraphLaunch(captured.get(), stream));
    }
    return comm.synchronize(stream);
  }
};

Status on_gpus(int threads, bool graph, const std::function<Status(CudaSite&)>& work) {
  return run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const ShmemState state, create_shmem(comm));
    CudaSite site{comm, stream, state, threads, graph};
    return work(site);
  });
}

TEST(CudaShmem, EveryFormOfPutGetAndSignal) {
  WEFT_NEED_GPUS(1);
  for (const int threads : {32, 96, 1024})
    WEFT_ASSERT_OK(on_gpus(threads, threads == 96, [](CudaSite& site) { return check_exchange(site, 1028, 20); }));
}

TEST(CudaShmem, BlocksOfOneIndexMeetAtABarrier) {
  WEFT_NEED_GPUS(1);
  for (const int threads : {32, 128})
    WEFT_ASSERT_OK(on_gpus(threads, threads == 128, [](CudaSite& site) { return check_meet(site, 10, 20); }));
}

TEST(CudaShmem, TilesArePushedPulledAndReduced) {
  WEFT_NEED_GPUS(1);
  for (const TileMode mode : {TileMode::kPush, TileMode::kPull, TileMode::kReduce}) {
    WEFT_ASSERT_OK(on_gpus(64, true, [mode](CudaSite& site) -> Status {
      WEFT_TRY(check_tiles(site, mode, {.num_rows = 123, .num_columns = 52, .tile_rows = 8, .tile_columns = 16}, 20));
      WEFT_TRY(check_tiles(site, mode,
                           {.num_rows = 9, .num_columns = 3, .tile_rows = 2, .tile_columns = 4, .tiles_per_channel = 2},
                           20));
      return check_tiles(site, mode, {.num_rows = 1, .num_columns = 4, .tile_rows = 2, .tile_columns = 4}, 5);
    }));
  }
}

TEST(CudaShmem, RefusesGridsThatCannotMeet) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(on_gpus(64, false, [](CudaSite& site) -> Status {
    const auto refused = [&](int blocks, int threads, const char* text) -> Status {
      const Status status = launch_shmem(site.comm, site.state, site.stream, blocks, threads, "test", Meet{});
      if (status.code() == Code::kInvalidArgument && status.message().find(text) == 0) return {};
      return error(Code::kAborted, "expected '{}', found '{}'", text, status.message());
    };
    WEFT_TRY(refused(0, 64, "test: blocks: expected 1 to "));
    WEFT_TRY(refused(site.comm.max_ctas() + 1, 64, "test: blocks: expected 1 to "));
    WEFT_TRY(refused(1, 48, "test: threads: expected a multiple of 32 up to 1024, found 48"));
    return refused(1, 1056, "test: threads: expected a multiple of 32 up to 1024, found 1056");
  }));
}

struct WaitInVain {
  sym<u32> flag;
  template <class S>
  WEFT_HD void operator()(S& s) const {
    if (s.rank() == 0 && !s.wait(flag, 1, 7)) return;
  }
};

// A trap ends the context, so this runs in a process of its own and reports through its exit.
[[noreturn]] void wait_in_vain() {
  const Status outcome = run_gpu_ranks(2,
                                       [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
                                         WEFT_ASSIGN(const ShmemState state, create_shmem(comm));
                                         WEFT_ASSIGN(const auto flag, comm.alloc<u32>(1, "flag"));
                                         WEFT_TRY(prepare_shmem<WaitInVain>(comm, "vain"));
                                         WEFT_TRY(launch_shmem(comm, state, stream, 1, 32, "vain", WaitInVain{flag}));
                                         return comm.synchronize(stream);
                                       },
                                       {.arena_bytes = 8 << 20, .deadline = std::chrono::milliseconds(200)});
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  std::_Exit(outcome.code() == Code::kDeadlineExceeded ? 0 : 1);
}

TEST(CudaShmemDeathTest, AWaitEndsAtTheDeadlineAndIsRecorded) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(wait_in_vain(), testing::ExitedWithCode(0), "rank 0: vain: waited 0\\.[0-9]+ s for epoch 7 of any rank");
}

}  // namespace
}  // namespace weft
