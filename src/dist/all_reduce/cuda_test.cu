#include <cstring>
#include <random>
#include <vector>

#include "dist/all_reduce/all_reduce.cuh"
#include "dist/exchange/cuda_testing.cuh"

namespace weft {
namespace {

using namespace gpu_test;

template <class T>
constexpr DType kDType = std::is_same_v<T, float>  ? DType::kF32
                         : std::is_same_v<T, bf16> ? DType::kBF16
                                                   : DType::kF16;

TensorView on_gpu(void* data, DType dtype, i64 n) {
  return TensorView::dense(data, dtype, {n}, DeviceKind::kCuda);
}

template <class T>
std::vector<T> random_values(i64 n, int rank, u32 seed) {
  std::mt19937 random(seed * 97 + u32(rank));
  std::uniform_real_distribution<float> value(-2, 2);
  std::vector<T> values(static_cast<size_t>(n));
  for (T& x : values) x = T(value(random));
  return values;
}

// The definition: fp32 sums in rank order, rounded once. Every algorithm must give these bits.
template <class T>
std::vector<T> reference(i64 n, int ranks, u32 seed) {
  std::vector<float> sums(static_cast<size_t>(n), 0.0f);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto part = random_values<T>(n, rank, seed);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = rank == 0 ? float(part[i]) : sums[i] + float(part[i]);
  }
  std::vector<T> out(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) out[i] = T(sums[i]);
  return out;
}

template <class T>
Status check_sizes(CudaCommunicator& comm, cudaStream_t stream, const char* algorithm, i64 most) {
  WEFT_ASSIGN(auto op, CudaAllReduce::create(comm, {.max_elements = most, .dtype = kDType<T>}, {.name = algorithm}));
  WEFT_ASSIGN(const auto x, DeviceBuffer::create(size_t(most) * sizeof(T)));
  WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(most) * sizeof(T)));
  u32 seed = 0;
  for (const i64 n : {i64(0), i64(1), i64(7), i64(64), i64(1000), i64(4099), i64(65536), most - 3, most}) {
    if (n > most) continue;
    for (const bool in_place : {false, true}) {
      ++seed;
      const auto mine = random_values<T>(n, comm.rank(), seed);
      const auto wanted = reference<T>(n, comm.size(), seed);
      WEFT_CUDA_TRY(cudaMemcpyAsync(x.data(), mine.data(), mine.size() * sizeof(T), cudaMemcpyDefault, stream));
      WEFT_CUDA_TRY(cudaMemsetAsync(y.data(), 0xff, y.bytes(), stream));
      void* target = in_place ? x.data() : y.data();
      WEFT_TRY(op.run(stream, on_gpu(x.data(), kDType<T>, n), on_gpu(target, kDType<T>, n)));
      // First, because a copy to pageable memory may wait in the driver with a lock that another rank needs.
      WEFT_TRY(comm.synchronize(stream));
      std::vector<T> seen(static_cast<size_t>(n));
      WEFT_CUDA_TRY(cudaMemcpy(seen.data(), target, seen.size() * sizeof(T), cudaMemcpyDefault));
      for (size_t i = 0; i < seen.size(); ++i)
        if (std::memcmp(&seen[i], &wanted[i], sizeof(T)) != 0)
          return error(Code::kAborted, "{} {} n={} in_place={}: element {} is {} instead of {}", algorithm,
                       dtype_name(kDType<T>), n, in_place, i, float(seen[i]), float(wanted[i]));
    }
  }
  return {};
}

