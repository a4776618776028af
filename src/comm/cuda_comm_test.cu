#include <vector>

#include "comm/cuda_testing.cuh"
#include "device/cuda/testing.cuh"

namespace weft {
namespace {

__global__ void write_kernel(u32* target, u32 value, i64 n) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    target[i] = value + u32(i);
}

TEST(CudaArena, TheSameOffsetIsTheSameObjectOnEveryRank) {
  WEFT_NEED_GPUS(1);
  const int ranks = test_ranks();
  constexpr i64 kWords = 100'003;
  WEFT_ASSERT_OK(run_gpu_ranks(ranks, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto skew, comm.alloc<std::byte>(77, "skew"));
    WEFT_ASSIGN(const auto table, comm.alloc<u32>(ranks * kWords, "table"));
    if (skew.offset % 128 != 0 || table.offset % 128 != 0) return error(Code::kAborted, "misaligned");
    // Every rank writes its row of every rank's table.
    for (int peer = 0; peer < ranks; ++peer)
      WEFT_TRY(launch("write", write_kernel, {.grid = 32, .block = 256}, stream,
                      comm.at(table, peer) + comm.rank() * kWords, u32(comm.rank() * 1000 + peer) << 18, kWords));
    WEFT_TRY(comm.synchronize(stream));
    WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(10))));
    std::vector<u32> seen(size_t(ranks * kWords));
    WEFT_CUDA_TRY(cudaMemcpy(seen.data(), comm.at(table, comm.rank()), seen.size() * 4, cudaMemcpyDefault));
    for (int source = 0; source < ranks; ++source)
      for (i64 i = 0; i < kWords; ++i)
        if (seen[size_t(source * kWords + i)] != (u32(source * 1000 + comm.rank()) << 18) + u32(i))
          return error(Code::kAborted, "row {} word {} is {:#x}", source, i, seen[size_t(source * kWords + i)]);
    return {};
  }));
}

TEST(CudaArena, RefusesWhatDiffersAndWhatDoesNotFit) {
  WEFT_NEED_GPUS(1);
  const CudaCommunicatorOptions small{.arena_bytes = 2 << 20};
  WEFT_ASSERT_OK(run_gpu_ranks(
      2,
      [](CudaCommunicator& comm, cudaStream_t) -> Status {
        const auto refused = comm.alloc<std::byte>(3 << 20, "huge");
        if (refused.ok() || refused.status().code() != Code::kResourceExhausted)
          return error(Code::kAborted, "huge: {}", refused.status().message());
        const auto differs = comm.alloc<u32>(10 + comm.rank(), "shape");
        if (differs.ok() || differs.status().message().find("shape: rank ") != 0)
          return error(Code::kAborted, "shape: {}", differs.status().message());
        return {};
      },
      small));

  auto worlds = make_thread_worlds(2);
  Status outcomes[2];
  std::thread other([&] { outcomes[1] = CudaCommunicator::create(*worlds[1], {.arena_bytes = 4 << 20}).status(); });
  outcomes[0] = CudaCommunicator::create(*worlds[0], {.arena_bytes = 2 << 20}).status();
  other.join();
  EXPECT_EQ(outcomes[0].message(), "arena size: rank 0 asks for 2097152 bytes, rank 1 for 4194304");
  EXPECT_EQ(outcomes[1].code(), Code::kInvalidArgument);
}

// Bulk and typed moves of the machine, with every alignment of the source and odd lengths.
template <int Ranks>
__global__ void machine_moves_kernel(const __grid_constant__ CudaGroup<Ranks> group, sym<EpochWord> word,
                                     FlagTable flags, sym<std::byte> box, const std::byte* source, std::byte* out,
                                     i64 bytes) {
  CudaMachine<Ranks> m(group);
  const u32 epoch = m.epoch(word);
  peers(m, [&](int p) { m.put_bytes(box + m.rank() * 4096, p, source, bytes); });
  m.sync();
  if (m.lane() == 0) peers(m, [&](int p) { m.notify(flags.at(m.rank(), 0), p, epoch); });
  peers_until(m, [&](int p) { return m.await(flags.at(p, 0), p, epoch); });
  for (int p = 0; p < m.ranks(); ++p)
    if (p != m.rank()) m.get_bytes(out + p * 4096, box + p * 4096, bytes);
  finish(m, word, epoch);
}

