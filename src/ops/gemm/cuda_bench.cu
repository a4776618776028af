#include "ops/gemm/cuda_bench.h"

#include <algorithm>
#include <array>

#include "device/cuda/driver.cuh"
#include "device/cuda/runtime.cuh"
#include "ops/gemm/cublas.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

class GemmBench {
 public:
  GemmBench(cudaStream_t stream, Cublas& cublas, const CublasLt* lt, const CudaGemmBenchOptions& options, int sms,
            const SmallGemmRoom& room)
      : stream_(stream), cublas_(cublas), lt_(lt), options_(options), sms_(sms), room_(room) {}

  // `plan`, `small`: null = cuda_gemm()'s own.
  Result<CudaGemmBenchRow> run(i64 m, i64 n, i64 k, const GemmPlan* plan = nullptr,
                               const SmallGemmPlan* small = nullptr) {
    constexpr int kWeights = 3;  // together larger than L2
    WEFT_ASSIGN(const auto x, random(m * k, 1));
    std::array<DeviceBuffer, kWeights> weights;
    std::array<const void*, kWeights> places;
    for (int i = 0; i < kWeights; ++i) {
      WEFT_ASSIGN(weights[size_t(i)], random(n * k, u32(i) + 2));
      places[size_t(i)] = weights[size_t(i)].data();
    }
    WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(m * n) * 2));
    WEFT_ASSIGN(const auto expected, DeviceBuffer::create(size_t(m * n) * 2));
    const auto view = [&](const void* data, i64 rows, i64 cols) {
      return TensorView::dense(const_cast<void*>(data), options_.dtype, {rows, cols}, DeviceKind::kCuda);
    };
    std::unique_ptr<CublasLt::Gemm> fastest;
    if (lt_) {
      WEFT_ASSIGN(fastest, lt_->fastest(options_.dtype, x.data(), places, expected.data(), int(m), int(n), int(k)));
    }
    const auto ours = [&](int i) {
      CudaGemmArgs args{view(x.data(), m, k), view(places[size_t(i % kWeights)], n, k), view(y.data(), m, n)};
      args.constant_w = true;  // as a model's are
      return plan    ? cuda_gemm_with(stream_, args, *plan)
             : small ? cuda_gemm_small(stream_, args, *small)
                     : cuda_gemm(stream_, args);
    };
    const auto theirs = [&](int i) {
      return cublas_.gemm(x.data(), places[size_t(i % kWeights)], expected.data(), int(m), int(n), int(k),
                          options_.dtype);
    };
    const auto best = [&](int i) { return fastest->run(x.data(), places[size_t(i % kWeights)], expected.data()); };
    WEFT_TRY(ours(0));
    WEFT_TRY(theirs(0));
    WEFT_TRY(compare(y, expected, m * n));
    const double flop = 2.0 * double(m) * double(n) * double(k);
    const int calls = std::clamp(int(2e12 / flop) / kWeights * kWeights, kWeights, 30);
    WEFT_ASSIGN(const auto our_graph, capture(ours, calls));
    WEFT_ASSIGN(const auto their_graph, capture(theirs, calls));
    CudaGraph best_graph;
    if (fastest) {
      WEFT_TRY(best(0));
      WEFT_TRY(compare(y, expected, m * n));
      WEFT_ASSIGN(best_graph, capture(best, calls));
    }
    std::vector<double> us, cublas_us, lt_us, ratio, lt_ratio;
    for (int i = -1; i < options_.repeats; ++i) {
      WEFT_ASSIGN(const double a, time(our_graph, calls));
      WEFT_ASSIGN(const double b, time(their_graph, calls));
      double c = 0;
      if (fastest) {
        WEFT_ASSIGN(c, time(best_graph, calls));
      }
      if (i < 0) continue;  // warm-up
      us.push_back(a), cublas_us.push_back(b), ratio.push_back(a / b);
      lt_us.push_back(c), lt_ratio.push_back(fastest ? a / c : 0);
    }
    for (auto* samples : {&us, &cublas_us, &lt_us, &ratio, &lt_ratio}) std::sort(samples->begin(), samples->end());
    const size_t half = ratio.size() / 2, quarter = ratio.size() / 4, rest = ratio.size() * 3 / 4;
    return CudaGemmBenchRow{m,
                            n,
                            k,
                            plan    ? describe(plan->tile)
                            : small ? describe(*small)
                                    : describe_plan(m, n, k),
                            us[half],
                            cublas_us[half],
                            lt_us[half],
                            ratio[half],
                            ratio[quarter],
                            ratio[rest],
                            lt_ratio[half],
                            lt_ratio[quarter],
                            lt_ratio[rest]};
  }

 private:
  static std::string describe(const GemmTileShape& tile) { return fmt::format("{}x{}", tile.m, tile.n); }
  static std::string describe(const SmallGemmPlan& plan) {
    return fmt::format("{}x{}, K / {}, {} CTAs", plan.x_rows, plan.columns, plan.split, plan.ctas);
  }
  std::string describe_plan(i64 m, i64 n, i64 k) const {
    return small_gemm_is_faster_sm90(m, n, k) ? describe(plan_small_gemm_sm90(m, n, k, room_))
                                              : describe(plan_gemm_sm90(m, n, k, sms_).tile);
  }
  Result<DeviceBuffer> random(i64 elements, u32 seed) {
    WEFT_ASSIGN(auto buffer, DeviceBuffer::create(size_t(elements) * 2));
    WEFT_TRY(fill_random(stream_, options_.dtype, buffer.data(), elements, seed));
    return std::move(buffer);
  }
  Status compare(const DeviceBuffer& y, const DeviceBuffer& expected, i64 elements) {
    WEFT_ASSIGN(const double distance, relative_distance(stream_, options_.dtype, y.data(), expected.data(), elements));
    // Both round fp32 sums: at most an ulp apart, of bf16 2^-8 of a value.
    if (!(distance <= 0x1p-8)) return error(Code::kAborted, "gemm and cuBLAS differ by {}", distance);
    return {};
  }
  template <class Call>
  Result<CudaGraph> capture(Call&& call, int calls) {
    return capture_graph(stream_, [&]() -> Status {
      for (int i = 0; i < calls; ++i) WEFT_TRY(call(i));
      return {};
    });
  }
  Result<double> time(const CudaGraph& graph, int calls) {
    WEFT_ASSIGN(const auto begin, make_event());
    WEFT_ASSIGN(const auto end, make_event());
    WEFT_CUDA_TRY(cudaEventRecord(begin.get(), stream_));
    WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream_));
    WEFT_CUDA_TRY(cudaEventRecord(end.get(), stream_));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    float ms = 0;
    WEFT_CUDA_TRY(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    return double(ms) * 1e3 / calls;
  }

  const cudaStream_t stream_;
  Cublas& cublas_;
  const CublasLt* lt_;
  const CudaGemmBenchOptions& options_;
  const int sms_;
  const SmallGemmRoom room_;
};

}  // namespace