// y and the residual are those of all_reduce, then rms_norm, to the bit; calls of both forms follow one another.
template <class T, class S>
Status check_norm(CudaCommunicator& comm, cudaStream_t stream, i64 rows, i64 hidden, i64 pad) {
  const i64 n = rows * hidden, spread = rows * (hidden + pad);
  WEFT_ASSIGN(auto op, CudaAllReduce::create(comm, {.max_elements = n, .dtype = kDType<T>}));
  const auto buffer = [](i64 count, size_t size) { return DeviceBuffer::create(size_t(count) * size); };
  WEFT_ASSIGN(const auto x, buffer(n, sizeof(T)));
  WEFT_ASSIGN(const auto sum, buffer(n, sizeof(T)));
  WEFT_ASSIGN(const auto weight, buffer(hidden, 4));
  DeviceBuffer y[2], residual[2];
  for (DeviceBuffer& one : y) {
    WEFT_ASSIGN(one, buffer(n, sizeof(T)));
  }
  for (DeviceBuffer& one : residual) {
    WEFT_ASSIGN(one, buffer(spread, sizeof(S)));
  }
  const auto matrix = [&](const DeviceBuffer& data, DType dtype, i64 gap) {
    TensorView view = TensorView::dense(data.data(), dtype, {rows, hidden}, DeviceKind::kCuda);
    view.byte_strides[0] = dtype_bytes(dtype, hidden + gap);
    return view;
  };
  const auto start = random_values<S>(spread, 100, 7);  // the same on every rank
  const auto factors = random_values<float>(hidden, 100, 8);
  WEFT_CUDA_TRY(cudaMemcpyAsync(weight.data(), factors.data(), weight.bytes(), cudaMemcpyDefault, stream));
  for (int way = 0; way < 2; ++way) {
    WEFT_CUDA_TRY(
        cudaMemcpyAsync(residual[way].data(), start.data(), residual[way].bytes(), cudaMemcpyDefault, stream));
    WEFT_CUDA_TRY(cudaMemsetAsync(y[way].data(), 0xff, y[way].bytes(), stream));
  }
  for (u32 call = 0; call < 4; ++call) {
    const auto mine = random_values<T>(n, comm.rank(), call + 1);
    WEFT_CUDA_TRY(cudaMemcpyAsync(x.data(), mine.data(), x.bytes(), cudaMemcpyDefault, stream));
    for (int way = 0; way < 2; ++way) {
      CudaRmsNormArgs args{.x = matrix(x, kDType<T>, 0),
                           .residual = matrix(residual[way], kDType<S>, pad),
                           .weight = on_gpu(weight.data(), DType::kF32, hidden),
                           .epsilon = 1e-5f,
                           .y = matrix(y[way], kDType<T>, 0)};
      if (way == 0) {
        WEFT_TRY(op.run_rms_norm(stream, args));
        continue;
      }
      WEFT_TRY(op.run(stream, args.x, matrix(sum, kDType<T>, 0)));
      args.x = matrix(sum, kDType<T>, 0);
      WEFT_TRY(cuda_rms_norm(stream, args));
    }
    WEFT_TRY(comm.synchronize(stream));
    const auto differ = [&](const DeviceBuffer& a, const DeviceBuffer& b) -> Result<bool> {
      std::vector<std::byte> left(a.bytes()), right(b.bytes());
      WEFT_CUDA_TRY(cudaMemcpy(left.data(), a.data(), left.size(), cudaMemcpyDefault));
      WEFT_CUDA_TRY(cudaMemcpy(right.data(), b.data(), right.size(), cudaMemcpyDefault));
      return left != right;
    };
    WEFT_ASSIGN(const bool ys, differ(y[0], y[1]));
    WEFT_ASSIGN(const bool residuals, differ(residual[0], residual[1]));
    if (ys || residuals)
      return error(Code::kAborted, "{} [{}, {}], residual {}: {} differ in call {}", dtype_name(kDType<T>), rows,
                   hidden, dtype_name(kDType<S>), ys ? "y" : "residuals", call);
  }
  return {};
}

