// What the checks and benchmarks of a layer on GPUs share: the fp32 reference over sampled rows, how ranks agree on
// what they saw, and the timing of variants.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/tensor.h"
#include "comm/cuda_testing.cuh"
#include "comm/cuda_timing.cuh"
#include "dist/exchange/fused_element.cuh"
#include "layers/cuda_mlp_bench.h"
#include "ops/gemm/cublas.cuh"

namespace weft::layer_bench {

inline constexpr i64 kSampledRows = 16;
inline constexpr int kThreads = 256;

inline TensorView matrix(void* data, i64 rows, i64 columns, DType dtype = DType::kBF16) {
  return TensorView::dense(data, dtype, {rows, columns}, DeviceKind::kCuda);
}
inline Deadline deadline() {
  return Deadline::after(std::chrono::seconds(60));
}

template <class T>
__global__ void scale_kernel(T* x, i64 n, float factor) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = T(float(x[i]) * factor);
}
// Random elements of deviation 1 / sqrt(3 k).
inline Status fill_weights(cudaStream_t stream, DType dtype, void* weights, i64 n, u32 seed, i64 k) {
  WEFT_TRY(fill_random(stream, dtype, weights, n, seed));
  return with_fused_element(dtype, [&](auto element) {
    using T = decltype(element);
    return launch("scale", scale_kernel<T>, {.grid = 1024, .block = kThreads}, stream, static_cast<T*>(weights), n,
                  float(1 / std::sqrt(double(k))));
  });
}

// Row s * stride of x for s < count; each goes through the experts ids[s * per_token ...] with those weights. Without
// ids there is one expert, of weight 1. This rank has `experts` of them, from `first_expert` on.
struct Samples {
  i64 count, stride;
  i64 per_token = 1;
  const i32* ids = nullptr;
  const float* weights = nullptr;
  i64 first_expert = 0, experts = 1;

  // Of item i = s * per_token + j: among this rank's; -1 = another rank's.
  __device__ i64 expert(i64 i) const {
    const i64 e = ids ? ids[i] - first_expert : 0;
    return e < experts ? e : -1;
  }
};

// The dot product of two rows by a warp, in fp32.
template <class T, class W>
__device__ float warp_dot(const T* a, const W* b, i64 k) {
  float sum = 0;
  for (i64 i = threadIdx.x % 32; i < k; i += 32) sum += float(a[i]) * float(b[i]);
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
  return sum;
}

// hidden [items, columns] f32 = silu(x gate^T) * (x up^T); x [m, k].
template <class T>
__global__ void reference_up_kernel(Samples samples, const T* x, i64 k, const T* gate_up, i64 columns, float* hidden) {
  const i64 warps = i64(gridDim.x) * blockDim.x / 32, all = samples.count * samples.per_token * columns;
  for (i64 i = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; i < all; i += warps) {
    const i64 item = i / columns, expert = samples.expert(item);
    if (expert < 0) continue;
    const T* row = x + item / samples.per_token * samples.stride * k;
    const T* weights = gate_up + expert * 2 * columns * k;
    const float gate = warp_dot(row, weights + i % columns * k, k);
    const float up = warp_dot(row, weights + (columns + i % columns) * k, k);
    if (threadIdx.x % 32 == 0) hidden[i] = gate / (1 + expf(-gate)) * up;
  }
}

// part [samples, n] f32 = the weighted sum of hidden down^T.
template <class T>
__global__ void reference_down_kernel(Samples samples, const float* hidden, i64 columns, const T* down, i64 n,
                                      float* part) {
  const i64 warps = i64(gridDim.x) * blockDim.x / 32;
  for (i64 i = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; i < samples.count * n; i += warps) {
    float total = 0;
    for (i64 j = 0; j < samples.per_token; ++j) {
      const i64 item = i / n * samples.per_token + j, expert = samples.expert(item);
      if (expert < 0) continue;
      const float sum = warp_dot(hidden + item * columns, down + (expert * n + i % n) * columns, columns);
      total += samples.weights ? samples.weights[item] * sum : sum;
    }
    if (threadIdx.x % 32 == 0) part[i] = total;
  }
}