TEST(CudaMachine, MovesBytesOfAnyAlignmentAndLength) {
  WEFT_NEED_GPUS(1);
  const int ranks = test_ranks();
  WEFT_ASSERT_OK(run_gpu_ranks(ranks, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto word, comm.alloc<EpochWord>(1, "epoch"));
    WEFT_ASSIGN(const auto flags, comm.alloc<u32>(ranks * kFlagsPerLine, "flags"));
    WEFT_ASSIGN(const auto box, comm.alloc<std::byte>(ranks * 4096, "box"));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(size_t(ranks + 2) * 4096));
    std::byte* source = memory.as<std::byte>();
    std::byte* out = source + 2 * 4096;
    for (const i64 bytes : {0, 1, 15, 16, 17, 255, 1024, 4000, 4096}) {
      for (const int shift : {0, 1, 8}) {
        std::vector<u8> mine(size_t(bytes) + 16);
        for (size_t i = 0; i < mine.size(); ++i) mine[i] = u8(i * 7 + size_t(comm.rank()) * 31 + size_t(bytes));
        WEFT_CUDA_TRY(cudaMemcpyAsync(source + shift, mine.data(), size_t(bytes), cudaMemcpyDefault, stream));
        WEFT_CUDA_TRY(cudaMemsetAsync(out, 0xee, size_t(ranks) * 4096, stream));
        WEFT_TRY(with_ranks(ranks, [&](auto count) {
          return launch("machine_moves", machine_moves_kernel<count()>, {.block = 128}, stream,
                        comm.group<count()>("machine_moves"), word, FlagTable{flags, kFlagsPerLine}, box,
                        source + shift, out, bytes);
        }));
        WEFT_TRY(comm.synchronize(stream));
        std::vector<u8> seen(size_t(ranks) * 4096);
        WEFT_CUDA_TRY(cudaMemcpy(seen.data(), out, seen.size(), cudaMemcpyDefault));
        for (int p = 0; p < ranks; ++p)
          for (i64 i = 0; i < 4096; ++i) {
            const u8 wanted = p == comm.rank() || i >= bytes ? 0xee : u8(i * 7 + p * 31 + bytes);
            if (seen[size_t(p * 4096 + i)] != wanted)
              return error(Code::kAborted, "{} bytes shifted by {}: byte {} of rank {}: {} instead of {}", bytes, shift,
                           i, p, seen[size_t(p * 4096 + i)], wanted);
          }
        WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(10))));
      }
    }
    return {};
  }));
}

// Rank 0 tells the others 2 ms after all of them have begun: each of them has a span of that wait, which ends where
// rank 0's kernel does.
template <int Ranks>
__global__ void late_notify_kernel(const __grid_constant__ CudaGroup<Ranks> group, FlagTable flags, u32 epoch) {
  CudaMachine<Ranks> m(group);
  group.fault.begin(TracePhase::kKernel);
  if (m.rank() == 0) {
    peers(m, [&](int p) { m.await(flags.at(p, 0), p, epoch); });
    const u64 start = ptx::globaltimer_ns();
    while (ptx::globaltimer_ns() - start < 2'000'000) {
    }
    peers(m, [&](int p) { m.notify(flags.at(0, 0), p, epoch); });
  } else {
    m.notify(flags.at(m.rank(), 0), 0, epoch);
    m.await(flags.at(0, 0), 0, epoch);
  }
  group.fault.end(TracePhase::kKernel);
}

TEST(CudaTrace, RanksWaitUntilTheLateOneTellsThem) {
  WEFT_NEED_RANK_THREADS();
  WEFT_NEED_GPUS(1);
  const int ranks = test_ranks();
  std::vector<RankTrace> traces{size_t(ranks)};
  WEFT_ASSERT_OK(run_gpu_ranks(ranks, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto flags, comm.alloc<u32>(ranks * kFlagsPerLine, "flags"));
    const auto call = [&](u32 epoch) {
      return with_ranks(ranks, [&](auto count) {
        return launch("late_notify", late_notify_kernel<count()>, {}, stream, comm.group<count()>("late_notify"),
                      FlagTable{flags, kFlagsPerLine}, epoch);
      });
    };
    WEFT_TRY(call(1));  // the first store to a peer takes a tenth of a millisecond
    WEFT_TRY(comm.synchronize(stream));
    EXPECT_EQ(comm.take_trace().status().message(), "take_trace: no trace has been started");
    WEFT_TRY(comm.start_trace());
    WEFT_TRY(call(2));
    WEFT_TRY(comm.synchronize(stream));
    WEFT_ASSIGN(traces[size_t(comm.rank())], comm.take_trace());
    return {};
  }));
  const auto find = [&](int rank, TracePhase phase) -> const TraceSpan* {
    for (const TraceSpan& span : traces[size_t(rank)].spans)
      if (span.phase == phase) return &span;
    return nullptr;
  };
  const TraceSpan* late = find(0, TracePhase::kKernel);
  ASSERT_NE(late, nullptr);
  EXPECT_GE(late->end_ns - late->begin_ns, 2'000'000u);
  EXPECT_EQ(traces[0].clock_offset_ns, 0);
  for (int rank = 1; rank < ranks; ++rank) {
    const TraceSpan* wait = find(rank, TracePhase::kWait);
    ASSERT_NE(wait, nullptr) << rank;
    EXPECT_EQ(wait->arg, 0u);
    EXPECT_EQ(traces[size_t(rank)].ops.at(wait->op), "late_notify");
    // On one clock the ends are a flag's way apart; the clocks are compared to a few microseconds.
    EXPECT_NEAR(double(i64(wait->end_ns) + traces[size_t(rank)].clock_offset_ns), double(late->end_ns), 50e3) << rank;
  }
}

}  // namespace
}  // namespace weft
