#include "layers/cuda_mlp_bench.h"

#include <algorithm>
#include <cmath>

#include "comm/cuda_testing.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "layers/cuda_mlp.cuh"
#include "ops/gemm/cublas.cuh"
#include "ops/swiglu/swiglu.cuh"

namespace weft {
namespace {

constexpr i64 kSampledRows = 16;
constexpr int kThreads = 256;

TensorView matrix(void* data, i64 rows, i64 columns) {
  return TensorView::dense(data, DType::kBF16, {rows, columns}, DeviceKind::kCuda);
}
Deadline deadline() {
  return Deadline::after(std::chrono::seconds(60));
}

__global__ void scale_kernel(bf16* x, i64 n, float factor) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = bf16(float(x[i]) * factor);
}

// The dot product of a bf16 row with a row of either type, by a warp, in fp32.
template <class T>
__device__ float warp_dot(const T* a, const bf16* b, i64 k) {
  float sum = 0;
  for (i64 i = threadIdx.x % 32; i < k; i += 32) sum += float(a[i]) * float(b[i]);
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
  return sum;
}

// hidden [samples, columns] f32 = silu(x gate^T) * (x up^T) of rows 0, stride, 2 stride ... of x [m, k].
__global__ void reference_up_kernel(const bf16* x, i64 stride, i64 k, const bf16* gate_up, i64 columns, i64 samples,
                                    float* hidden) {
  const i64 warps = i64(gridDim.x) * blockDim.x / 32;
  for (i64 i = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; i < samples * columns; i += warps) {
    const bf16* row = x + i / columns * stride * k;
    const float gate = warp_dot(row, gate_up + i % columns * k, k);
    const float up = warp_dot(row, gate_up + (columns + i % columns) * k, k);
    if (threadIdx.x % 32 == 0) hidden[i] = gate / (1 + expf(-gate)) * up;
  }
}

// part [samples, n] f32 = hidden down^T.
__global__ void reference_down_kernel(const float* hidden, i64 columns, const bf16* down, i64 n, i64 samples,
                                      float* part) {
  const i64 warps = i64(gridDim.x) * blockDim.x / 32;
  for (i64 i = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; i < samples * n; i += warps) {
    const float sum = warp_dot(hidden + i / n * columns, down + i % n * columns, columns);
    if (threadIdx.x % 32 == 0) part[i] = sum;
  }
}

class RankMlp {
 public:
  RankMlp(CudaCommunicator& comm, cudaStream_t stream, const CudaMlpBenchOptions& options)
      : comm_(comm), stream_(stream), options_(options) {}

  Status prepare() {
    most_ = *std::max_element(options_.m.begin(), options_.m.end());
    WEFT_ASSIGN(const LayerMode mode, parse_layer_mode(options_.mode));
    sharded_ = mode == LayerMode::kAgRs;
    WEFT_ASSIGN(
        mlp_,
        CudaMlp::create(
            comm_, {.max_m = most_, .hidden = options_.hidden, .ffn = options_.ffn},
            {.mode = mode, .variant = options_.variant, .tuning = options_.tuning, .all_reduce = options_.all_reduce}));
    const i64 hidden = options_.hidden, columns = mlp_->columns().size();
    WEFT_ASSIGN(x_, DeviceBuffer::create(size_t(most_ * hidden) * 2));
    WEFT_ASSIGN(gate_up_, DeviceBuffer::create(size_t(2 * columns * hidden) * 2));
    WEFT_ASSIGN(down_, DeviceBuffer::create(size_t(hidden * columns) * 2));
    const u32 rank = u32(comm_.rank());
    WEFT_TRY(fill_random_bf16(stream_, x_.data(), most_ * hidden, 1));  // the same on every rank
    WEFT_TRY(fill(gate_up_, 2 * columns * hidden, 100 + rank, hidden));
    WEFT_TRY(fill(down_, hidden * columns, 200 + rank, options_.ffn));
    return comm_.synchronize(stream_);
  }