Result<CudaGemmBenchReport> bench_cuda_gemm(const CudaGemmBenchOptions& options) {
  CudaGemmBenchReport report;
  if (cuda_device_count() == 0) return error(Code::kUnavailable, "gemm: no GPU is visible");
  cudaDeviceProp properties;
  WEFT_CUDA_TRY(cudaSetDevice(0));
  WEFT_CUDA_TRY(cudaGetDeviceProperties(&properties, 0));
  report.device = properties.name;
  WEFT_ASSIGN(const auto stream, make_stream());
  WEFT_ASSIGN(const auto cublas, Cublas::open(stream.get()));
  report.cublas = cublas->version();
  const auto lt = CublasLt::open(stream.get());
  WEFT_ASSIGN(const SmallGemmRoom room, cuda_small_gemm_room());
  GemmBench bench(stream.get(), *cublas, lt.ok() ? lt->get() : nullptr, options, properties.multiProcessorCount, room);
  for (const auto& [n, k] : options.n_k) {
    for (const i64 m : options.m) {
      if (options.every_tile) {
        if (m <= kSmallGemmMostRows) {
          for (const int columns : small_gemm_columns(m))
            for (const int split : {1, 2, 4, 8}) {
              const auto plan = plan_small_gemm_sm90_cut(m, n, k, room, columns, split);
              if (!plan || plan->ctas * 2 < properties.multiProcessorCount || plan->turns() > 3) continue;
              WEFT_ASSIGN(auto row, bench.run(m, n, k, nullptr, &*plan));
              report.rows.push_back(std::move(row));
            }
        }
        if (m <= 32) continue;
        for (const GemmTileShape& tile : gemm_tile_shapes()) {
          const GemmPlan plan = plan_gemm_sm90_tile(m, n, k, properties.multiProcessorCount, tile);
          WEFT_ASSIGN(auto row, bench.run(m, n, k, &plan));
          report.rows.push_back(std::move(row));
        }
        continue;
      }
      WEFT_ASSIGN(auto row, bench.run(m, n, k));
      report.rows.push_back(std::move(row));
    }
  }
  return report;
}

}  // namespace weft
