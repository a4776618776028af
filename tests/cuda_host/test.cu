// The host's side of ranks on GPUs: how memory is shared, what is done once, and how a lost rank is noticed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "comm/bootstrap/spawn_testing.h"
#include "comm/cuda_testing.cuh"
#include "device/allocate.h"
#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/all_gather/all_gather.cuh"
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/barrier/barrier.cuh"
#include "dist/expert_parallel/cuda.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "dist/gemm_rs/gemm_rs.cuh"
#include "dist/moe_rs/moe_rs.cuh"
#include "dist/reduce_scatter/reduce_scatter.cuh"
#include "fake_cuda.h"
#include "layers/mlp_layer_testing.h"
#include "layers/moe_layer_testing.h"
#include "ops/gemm/gemm_small.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft {
namespace {

using std::chrono::seconds;

Deadline soon() {
  return Deadline::after(seconds(30));
}

// Every rank writes into all others' memory at one offset and finds what they wrote.
Status exchange_words(CudaCommunicator& comm) {
  WEFT_ASSIGN(const auto words, comm.alloc<u32>(64, "words"));
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (*comm.at(words, peer) != 0) return error(Code::kAborted, "not clear");
  }
  WEFT_TRY(comm.world().barrier(soon()));
  for (int peer = 0; peer < comm.size(); ++peer) comm.at(words, peer)[comm.rank()] = u32(100 * peer + comm.rank() + 1);
  WEFT_TRY(comm.world().barrier(soon()));
  for (int source = 0; source < comm.size(); ++source) {
    const u32 found = comm.at(words, comm.rank())[source];
    if (found != u32(100 * comm.rank() + source + 1))
      return error(Code::kAborted, "word {} of rank {}: {}", source, comm.rank(), found);
  }
  return comm.world().barrier(soon());
}

// Whatever a test has made has ended with it.
class NothingIsLeft : public ::testing::EmptyTestEventListener {
  void OnTestEnd(const ::testing::TestInfo&) override { EXPECT_EQ(fake_cuda::alive(), ""); }
};
[[maybe_unused]] const bool kWatched = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new NothingIsLeft);
  return true;
}();

// What the tests below rely on.
TEST(CudaHost, TheFakeRuntimeEndsTheProcessWhereHandlesOrMemoryAreMisused) {
  const auto stream = make_stream();
  ASSERT_TRUE(stream.ok());
  const auto work = [&] { return cuda_status(cudaStreamWaitEvent(stream->get(), make_event()->get(), 0), "work"); };
  EXPECT_DEATH(
      {
        auto graph = capture_graph(stream->get(), [] { return Status(); });
        (void)cudaGraphLaunch(graph->get(), stream->get());
        graph->reset();
      },
      "a graph is ended before its last launch is done");
  EXPECT_DEATH(
      {
        auto other = make_stream();
        (void)cudaGraphLaunch(capture_graph(other->get(), [] { return Status(); })->get(), other->get());
      },
      "a graph is ended before");
  EXPECT_DEATH(
      {
        const auto worlds = make_thread_worlds(1);
        auto comm = CudaCommunicator::create(*worlds[0], {.arena_bytes = 1 << 20});
        (void)work();
        comm->reset();
      },
      "memory is unmapped before the work of all streams is done");
  EXPECT_DEATH(
      {
        auto other = make_stream();
        (void)cudaStreamWaitEvent(other->get(), make_event()->get(), 0);
      },
      "a stream is ended before its work is done");
  EXPECT_DEATH(
      {
        const auto buffer = DeviceBuffer::create(100);
        (void)cudaFree(buffer->data());
      },
      "no such device memory");
  EXPECT_DEATH((void)(*CudaDriver::get())->mem_release(1), "no such memory handle");
  EXPECT_DEATH(
      {
        const auto often = [] {
          for (int i = 0; i < 1'000'000; ++i) (void)cudaSetDevice(0);
        };
        std::thread other(often);
        often();
        other.join();
      },
      "two threads make contexts");
}

TEST(CudaHost, TheDriverGetsAQueueForEachStream) {
  const char* set = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
  ASSERT_NE(set, nullptr);  // by a static initialiser
  EXPECT_GE(std::atoi(set), 1);
}