  Result<CudaMlpCheckRow> check(i64 m) {
    CudaMlpCheckRow row{m, 0, true, false};
    std::vector<bf16> first;
    for (int run = 0; run < 5; ++run) {
      WEFT_ASSIGN(const TensorView y, call(m));
      std::vector<bf16> bits(size_t(y.shape.elements()));
      WEFT_TRY(comm_.synchronize(stream_));
      WEFT_CUDA_TRY(cudaMemcpy(bits.data(), y.data, bits.size() * 2, cudaMemcpyDefault));
      if (run == 0) first = bits;
      row.repeats = row.repeats && std::memcmp(bits.data(), first.data(), bits.size() * 2) == 0;
    }
    WEFT_ASSIGN(row.error, distance(m, first));
    row.passed = row.repeats && row.error <= kCudaMlpError;
    // Every rank says what the worst one saw.
    const std::string mine(reinterpret_cast<const char*>(&row), sizeof(row));
    WEFT_ASSIGN(const auto all, comm_.world().all_gather(mine, deadline()));
    for (const std::string& other : all) {
      CudaMlpCheckRow theirs;
      std::memcpy(&theirs, other.data(), sizeof(theirs));
      if (!(theirs.error <= row.error)) row.error = theirs.error;
      row.repeats = row.repeats && theirs.repeats;
      row.passed = row.passed && theirs.passed;
    }
    return row;
  }