TEST(CudaAllReduceNorm, HasTheBitsOfTheTwoOperators) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    for (const i64 rows : {1, 3, 300})
      for (const i64 hidden : {8, 520, 5120, 16384}) {
        WEFT_TRY((check_norm<bf16, bf16>(comm, stream, rows, hidden, 0)));
        WEFT_TRY((check_norm<bf16, float>(comm, stream, rows, hidden, 8)));
      }
    WEFT_TRY((check_norm<f16, float>(comm, stream, 64, 4096, 0)));
    WEFT_TRY((check_norm<f16, f16>(comm, stream, 2, 4100, 0)));     // two kernels: rows of x are not aligned
    WEFT_TRY((check_norm<bf16, bf16>(comm, stream, 2, 20000, 0)));  // too long a row
    return check_norm<float, float>(comm, stream, 5, 1024, 0);
  }));
}

class CudaAllReduceTest : public testing::TestWithParam<const char*> {};

TEST_P(CudaAllReduceTest, HasTheBitsOfTheRankOrderedSum) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_TRY(check_sizes<bf16>(comm, stream, GetParam(), 1'000'003));
    WEFT_TRY(check_sizes<f16>(comm, stream, GetParam(), 70'001));
    return check_sizes<float>(comm, stream, GetParam(), 300'000);
  }));
}

// One rank's checked calls: new data, all-reduce, comparison, all on the stream.
class CheckedCalls {
 public:
  static Result<CheckedCalls> create(CudaCommunicator& comm, i64 most, const char* algorithm) {
    CheckedCalls calls(comm);
    WEFT_ASSIGN(calls.counter_, CallCounter::create());
    WEFT_ASSIGN(auto op,
                CudaAllReduce::create(comm, {.max_elements = most, .dtype = DType::kBF16}, {.name = algorithm}));
    calls.op_ = std::make_unique<CudaAllReduce>(std::move(op));
    WEFT_ASSIGN(calls.x_, DeviceBuffer::create(size_t(most) * 2));
    return std::move(calls);
  }
  Status enqueue(cudaStream_t stream, i64 n) {
    const u32* call = counter_.call();
    const LaunchShape shape{.grid = unsigned(std::clamp<i64>(n / 256, 1, 64)), .block = 256};
    WEFT_TRY(launch("fill", fill_kernel, shape, stream, x_.as<bf16>(), n, comm_->rank(), call));
    const TensorView x = on_gpu(x_.data(), DType::kBF16, n);
    WEFT_TRY(op_->run(stream, x, x));
    WEFT_TRY(launch("check", check_sum_kernel, shape, stream, x_.as<bf16>(), n, comm_->size(), call, counter_.wrong()));
    return counter_.next(stream);
  }
  Status verify(cudaStream_t stream, u32 calls) { return counter_.verify(*comm_, stream, calls); }

 private:
  explicit CheckedCalls(CudaCommunicator& comm) : comm_(&comm) {}
  CudaCommunicator* comm_;
  std::unique_ptr<CudaAllReduce> op_;
  DeviceBuffer x_;
  CallCounter counter_;
};

TEST_P(CudaAllReduceTest, GraphsReplayAThousandTimes) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 40'000, GetParam()));
    WEFT_TRY(calls.enqueue(stream, 3));
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (const i64 n : {8, 40'000, 1001}) WEFT_TRY(calls.enqueue(stream, n));
                  return {};
                }));
    const int replays = test_calls(1000);
    for (int replay = 0; replay < replays; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_TRY(calls.enqueue(stream, 12'345));
    return calls.verify(stream, u32(3 * replays + 2));
  }));
}

TEST(CudaAllReduce, RunsAHundredThousandMixedCalls) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 600'000, "auto"));  // one_shot and two_shot take turns
    // One graph of 20 calls of mixed sizes, so that the host is not what is tested.
    WEFT_ASSIGN(const auto graph, capture_on_all(comm, stream, [&]() -> Status {
                  for (int i = 0; i < 5; ++i)
                    for (const i64 n : {i64(512), i64(40'000), i64(5000), i64(i == 0 ? 600'000 : 100)})
                      WEFT_TRY(calls.enqueue(stream, n));
                  return {};
                }));
    for (int replay = 0; replay < 5000; ++replay) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    return calls.verify(stream, 100'000);
  }));
}