TEST(CudaHost, KernelsKeepTheMostSharedMemoryThatAnyoneAskedFor) {
  std::vector<int> allowed;
  fake_cuda::behaviour().shared_allowed = [&](int bytes) { allowed.push_back(bytes); };
  const int a = 0, b = 0;
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  for (const size_t bytes : {60'000, 100'000, 60'000, 100'000}) EXPECT_TRUE(prepare_kernel("a", &a, bytes).ok());
  EXPECT_TRUE(prepare_kernel("b", &b, 70'000).ok());
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_TRUE(prepare_kernel("a", &a, 50'000).ok());
  fake_cuda::behaviour().shared_allowed = {};
  EXPECT_EQ(allowed, (std::vector<int>{60'000, 100'000, 70'000, 50'000}));
}

TEST(CudaHost, OncePerDeviceMeansOnce) {
  OncePerDevice once;
  int calls = 0;
  bool fails = true;
  const auto work = [&]() -> Status {
    ++calls;
    return fails ? error(Code::kIo, "not yet") : Status();
  };
  for (const int device : {0, 1}) {
    ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
    fails = true;
    EXPECT_FALSE(once.run(work).ok());
    fails = false;
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(once.run(work).ok());
    EXPECT_EQ(calls, 2 * (device + 1));
  }
}

// `launches`: threads of a CTA of each launch, and none of it asks for more shared memory than Ada GPUs have.
Status gemm_on(int capability, i64 m, std::vector<unsigned>& launches) {
  fake_cuda::behaviour().capability = capability;
  fake_cuda::behaviour().launched = [&](const cudaLaunchConfig_t& config) {
    launches.push_back(config.blockDim.x);
    if (capability != 90) EXPECT_LE(config.dynamicSmemBytes, 99u * 1024);
  };
  const Status end = [&]() -> Status {
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(1 << 20));
    const auto view = [&](i64 rows, i64 cols) {
      return TensorView::dense(memory.data(), DType::kBF16, {rows, cols}, DeviceKind::kCuda);
    };
    return cuda_gemm(nullptr, {view(m, 64), view(1024, 64), view(m, 1024)});
  }();
  fake_cuda::behaviour().launched = {};
  fake_cuda::behaviour().capability = 90;
  return end;
}

TEST(CudaHost, TheGpusCapabilityDecidesWhichGemmRuns) {
  std::vector<unsigned> launches;
  for (const int capability : {90, 80, 86, 89, 100}) {
    const Status end = gemm_on(capability, 300, launches);
    ASSERT_TRUE(end.ok()) << end.message();
  }
  ASSERT_EQ(launches.size(), 5u);
  EXPECT_EQ(launches[0], 384u);  // the Hopper kernel's two multipliers and the feeder
  for (size_t i = 1; i < launches.size(); ++i) EXPECT_EQ(launches[i], 128u);
  launches.clear();
  ASSERT_TRUE(gemm_on(80, 1, launches).ok());
  EXPECT_EQ(launches, (std::vector<unsigned>{64}));  // 16 rows a tile
  launches.clear();
  EXPECT_TRUE(gemm_on(80, 0, launches).ok());
  const Status old = gemm_on(75, 300, launches);
  EXPECT_EQ(old.code(), Code::kUnimplemented);
  EXPECT_EQ(old.message(), "gemm: GPU of compute capability 7.5, built for 8.0 and above");
  EXPECT_TRUE(launches.empty());
}

TEST(CudaHost, WhatNeedsHopperSaysSoOnOtherGpus) {
  fake_cuda::behaviour().capability = 80;
  const Status end =
      run_gpu_ranks(2,
                    [](CudaCommunicator& comm, cudaStream_t) -> Status {
                      const CudaMoeShape experts{.max_m = 8, .max_rows = 16, .n = 64};
                      const ep::AllToAllShape tokens{.max_num_tokens = 8,
                                                     .num_experts = 4,
                                                     .experts_per_token = 2,
                                                     .rank = comm.rank(),
                                                     .world_size = comm.size(),
                                                     .hidden_dim = 16,
                                                     .hidden_dim_bytes = 32};
                      const Status ends[] = {
                          CudaAgGemm::create(comm, {.max_m = 256, .k = 64}).status(),
                          CudaGemmRs::create(comm, {.max_m = 256, .n = 64, .k = 64}).status(),
                          CudaMoeRs::create(comm, experts).status(),
                          ep::CudaAllToAll::create(comm, tokens).status(),
                          cuda_gemm_with(nullptr, {}, {}),
                          cuda_gemm_small(nullptr, {}, {}),
                          prepare_cuda_grouped_gemm(),
                      };
                      for (const Status& end : ends) {
                        EXPECT_EQ(end.code(), Code::kUnimplemented);
                        EXPECT_NE(end.message().find("GPU of compute capability 8.0, built for 9.0"), std::string::npos)
                            << end.message();
                      }
                      // These need none of its instructions.
                      WEFT_TRY(prepare_cuda_gemm());
                      WEFT_TRY(CudaBarrier::create(comm).status());
                      WEFT_TRY(CudaAllReduce::create(comm, {.max_elements = 4096}).status());
                      return comm.world().barrier(soon());
                    },
                    {.arena_bytes = 4 << 20});
  fake_cuda::behaviour().capability = 90;
  EXPECT_TRUE(end.ok()) << end.message();
}

TEST(CudaHost, ThreadsShareMemoryAgainAndAgain) {
  for (int round = 0; round < 10; ++round) {
    for (const int ranks : {1, 2, 3, 4, 8}) {
      const Status end = run_gpu_ranks(ranks,
                                       [](CudaCommunicator& comm, cudaStream_t) {
                                         EXPECT_EQ(comm.arena().way(), "shared in this process");
                                         return exchange_words(comm);
                                       },
                                       {.arena_bytes = 1 << 20});
      ASSERT_TRUE(end.ok()) << end.message();
    }
  }
}

// Everything that rank threads do at start-up, for the thread sanitizer.
TEST(CudaHost, ThreadsCreateAndLaunchEveryOperator) {
  for (int round = 0; round < 5; ++round) {
    for (const int ranks : {2, 3, 4}) {
      const Status end = run_gpu_ranks(
          ranks,
          [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
            WEFT_ASSIGN(auto reduce, CudaAllReduce::create(comm, {.max_elements = 4096, .dtype = DType::kBF16}));
            WEFT_ASSIGN(auto scatter,
                        CudaReduceScatter::create(comm, {.max_rows = 64, .columns = 64, .dtype = DType::kBF16}));
            WEFT_ASSIGN(auto gather, CudaAllGather::create(comm, {.max_bytes_per_rank = 8192}));
            WEFT_ASSIGN(auto barrier, CudaBarrier::create(comm));
            WEFT_ASSIGN(auto ag, CudaAgGemm::create(comm, {.max_m = 256, .k = 64}));
            WEFT_ASSIGN(auto rs, CudaGemmRs::create(comm, {.max_m = 256, .n = 64, .k = 64}));
            const ep::AllToAllShape shape{.max_num_tokens = 8,
                                          .num_experts = 10,
                                          .experts_per_token = 3,
                                          .rank = comm.rank(),
                                          .world_size = comm.size(),
                                          .hidden_dim = 16,
                                          .hidden_dim_bytes = 32};
            WEFT_ASSIGN(auto experts, ep::CudaAllToAll::create(comm, shape));
            WEFT_ASSIGN(const auto memory, DeviceBuffer::create(1 << 16));
            const TensorView x = TensorView::dense(memory.data(), DType::kBF16, {64, 64}, DeviceKind::kCuda);
            WEFT_ASSIGN(const auto graph, capture_graph(stream, [&] { return reduce.run(stream, x, x); }));
            for (int call = 0; call < 10; ++call) {
              WEFT_TRY(reduce.run(stream, x, x));
              WEFT_TRY(barrier.run(stream));
              WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
              WEFT_TRY(comm.synchronize(stream));
            }
            return exchange_words(comm);
          },
          {.arena_bytes = 16 << 20});
      ASSERT_TRUE(end.ok()) << end.message();
    }
  }
}

// Its memory is the host's.
testing::MlpDevice fake_gpu(const CudaCommunicator& comm, cudaStream_t stream) {
  return {.run = [&comm, stream](const auto& work) -> Status {
            Exec exec = comm.exec(stream);
            WEFT_TRY(work(exec));
            return comm.synchronize(stream);
          },
          .write = [](const TensorView& to, const float* from) -> Status {
            std::memcpy(to.data, from, size_t(to.shape.elements()) * sizeof(float));
            return {};
          },
          .read = [](const TensorView& from, float* to) -> Status {
            std::memcpy(to, from.data, size_t(from.shape.elements()) * sizeof(float));
            return {};
          }};
}

// The layer that CPU ranks run, over a GPU's communicator. Nothing computes: the residual stays as it is, which is as
// far from the reference as what the layers add.
TEST(CudaHost, AnMlpLayerEnqueuesAllOfItsOperators) {
  for (const int ranks : {1, 3})
    for (const auto& [mode, all_reduce] : std::vector<std::pair<LayerMode, std::string>>{
             {LayerMode::kAgRs, ""}, {LayerMode::kAr, ""}, {LayerMode::kAr, "two_shot"}}) {
      const LayerMode how = mode;
      const std::string& name = all_reduce;
      const Status end = run_gpu_ranks(
          ranks,
          [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
            Communicator handle = Communicator::on_gpu(comm);
            for (const i64 tokens : {600, 9, 1})
              WEFT_TRY(two_layers(handle, fake_gpu(comm, stream), DType::kBF16, how, name,
                                  testing::MlpNumbers::random(tokens), 1.001));
            const std::string missing = AgMoe::create(handle, {.max_m = 8, .k = 8}).status().message();
            return missing == "ag_moe: no form for GPUs" ? Status() : error(Code::kAborted, "{}", missing);
          },
          {.arena_bytes = 16 << 20});
      EXPECT_TRUE(end.ok()) << ranks << " ranks: " << end.message();
    }
}

// Every tensor that one operator of the layer hands to the next passes its checks.
TEST(CudaHost, AnExpertLayerEnqueuesAllOfItsOperators) {
  for (const auto& [tp, ep] : {std::pair{1, 1}, {3, 1}, {1, 3}, {2, 2}})
    for (const LayerMode mode : {LayerMode::kAgRs, LayerMode::kAr}) {
      const int groups = ep;
      const Status end = run_gpu_ranks(
          tp * ep,
          [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
            Communicator handle = Communicator::on_gpu(comm);
            for (const i64 tokens : {600, 9, 1}) {
              const auto numbers = testing::MoeNumbers::random(tokens, 3);
              WEFT_TRY(two_expert_layers(handle, fake_gpu(comm, stream), DType::kBF16, mode, groups, numbers, 1.001));
            }
            return {};
          },
          {.arena_bytes = 32 << 20});
      EXPECT_TRUE(end.ok()) << "tp " << tp << ", ep " << ep << ": " << end.message();
    }
}

// Clusters of CTAs that a launch asks for; 1 = none.
int cluster_of(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension) return int(config.attrs[i].val.clusterDim.x);
  return 1;
}

// Three ranks' CTAs may stand on 99 of 132 multiprocessors, waiting for the fourth, whose next kernel must find room on
// any 33: also the GEMM beside a collective, whose choice with a GPU for every rank is clusters.
TEST(CudaHost, RanksThatShareAGpuLaunchNoClusters) {
  std::atomic<int> largest = 0, launches = 0;
  fake_cuda::behaviour().launched = [&](const cudaLaunchConfig_t& config) {
    ++launches;
    for (int seen = largest; seen < cluster_of(config) && !largest.compare_exchange_weak(seen, cluster_of(config));) {
    }
  };
  constexpr i64 kN = 520, kK = 280;
  const auto calls = [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    const CudaFusedOptions split{.variant = "split"};
    WEFT_ASSIGN(auto ag, CudaAgGemm::create(comm, {.max_m = 256, .k = kK}, split));
    WEFT_ASSIGN(auto rs, CudaGemmRs::create(comm, {.max_m = 256, .n = kN, .k = kK}, split));
    WEFT_ASSIGN(auto ar, CudaGemmAr::create(comm, {.max_m = 256, .n = kN, .k = kK}, split));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(kN * kN * 2));
    const auto matrix = [&](i64 rows, i64 columns) {
      return TensorView::dense(memory.data(), DType::kBF16, {rows, columns}, DeviceKind::kCuda);
    };
    for (const i64 m : {5, 64, 128, 200, 256}) {
      const i64 mine = split_range(m, comm.size(), comm.rank()).size();
      WEFT_TRY(ag.run(stream, matrix(mine, kK), m, matrix(kN, kK), matrix(m, kN)));
      WEFT_TRY(rs.run(stream, matrix(m, kK), matrix(kN, kK), matrix(mine, kN)));
      WEFT_TRY(ar.run(stream, matrix(m, kK), matrix(kN, kK), matrix(m, kN)));
    }
    WEFT_TRY(comm.synchronize(stream));
    Communicator handle = Communicator::on_gpu(comm);
    return two_layers(handle, fake_gpu(comm, stream), DType::kBF16, LayerMode::kAr, "two_shot",
                      testing::MlpNumbers::random(256), 1.001);
  };
  const auto run = [&](int ranks) {
    largest = launches = 0;
    const Status end = run_gpu_ranks(ranks, calls, {.arena_bytes = 32 << 20});
    EXPECT_TRUE(end.ok()) << ranks << " ranks: " << end.message();
    EXPECT_GT(launches, 15 * ranks);
  };
  run(2);
  EXPECT_GT(largest, 1);  // a GPU for every rank
  run(4);
  EXPECT_EQ(largest, 1);
  fake_cuda::behaviour().devices = 1;
  run(4);
  EXPECT_EQ(largest, 1);
  fake_cuda::behaviour().devices = 2;
  fake_cuda::behaviour().launched = {};
}

TEST(CudaHost, AGroupOfGpusIsSplit) {
  const Status end =
      run_gpu_ranks(4,
                    [](CudaCommunicator& comm, cudaStream_t) -> Status {
                      Communicator all = Communicator::on_gpu(comm);
                      WEFT_ASSIGN(ParallelPlan plan, ParallelPlan::create(all, {.tp = 2, .ep = 2}));
                      EXPECT_EQ(plan.layer.size(), 4);
                      EXPECT_EQ(plan.layer.rank(), comm.rank());
                      EXPECT_EQ(plan.ep.size(), 2);
                      EXPECT_EQ(plan.ep.rank(), comm.rank() / 2);
                      EXPECT_EQ(plan.ep.world_rank(1), 2 + comm.rank() % 2);
                      EXPECT_EQ(plan.pp.size(), 1);
                      EXPECT_EQ(plan.pp.world_rank(0), comm.rank());
                      // A part of a part, the other way round.
                      WEFT_ASSIGN(Communicator turned, plan.tp.split(0, -comm.rank()));
                      EXPECT_EQ(turned.rank(), 1 - comm.rank() % 2);
                      EXPECT_EQ(turned.cuda().members(), (std::vector{comm.rank() / 2 * 2 + 1, comm.rank() / 2 * 2}));
                      // What is one object here lies at one address of the window, on all ranks.
                      WEFT_ASSIGN(const auto word, turned.cuda().alloc<u32>(1, "word"));
                      EXPECT_EQ(turned.cuda().at(word, 0), comm.at(word, turned.world_rank(0)));
                      return {};
                    },
                    {.arena_bytes = 1 << 20});
  EXPECT_TRUE(end.ok()) << end.message();
}

TEST(CudaHost, GpusThatCannotReachEachOtherAreNamedOnEveryRank) {
  fake_cuda::behaviour().peers = false;
  auto worlds = make_thread_worlds(2);
  Status ends[2];
  std::thread other([&] { ends[1] = CudaCommunicator::create(*worlds[1]).status(); });
  ends[0] = CudaCommunicator::create(*worlds[0]).status();
  other.join();
  fake_cuda::behaviour().peers = true;
  for (const Status& end : ends) {
    EXPECT_EQ(end.code(), Code::kUnimplemented);
    EXPECT_EQ(end.message(),
              "GPU 0000:00:00.0 of rank 0 cannot access GPU 0000:01:00.0 of rank 1 (no NVLink or PCIe P2P)");
  }
}

// ---- processes ----

TEST(CudaHost, DISABLED_RankThatExchanges) {
  const char* exports = std::getenv("FAKE_EXPORTS");
  fake_cuda::behaviour().exports = exports == nullptr || *exports != '0';
  for (int round = 0; round < 3; ++round) {
    const Status end = run_gpu_ranks(test_ranks(),
                                     [](CudaCommunicator& comm, cudaStream_t) {
                                       std::fprintf(stderr, "way: %s\n", comm.arena().way().c_str());
                                       return exchange_words(comm);
                                     },
                                     {.arena_bytes = 1 << 20});
    if (!end.ok()) std::fprintf(stderr, "%s\n", end.message().c_str());
    if (!end.ok()) std::_Exit(1);
  }
  std::exit(7);  // leaves the world
}

void expect_exchange(const char* way) {
  for (const int ranks : {2, 3, 4}) {
    const auto ends = spawn_test_ranks(ranks, "CudaHost.DISABLED_RankThatExchanges", soon());
    ASSERT_TRUE(ends.ok()) << ends.status().message();
    for (const RankEnd& end : *ends) {
      EXPECT_TRUE(end.exited(7)) << end.output;
      EXPECT_NE(end.output.find(way), std::string::npos) << end.output;
    }
  }
}

TEST(CudaHost, ProcessesShareMemoryByFileDescriptors) {
  expect_exchange("way: file descriptors\n");
}

TEST(CudaHost, ProcessesShareMemoryByCudaIpcWhereTheDriverExportsNone) {
  ::setenv("FAKE_EXPORTS", "0", 1);
  expect_exchange("way: cudaIpc (rank 0: mem_export");
  ::unsetenv("FAKE_EXPORTS");
}

TEST(CudaHost, ProcessesShareMemoryByCudaIpcWhereAskedTo) {
  ::setenv("WEFT_TEST_IPC", "1", 1);
  expect_exchange("way: cudaIpc (asked for)\n");
  ::unsetenv("WEFT_TEST_IPC");
}

// Rank 1 dies while the others' kernels wait for it. The fake kernel waits until the host's word ends it.
TEST(CudaHost, DISABLED_RankThatMayBeKilled) {
  const auto start = Clock::now();
  const Status end = run_gpu_ranks(test_ranks(),
                                   [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
                                     (void)comm.group<3>("demo");
                                     WEFT_TRY(exchange_words(comm));
                                     if (comm.rank() == 1) ::raise(SIGKILL);
                                     fake_cuda::behaviour().stream_query = [&comm] {
                                       auto* record = static_cast<volatile FaultRecord*>(fake_cuda::last_pinned());
                                       if (record->abort == 0) return cudaErrorNotReady;
                                       record->rank = u32(comm.rank());
                                       record->wait.peer = 1;
                                       record->wait.epoch = 5;
                                       record->seen = 4;
                                       record->aborted = 1;
                                       record->complete = 1;
                                       return cudaErrorLaunchFailure;
                                     };
                                     return comm.synchronize(stream);
                                   },
                                   {.arena_bytes = 1 << 20});
  std::fprintf(stderr, "%s\n", end.message().c_str());
  std::_Exit(end.code() == Code::kUnavailable && seconds_since(start) < 5 ? 7 : 1);
}

TEST(CudaHost, AKilledRankEndsTheOthersWaits) {
  const auto ends = spawn_test_ranks(3, "CudaHost.DISABLED_RankThatMayBeKilled", soon());
  ASSERT_TRUE(ends.ok()) << ends.status().message();
  EXPECT_TRUE((*ends)[1].killed_by(SIGKILL)) << (*ends)[1].output;
  for (const int rank : {0, 2}) {
    const RankEnd& end = (*ends)[size_t(rank)];
    EXPECT_TRUE(end.exited(7)) << end.output;
    const std::string died = fmt::format("rank {}: rank 1 (pid {}) died", rank, (*ends)[1].pid);
    const std::string waited = fmt::format("; rank {}: demo: waited 0.00 s for epoch 5 of rank 1, saw 4", rank);
    EXPECT_NE(end.output.find(died), std::string::npos) << end.output;
    EXPECT_NE(end.output.find(waited), std::string::npos) << end.output;
  }
}

// The rest run in a process of their own, which is never the same again. Calls work() and exits with 7 where that is ok
// within 10 s.
template <class Work>
[[noreturn]] void exit_after(Work&& work) {
  ::alarm(10);
  const Status end = work();
  std::fprintf(stderr, "%s\n", end.message().c_str());
  std::exit(end.ok() ? 7 : 1);
}

// A kernel that does not wait for the lost rank and does not end: the host goes on without it, and frees nothing that
// it may use.
TEST(CudaHost, AStreamThatNeverEndsHoldsUpNeitherTheNewsNorTheEnd) {
  const auto work = []() -> Status {
    const Status end = run_gpu_ranks(2,
                                     [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
                                       WEFT_ASSIGN(const auto graph, capture_graph(stream, [] { return Status(); }));
                                       WEFT_ASSIGN(const auto memory, DeviceBuffer::create(100));
                                       WEFT_ASSIGN(const auto tensor, gpu::allocate(100));
                                       WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
                                       WEFT_TRY(comm.synchronize(stream));
                                       WEFT_TRY(comm.world().barrier(soon()));
                                       fake_cuda::behaviour().stuck = true;
                                       WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
                                       if (comm.rank() == 1) comm.world().fail(error(Code::kDataLoss, "gave up"));
                                       return comm.synchronize(stream);
                                     },
                                     {.arena_bytes = 1 << 20});
    return end.code() == Code::kDataLoss ? Status() : error(Code::kAborted, "{}", end.message());
  };
  EXPECT_EXIT(exit_after(work), ::testing::ExitedWithCode(7), "");
}

// So does that of a rank that returns without having waited for its stream.
TEST(CudaHost, ARankThatFailsDoesNotWaitForItsStreamForEver) {
  const auto work = []() -> Status {
    const Status end = run_gpu_ranks(1,
                                     [&](CudaCommunicator&, cudaStream_t) {
                                       fake_cuda::behaviour().stuck = true;
                                       return error(Code::kDataLoss, "gave up");
                                     },
                                     {.arena_bytes = 1 << 20});
    return end.code() == Code::kDataLoss ? Status() : error(Code::kAborted, "{}", end.message());
  };
  EXPECT_EXIT(exit_after(work), ::testing::ExitedWithCode(7), "");
}

// A kernel has recorded what it waited for and trapped, but the driver never says that its stream has ended.
TEST(CudaHost, AFaultIsNewsBeforeTheStreamEnds) {
  const auto work = []() -> Status {
    const Status end = run_gpu_ranks(1,
                                     [&](CudaCommunicator& comm, cudaStream_t stream) {
                                       (void)comm.group<1>("demo");
                                       fake_cuda::behaviour().stuck = true;
                                       static_cast<FaultRecord*>(fake_cuda::last_pinned())->complete = 1;
                                       return comm.synchronize(stream);
                                     },
                                     {.arena_bytes = 1 << 20});
    return end.code() == Code::kDeadlineExceeded ? Status() : error(Code::kAborted, "{}", end.message());
  };
  EXPECT_EXIT(exit_after(work), ::testing::ExitedWithCode(7), "");
}

TEST(CudaHost, ATraceIsNotWaitedForForEver) {
  const auto work = []() -> Status {
    const Status end = run_gpu_ranks(2,
                                     [&](CudaCommunicator& comm, cudaStream_t) -> Status {
                                       WEFT_TRY(comm.start_trace());
                                       fake_cuda::behaviour().stuck = true;
                                       comm.world().fail(error(Code::kDataLoss, "gave up"));
                                       return comm.take_trace().status();
                                     },
                                     {.arena_bytes = 1 << 20});
    return end.code() == Code::kDataLoss ? Status() : error(Code::kAborted, "{}", end.message());
  };
  EXPECT_EXIT(exit_after(work), ::testing::ExitedWithCode(7), "");
}

// What others run on the GPU may wait for this rank.
TEST(CudaHost, ACommunicatorIsMadeWhileOthersRun) {
  const auto worlds = make_thread_worlds(1);
  fake_cuda::behaviour().stuck = true;
  const auto comm = CudaCommunicator::create(*worlds[0], {.arena_bytes = 1 << 20});
  fake_cuda::behaviour().stuck = false;
  EXPECT_TRUE(comm.ok());
}

// Freeing memory waits for kernels: whoever learns of the failure by status() alone ends them, too.
TEST(CudaHost, KernelsThatWaitAreToldToEndWhereverTheFailureIsSeen) {
  const auto worlds = make_thread_worlds(1);
  const auto comm = CudaCommunicator::create(*worlds[0], {.arena_bytes = 1 << 20});
  ASSERT_TRUE(comm.ok());
  const auto* record = static_cast<const volatile FaultRecord*>(fake_cuda::last_pinned());
  EXPECT_TRUE((*comm)->status().ok());
  EXPECT_EQ(record->abort, 0u);
  worlds[0]->fail(error(Code::kDataLoss, "gave up"));
  EXPECT_EQ((*comm)->status().code(), Code::kDataLoss);
  EXPECT_EQ(record->abort, 1u);
}

}  // namespace
}  // namespace weft