  Status time(CudaMlpReport& report) {
    WEFT_ASSIGN(cublas_, Cublas::open(stream_));
    auto nccl = NcclCommunicator::create(comm_.world(), deadline());
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.cublas = cublas_->version();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    if (nccl.ok()) nccl_ = std::move(nccl.value());
    const i64 columns = mlp_->columns().size();
    WEFT_ASSIGN(all_x_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    WEFT_ASSIGN(wide_, DeviceBuffer::create(size_t(most_ * 2 * columns) * 2));
    WEFT_ASSIGN(activated_, DeviceBuffer::create(size_t(most_ * columns) * 2));
    WEFT_ASSIGN(product_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    WEFT_ASSIGN(sum_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    for (const i64 m : options_.m) {
      for (const std::string& regime : options_.regimes) {
        std::vector<TimedCall> calls;
        calls.push_back({"cublas", [=, this] { return unfused(m, false); }});
        if (nccl_ && m % comm_.size() == 0) calls.push_back({"cublas+nccl", [=, this] { return unfused(m, true); }});
        calls.push_back({options_.all_reduce.empty() ? "weft/" + options_.mode : "weft/gemm+" + options_.all_reduce,
                         [=, this] { return call(m).status(); }});
        for (const TimedCall& one : calls) {  // loads what is loaded lazily
          WEFT_TRY(one.call());
          WEFT_TRY(comm_.synchronize(stream_));
          WEFT_TRY(comm_.world().barrier(deadline()));
        }
        const bool burst = regime == "burst";
        const double flop = 6.0 * double(m) * double(options_.hidden) * double(columns);
        WEFT_ASSIGN(const auto times,
                    time_calls(comm_, stream_, calls, burst ? Regime::kBurst : Regime::kSustained,
                               burst ? 20 : std::clamp(int(1.7e13 / flop), 10, 400), options_.repeats));
        for (size_t i = 0; i < times.size(); ++i)
          report.rows.push_back({m, regime, calls[i].name, times[i].us, times[i].us_lower, times[i].us_upper,
                                 times[i].ratio, times[i].ratio_lower, times[i].ratio_upper});
      }
    }
    return {};
  }

 private:
  // Deviation 1 / sqrt(3 k).
  Status fill(const DeviceBuffer& buffer, i64 n, u32 seed, i64 k) {
    WEFT_TRY(fill_random_bf16(stream_, buffer.data(), n, seed));
    return launch("scale", scale_kernel, {.grid = 1024, .block = kThreads}, stream_, buffer.as<bf16>(), n,
                  float(1 / std::sqrt(double(k))));
  }

  Result<TensorView> call(i64 m) {
    const Range rows = mlp_->rows(m);
    const i64 hidden = options_.hidden, columns = mlp_->columns().size();
    return mlp_->run(stream_, matrix(x_.as<bf16>() + rows.begin * hidden, rows.size(), hidden), m,
                     matrix(gate_up_.data(), 2 * columns, hidden), matrix(down_.data(), hidden, columns));
  }

  Status unfused(i64 m, bool communicates) {
    const i64 hidden = options_.hidden, columns = mlp_->columns().size(), share = m / comm_.size();
    const void* x = x_.data();
    if (communicates && sharded_) {
      const Range rows = mlp_->rows(m);
      WEFT_TRY(
          nccl_->all_gather_bf16(x_.as<bf16>() + rows.begin * hidden, all_x_.data(), size_t(share * hidden), stream_));
      x = all_x_.data();
    }
    WEFT_TRY(cublas_->gemm(x, gate_up_.data(), wide_.data(), int(m), int(2 * columns), int(hidden)));
    WEFT_TRY(cuda_swiglu(
        stream_, {.gate_up = matrix(wide_.data(), m, 2 * columns), .y = matrix(activated_.data(), m, columns)}));
    WEFT_TRY(cublas_->gemm(activated_.data(), down_.data(), product_.data(), int(m), int(hidden), int(columns)));
    if (!communicates) return {};
    return sharded_ ? nccl_->reduce_scatter_bf16(product_.data(), sum_.data(), size_t(share * hidden), stream_)
                    : nccl_->all_reduce_bf16(product_.data(), sum_.data(), size_t(m * hidden), stream_);
  }

  // How far this rank's rows are from the fp32 MLP, over the sampled ones; 0 where it has none of them.
  Result<double> distance(i64 m, const std::vector<bf16>& y) {
    const i64 hidden = options_.hidden, columns = mlp_->columns().size();
    const i64 samples = std::min(m, kSampledRows), stride = samples > 0 ? m / samples : 1;
    WEFT_ASSIGN(const auto wide, DeviceBuffer::create(size_t(samples * columns) * 4));
    WEFT_ASSIGN(const auto part, DeviceBuffer::create(size_t(samples * hidden) * 4));
    WEFT_TRY(launch("reference_up", reference_up_kernel, {.grid = 1024, .block = kThreads}, stream_, x_.as<bf16>(),
                    stride, hidden, gate_up_.as<bf16>(), columns, samples, wide.as<float>()));
    WEFT_TRY(launch("reference_down", reference_down_kernel, {.grid = 1024, .block = kThreads}, stream_,
                    wide.as<float>(), columns, down_.as<bf16>(), hidden, samples, part.as<float>()));
    WEFT_TRY(comm_.synchronize(stream_));
    std::string mine(size_t(samples * hidden) * 4, '\0');
    WEFT_CUDA_TRY(cudaMemcpy(mine.data(), part.data(), mine.size(), cudaMemcpyDefault));
    WEFT_ASSIGN(const auto parts, comm_.world().all_gather(mine, deadline()));
    double wrong = 0, size = 0;
    const Range rows = mlp_->rows(m);
    for (i64 s = 0; s < samples; ++s) {
      const i64 row = s * stride;
      if (row < rows.begin || row >= rows.end) continue;
      for (i64 c = 0; c < hidden; ++c) {
        double expected = 0;
        for (const std::string& theirs : parts) {
          float value;
          std::memcpy(&value, theirs.data() + (s * hidden + c) * 4, 4);
          expected += value;
        }
        const double difference = double(float(y[size_t((row - rows.begin) * hidden + c)])) - expected;
        wrong += difference * difference;
        size += expected * expected;
      }
    }
    return size > 0 ? std::sqrt(wrong / size) : 0.0;
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CudaMlpBenchOptions& options_;
  i64 most_ = 0;
  bool sharded_ = true;
  std::optional<CudaMlp> mlp_;
  DeviceBuffer x_, gate_up_, down_;
  // Of the rivals.
  std::unique_ptr<Cublas> cublas_;
  std::unique_ptr<NcclCommunicator> nccl_;
  DeviceBuffer all_x_, wide_, activated_, product_, sum_;
};

Result<CudaMlpReport> run(const CudaMlpBenchOptions& options, bool times) {
  CudaMlpReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  report.ranks = bench_ranks(options.ranks);
  if (options.m.empty()) return error(Code::kInvalidArgument, "mlp: no sizes given");
  std::vector<CudaMlpReport> reports(size_t(report.ranks));  // all alike; each rank fills its own
  const auto one = [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    CudaMlpReport& mine = reports[size_t(comm.rank())];
    RankMlp rank(comm, stream, options);
    WEFT_TRY(rank.prepare());
    for (const i64 m : options.m) {
      WEFT_ASSIGN(const CudaMlpCheckRow row, rank.check(m));
      mine.checks.push_back(row);
      if (times && !row.passed)
        return error(Code::kAborted, "mlp at m = {}: {} from the fp32 reference, limit {}{}", m, row.error,
                     kCudaMlpError, row.repeats ? "" : ", and runs differ");
    }
    return times ? rank.time(mine) : Status();
  };
  WEFT_TRY(run_gpu_ranks(report.ranks, one, {.arena_bytes = size_t(4) << 30}));
  const CudaMlpReport& mine = reports[size_t(std::min(gpu_ranks().rank(), report.ranks - 1))];
  report.cublas = mine.cublas;
  report.nccl = mine.nccl;
  report.checks = mine.checks;
  report.rows = mine.rows;
  return report;
}

}  // namespace

Result<CudaMlpReport> check_cuda_mlp(const CudaMlpBenchOptions& options) {
  return run(options, false);
}
Result<CudaMlpReport> bench_cuda_mlp(const CudaMlpBenchOptions& options) {
  return run(options, true);
}

}  // namespace weft
