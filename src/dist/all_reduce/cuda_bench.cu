#include "dist/all_reduce/cuda_bench.h"

#include <algorithm>
#include <random>

#include "comm/cuda_testing.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "dist/all_reduce/all_reduce.cuh"

namespace weft {
namespace {

// Small integers: their sums over 8 ranks are exact in bf16, whatever the order.
__device__ float value_of(int rank, i64 i) {
  return float(int((u32(rank) * 17 + u32(i) * 3) % 61) - 30);
}
__global__ void fill_kernel(bf16* x, i64 n, int rank) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = bf16(value_of(rank, i));
}
__global__ void count_wrong_kernel(const bf16* y, i64 n, int ranks, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    float sum = 0;
    for (int rank = 0; rank < ranks; ++rank) sum += value_of(rank, i);
    if (!(float(y[i]) == sum)) atomicAdd(wrong, 1u);
  }
}

struct Variant {
  std::string name;
  std::function<Status()> call;
  CudaGraph graph;
};

constexpr i64 kLlBenchMostBytes = 1 << 20, kOneShotBenchMostBytes = 4 << 20;

class RankBench {
 public:
  RankBench(CudaCommunicator& comm, cudaStream_t stream, const CudaAllReduceBenchOptions& options)
      : comm_(comm), stream_(stream), options_(options) {}

  Status run(CudaBenchReport& report) {
    const i64 most = *std::max_element(options_.bytes.begin(), options_.bytes.end());
    WEFT_ASSIGN(x_, DeviceBuffer::create(size_t(most)));
    WEFT_ASSIGN(y_, DeviceBuffer::create(size_t(most)));
    WEFT_ASSIGN(wrong_, DeviceBuffer::create(sizeof(u32)));
    WEFT_ASSIGN(timer_, GraphTimer::create());
    auto nccl = NcclCommunicator::create(comm_.world(), Deadline::after(std::chrono::seconds(30)));
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    std::vector<CudaAllReduce> ops;
    for (const std::string& name : options_.algorithms) {
      const i64 limit = name == "ll" ? kLlBenchMostBytes : name == "one_shot" ? kOneShotBenchMostBytes : most;
      WEFT_ASSIGN(auto op,
                  CudaAllReduce::create(comm_, {.max_elements = std::min(most, limit) / 2, .dtype = DType::kBF16},
                                        {.name = name}));
      ops.push_back(std::move(op));
    }
    for (const i64 bytes : options_.bytes) {
      std::vector<Variant> variants;
      for (size_t i = 0; i < ops.size(); ++i) {
        const std::string& name = options_.algorithms[i];
        if ((name == "ll" && bytes > kLlBenchMostBytes) || (name == "one_shot" && bytes > kOneShotBenchMostBytes))
          continue;
        variants.push_back({"weft/" + name,
                            [this, &op = ops[i], bytes] { return op.run(stream_, view(x_, bytes), view(y_, bytes)); },
                            {}});
      }
      if (nccl.ok())
        variants.push_back({"nccl",
                            [this, &rival = **nccl, bytes] {
                              return rival.all_reduce_bf16(x_.data(), y_.data(), size_t(bytes / 2), stream_);
                            },
                            {}});
      WEFT_TRY(time(bytes, variants, report));
    }
    return {};
  }

 private:
  static TensorView view(const DeviceBuffer& buffer, i64 bytes) {
    return TensorView::dense(buffer.data(), DType::kBF16, {bytes / 2}, DeviceKind::kCuda);
  }
  Status barrier() { return comm_.world().barrier(Deadline::after(std::chrono::seconds(60))); }

  Status check(const Variant& variant, i64 bytes) {
    const LaunchShape shape{.grid = 128, .block = 256};
    WEFT_CUDA_TRY(cudaMemsetAsync(wrong_.data(), 0, sizeof(u32), stream_));
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, size_t(bytes), stream_));
    WEFT_TRY(launch("fill", fill_kernel, shape, stream_, x_.as<bf16>(), bytes / 2, comm_.rank()));
    WEFT_TRY(comm_.synchronize(stream_));
    WEFT_TRY(barrier());
    WEFT_TRY(variant.call());
    WEFT_TRY(launch("count_wrong", count_wrong_kernel, shape, stream_, y_.as<bf16>(), bytes / 2, comm_.size(),
                    wrong_.as<u32>()));
    WEFT_TRY(comm_.synchronize(stream_));
    u32 wrong = 0;
    WEFT_CUDA_TRY(cudaMemcpy(&wrong, wrong_.data(), sizeof(wrong), cudaMemcpyDefault));
    if (wrong > 0) return error(Code::kAborted, "{} of {} bytes: {} wrong elements", variant.name, bytes, wrong);
    return {};
  }

  Status time(i64 bytes, std::vector<Variant>& variants, CudaBenchReport& report) {
    const int length = 20, replays = bytes <= 1 << 20 ? 10 : bytes <= 16 << 20 ? 3 : 1;
    for (Variant& variant : variants) {
      WEFT_TRY(check(variant, bytes));
      WEFT_ASSIGN(variant.graph, capture_graph(stream_, [&]() -> Status {
                    for (int i = 0; i < length; ++i) WEFT_TRY(variant.call());
                    return {};
                  }));
      WEFT_TRY(timer_.time(comm_, stream_, variant.graph, 2).status());  // warm
    }
    std::vector<std::vector<double>> samples(variants.size());
    WEFT_TRY(in_shuffled_rounds(variants.size(), options_.repeats, [&](size_t i) -> Status {
      WEFT_ASSIGN(const double us, timer_.time(comm_, stream_, variants[i].graph, replays));
      samples[i].push_back(us / (replays * length));
      return {};
    }));
    for (size_t i = 0; i < variants.size(); ++i) {
      auto& s = samples[i];
      std::sort(s.begin(), s.end());
      report.rows.push_back({bytes, variants[i].name, s[s.size() / 2], s[s.size() / 4], s[s.size() * 3 / 4]});
    }
    return {};
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CudaAllReduceBenchOptions& options_;
  DeviceBuffer x_, y_, wrong_;
  GraphTimer timer_;
};

}  // namespace

Result<CudaBenchReport> bench_cuda_all_reduce(const CudaAllReduceBenchOptions& options) {
  CudaBenchReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  report.ranks = bench_ranks(options.ranks);
  if (report.ranks < 2)
    return error(Code::kInvalidArgument, "all-reduce takes 2 ranks or more, found {}", report.ranks);
  if (options.bytes.empty()) return error(Code::kInvalidArgument, "no sizes given");
  for (const i64 bytes : options.bytes)
    if (bytes < 16 || bytes % 16 != 0)
      return error(Code::kInvalidArgument, "size {}: expected a multiple of 16 bytes", bytes);
  std::vector<CudaBenchReport> reports(size_t(report.ranks));  // all alike; each rank fills its own
  WEFT_TRY(run_gpu_ranks(report.ranks,
                         [&](CudaCommunicator& comm, cudaStream_t stream) {
                           return RankBench(comm, stream, options).run(reports[size_t(comm.rank())]);
                         },
                         {.arena_bytes = size_t(2) << 30}));
  const auto& mine = reports[size_t(std::min(gpu_ranks().rank(), report.ranks - 1))];
  report.nccl = mine.nccl;
  report.rows = mine.rows;
  return report;
}

}  // namespace weft