// How far this rank's rows y [rows, n] of the layer are from fp32: of the sampled ones the farthest, a row by sqrt(sum
// (y - r)^2 / sum r^2), so that what one row lacks is not averaged away; 0 where it has none of them. Collective: r is
// the sum over ranks. x [m, n], the same on every rank.
template <class T>
Result<double> distance(CudaCommunicator& comm, cudaStream_t stream, const Samples& samples, const T* x, i64 n,
                        const T* gate_up, const T* down, i64 columns, Range rows, const std::vector<float>& y) {
  WEFT_ASSIGN(const auto hidden, DeviceBuffer::create(size_t(samples.count * samples.per_token * columns) * 4));
  WEFT_ASSIGN(const auto part, DeviceBuffer::create(size_t(samples.count * n) * 4));
  WEFT_TRY(launch("reference_up", reference_up_kernel<T>, {.grid = 1024, .block = kThreads}, stream, samples, x, n,
                  gate_up, columns, hidden.as<float>()));
  WEFT_TRY(launch("reference_down", reference_down_kernel<T>, {.grid = 1024, .block = kThreads}, stream, samples,
                  hidden.as<float>(), columns, down, n, part.as<float>()));
  WEFT_TRY(comm.synchronize(stream));
  std::string mine(size_t(samples.count * n) * 4, '\0');
  WEFT_CUDA_TRY(cudaMemcpy(mine.data(), part.data(), mine.size(), cudaMemcpyDefault));
  WEFT_ASSIGN(const auto parts, comm.world().all_gather(mine, deadline()));
  double farthest = 0;
  for (i64 s = 0; s < samples.count; ++s) {
    const i64 row = s * samples.stride;
    if (row < rows.begin || row >= rows.end) continue;
    double wrong = 0, size = 0;
    for (i64 c = 0; c < n; ++c) {
      double expected = 0;
      for (const std::string& theirs : parts) {
        float value;
        std::memcpy(&value, theirs.data() + (s * n + c) * 4, 4);
        expected += value;
      }
      const double difference = double(y[size_t((row - rows.begin) * n + c)]) - expected;
      wrong += difference * difference;
      size += expected * expected;
    }
    const double distance = size > 0 ? std::sqrt(wrong / size) : 0.0;
    if (std::isnan(distance)) return distance;
    farthest = std::max(farthest, distance);
  }
  return farthest;
}

inline Result<std::vector<float>> floats_of(const TensorView& y) {
  return with_fused_element(y.dtype, [&](auto element) -> Result<std::vector<float>> {
    std::vector<decltype(element)> values(size_t(y.shape.elements()));
    WEFT_CUDA_TRY(cudaMemcpy(values.data(), y.data, values.size() * 2, cudaMemcpyDefault));
    return std::vector<float>(values.begin(), values.end());
  });
}