TEST_P(CudaAllReduceTest, LateRanksDoNotMatter) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 50'000, GetParam()));
    std::mt19937 random(u32(comm.rank()) + 1);
    const int count = test_calls(500);
    for (int i = 0; i < count; ++i) {
      if (random() % 3 == 0) WEFT_TRY(delay(stream, random() % 200'000));
      WEFT_TRY(calls.enqueue(stream, 1 + i64(i) * 97));
    }
    return calls.verify(stream, u32(count));
  }));
}

INSTANTIATE_TEST_SUITE_P(Algorithms, CudaAllReduceTest, testing::Values("one_shot", "two_shot", "auto"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaAllReduce, RefusesWrongInputBeforeALaunch) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(auto op, CudaAllReduce::create(comm, {.max_elements = 64, .dtype = DType::kBF16}));
    WEFT_ASSIGN(const auto memory, DeviceBuffer::create(4096));
    std::byte* data = memory.as<std::byte>();
    const TensorView good = on_gpu(data, DType::kBF16, 64);
    TensorView on_cpu = good;
    on_cpu.device = DeviceKind::kCpu;
    const TensorView rows = TensorView::dense(data, DType::kBF16, {2, 8}, DeviceKind::kCuda);
    CudaRmsNormArgs strided{.x = rows, .residual = rows, .weight = rows, .epsilon = 1e-5f, .y = rows};
    strided.y.byte_strides[0] = 32;
    return expect_refused({
        {op.run_rms_norm(stream, strided), "y: a row stride"},
        {op.run(stream, on_gpu(data, DType::kF32, 64), good), "x"},
        {op.run(stream, good, on_gpu(data, DType::kBF16, 63)), "y"},
        {op.run(stream, on_gpu(data, DType::kBF16, 65), on_gpu(data, DType::kBF16, 65)), "max_elements = 64"},
        {op.run(stream, on_gpu(data + 2, DType::kBF16, 64), good), "not a multiple of 16"},
        {op.run(stream, on_cpu, good), "x: not in CUDA memory"},
        {CudaAllReduce::create(comm, {.max_elements = 64, .dtype = DType::kI32}).status(), "i32"},
        {CudaAllReduce::create(comm, {.max_elements = 64}, {.name = "three_shot"}).status(), "three_shot"},
    });
  }));
}

// Rank 1 never calls. A trap ends the context, so this runs in a process of its own.
[[noreturn]] void wait_for_a_hung_peer() {
  const CudaCommunicatorOptions options{.deadline = std::chrono::milliseconds(300)};
  std::atomic<bool> rank_1_learned = false;
  const Status outcome = run_gpu_ranks(
      2,
      [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
        WEFT_ASSIGN(auto calls, CheckedCalls::create(comm, 5000, "one_shot"));
        WEFT_TRY(calls.enqueue(stream, 5000));
        if (comm.rank() == 1) {
          const Status told = comm.world().barrier(Deadline::after(std::chrono::seconds(60)));
          rank_1_learned = told.message().find("rank 0: all_reduce: waited") != std::string::npos;
          return told;
        }
        WEFT_TRY(calls.enqueue(stream, 5000));
        return calls.verify(stream, 2);
      },
      options);
  std::fprintf(stderr, "%s\n", outcome.message().c_str());
  std::_Exit(outcome.code() == Code::kDeadlineExceeded && rank_1_learned ? 0 : 1);
}

TEST(CudaAllReduceDeathTest, AHungPeerIsNamedAndEveryoneLearnsOfIt) {
  WEFT_NEED_RANK_THREADS();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WEFT_NEED_GPUS(1);
  EXPECT_EXIT(wait_for_a_hung_peer(), testing::ExitedWithCode(0),
              "rank 0: rank 0: all_reduce: waited 0.3[0-9] s for epoch 2 of rank 1, saw 0");
}

}  // namespace
}  // namespace weft