// Five runs of call(), which gives this rank's y, must have the same bits, and distance(y) be small; to each another
// rank comes late, and the last is a graph's. Every rank's answer is what the worst one saw. Collective.
template <class Call, class Distance>
Result<CudaMlpCheckRow> check_calls(CudaCommunicator& comm, cudaStream_t stream, i64 m, Call&& call,
                                    Distance&& distance) {
  CudaMlpCheckRow row{m, 0, true, false};
  std::vector<float> first;
  TensorView y;
  const auto keep_y = [&]() -> Status {
    WEFT_ASSIGN(y, call());
    return {};
  };
  CudaGraph graph;
  for (int run = 0; run < 5; ++run) {
    if (run == 4) {
      WEFT_ASSIGN(graph, capture_graph(stream, keep_y));
      // To make a graph waits for what runs on the GPU, which may be a peer's kernel that waits for this rank.
      WEFT_CUDA_TRY(cudaGraphUpload(graph.get(), stream));
      WEFT_TRY(comm.synchronize(stream));
      WEFT_TRY(comm.world().barrier(deadline()));
    }
    if (run % comm.size() == comm.rank()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    WEFT_TRY(run < 4 ? keep_y() : cuda_status(cudaGraphLaunch(graph.get(), stream), "cudaGraphLaunch"));
    WEFT_TRY(comm.synchronize(stream));
    WEFT_ASSIGN(auto found, floats_of(y));
    if (run == 0) first = found;
    row.repeats = row.repeats && std::memcmp(found.data(), first.data(), found.size() * 4) == 0;
  }
  WEFT_ASSIGN(row.error, distance(first));
  row.passed = row.repeats && row.error <= kCudaMlpError;
  const std::string mine(reinterpret_cast<const char*>(&row), sizeof(row));
  WEFT_ASSIGN(const auto all, comm.world().all_gather(mine, deadline()));
  for (const std::string& other : all) {
    CudaMlpCheckRow theirs;
    std::memcpy(&theirs, other.data(), sizeof(theirs));
    if (!(theirs.error <= row.error)) row.error = theirs.error;
    row.repeats = row.repeats && theirs.repeats;
    row.passed = row.passed && theirs.passed;
  }
  return row;
}

using NamedCall = std::pair<std::string, std::function<Status()>>;

// Times the calls of one size in every regime. `flop`: of one call on one rank. Collective.
inline Status time_variants(const CudaCommunicator& comm, cudaStream_t stream, i64 m,
                            const std::vector<std::string>& regimes, double flop, int repeats,
                            const std::vector<NamedCall>& calls, CudaMlpReport& report) {
  for (const std::string& regime : regimes) {
    std::vector<TimedCall> timed;
    for (const auto& [name, call] : calls) timed.push_back({name, call});
    for (const TimedCall& one : timed) {  // loads what is loaded lazily
      WEFT_TRY(one.call());
      WEFT_TRY(comm.synchronize(stream));
      WEFT_TRY(comm.world().barrier(deadline()));
    }
    const bool burst = regime == "burst";
    WEFT_ASSIGN(const auto times, time_calls(comm, stream, timed, burst ? Regime::kBurst : Regime::kSustained,
                                             burst ? 20 : std::clamp(int(1.7e13 / flop), 10, 400), repeats));
    for (size_t i = 0; i < times.size(); ++i)
      report.rows.push_back({m, regime, timed[i].name, times[i].us, times[i].us_lower, times[i].us_upper,
                             times[i].ratio, times[i].ratio_lower, times[i].ratio_upper});
  }
  return {};
}

// Runs one Rank(comm, stream, options) per rank: prepare(), check(m) of every size, and time(report) if `times`.
template <class Rank, class Options>
Result<CudaMlpReport> run_layer(const char* what, const Options& options, size_t arena_bytes, bool times) {
  CudaMlpReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  report.ranks = bench_ranks(options.ranks);
  if (options.m.empty()) return error(Code::kInvalidArgument, "{}: no sizes given", what);
  std::vector<CudaMlpReport> reports(size_t(report.ranks));  // all alike; each rank fills its own
  const auto one = [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    CudaMlpReport& mine = reports[size_t(comm.rank())];
    Rank rank(comm, stream, options);
    WEFT_TRY(rank.prepare());
    for (const i64 m : options.m) {
      WEFT_ASSIGN(const CudaMlpCheckRow row, rank.check(m));
      mine.checks.push_back(row);
      if (times && !row.passed)
        return error(Code::kAborted, "{} at m = {}: {} from the fp32 reference, limit {}{}", what, m, row.error,
                     kCudaMlpError, row.repeats ? "" : ", and runs differ");
    }
    return times ? rank.time(mine) : Status();
  };
  WEFT_TRY(run_gpu_ranks(report.ranks, one, {.arena_bytes = arena_bytes}));
  const CudaMlpReport& mine = reports[size_t(std::min(gpu_ranks().rank(), report.ranks - 1))];
  report.cublas = mine.cublas;
  report.nccl = mine.nccl;
  report.checks = mine.checks;
  report.rows = mine.rows;
  return report;
}

}  // namespace weft::layer_bench
