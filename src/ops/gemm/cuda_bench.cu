#include "ops/gemm/cuda_bench.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "base/divide.h"
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

  // A kernel to time: with neither, cuda_gemm()'s own choice.
  struct Choice {
    std::optional<GemmPlan> plan;
    std::optional<SmallGemmPlan> small;
  };
  // A row for each choice, all interleaved with the rivals.
  Result<std::vector<CudaGemmBenchRow>> run(i64 m, i64 n, i64 k, std::span<const Choice> choices) {
    // Weights come from memory, as a model's do: so much of them passes by before the first are read again.
    constexpr i64 kPassing = 256 << 20;
    const int kinds = int(std::clamp<i64>(divide_up(kPassing, n * k * 2), 2, 24));
    WEFT_ASSIGN(const auto x, random(m * k, 1));
    std::vector<DeviceBuffer> weights(static_cast<size_t>(kinds));
    std::vector<const void*> places(weights.size());
    for (int i = 0; i < kinds; ++i) {
      WEFT_ASSIGN(weights[size_t(i)], random(n * k, u32(i) + 2));
      places[size_t(i)] = weights[size_t(i)].data();
    }
    WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(m * n) * 2));
    WEFT_ASSIGN(const auto expected, DeviceBuffer::create(size_t(m * n) * 2));
    const auto view = [&](const void* data, i64 rows, i64 cols) {
      return TensorView::dense(const_cast<void*>(data), options_.dtype, {rows, cols}, DeviceKind::kCuda);
    };
    const double flop = 2.0 * double(m) * double(n) * double(k);
    const int calls = std::max(std::min(int(2e12 / flop), 30) / kinds, 1) * kinds;
    std::vector<CudaGraph> graphs;  // the rivals' come first
    const auto add = [&](auto&& call) -> Status {
      WEFT_ASSIGN(graphs.emplace_back(), capture(call, calls));
      return {};
    };
    const auto theirs = [&](int i) {
      return cublas_.gemm(x.data(), places[size_t(i % kinds)], expected.data(), int(m), int(n), int(k), options_.dtype);
    };
    WEFT_TRY(theirs(0));
    WEFT_TRY(add(theirs));
    std::unique_ptr<CublasLt::Gemm> fastest;
    if (lt_) {
      WEFT_TRY(clear(y));
      WEFT_ASSIGN(fastest, lt_->fastest(options_.dtype, x.data(), places, y.data(), int(m), int(n), int(k)));
      const auto best = [&](int i) { return fastest->run(x.data(), places[size_t(i % kinds)], y.data()); };
      WEFT_TRY(best(0));
      WEFT_TRY(compare(y, expected, m * n));
      WEFT_TRY(add(best));
    }
    const size_t rivals = graphs.size();
    for (const Choice& choice : choices) {
      const auto ours = [&](int i) {
        CudaGemmArgs args{view(x.data(), m, k), view(places[size_t(i % kinds)], n, k), view(y.data(), m, n)};
        args.constant_w = true;  // as a model's are
        return choice.plan    ? cuda_gemm_with(stream_, args, *choice.plan)
               : choice.small ? cuda_gemm_small(stream_, args, *choice.small)
                              : cuda_gemm(stream_, args);
      };
      WEFT_TRY(clear(y));
      WEFT_TRY(ours(0));
      WEFT_TRY(compare(y, expected, m * n));
      WEFT_TRY(add(ours));
    }
    std::vector<std::vector<double>> us(graphs.size());
    for (int i = -1; i < options_.repeats; ++i)
      for (size_t which = 0; which < graphs.size(); ++which) {
        WEFT_ASSIGN(const double taken, time(graphs[which], calls));
        if (i >= 0) us[which].push_back(taken);  // else warm-up
      }
    std::vector<CudaGemmBenchRow> rows;
    for (size_t i = 0; i < choices.size(); ++i) {
      const auto& ours = us[rivals + i];
      const auto over = [&](const std::vector<double>& rival) {
        std::vector<double> ratios;
        for (size_t j = 0; j < ours.size(); ++j) ratios.push_back(ours[j] / rival[j]);
        return quartiles(ratios);
      };
      const auto ratio = over(us[0]), lt_ratio = fastest ? over(us[1]) : std::array<double, 3>{};
      rows.push_back({m, n, k, describe(choices[i], m, n, k), quartiles(ours)[1], quartiles(us[0])[1],
                      fastest ? quartiles(us[1])[1] : 0, ratio[1], ratio[0], ratio[2], lt_ratio[1], lt_ratio[0],
                      lt_ratio[2]});
    }
    return rows;
  }

 private:
  static std::array<double, 3> quartiles(std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    return {samples[samples.size() / 4], samples[samples.size() / 2], samples[samples.size() * 3 / 4]};
  }
  std::string describe(const Choice& choice, i64 m, i64 n, i64 k) const {
    return choice.plan ? describe(choice.plan->tile) : choice.small ? describe(*choice.small) : describe_plan(m, n, k);
  }
  Status clear(const DeviceBuffer& y) {
    return cuda_status(cudaMemsetAsync(y.data(), 0xff, y.bytes(), stream_), "clear");  // NaN
  }
  static std::string describe(const GemmTileShape& tile) {
    return fmt::format("{}x{}{}", tile.m, tile.n, tile.ping_pong ? " ping-pong" : "");
  }
  static std::string describe(const SmallGemmPlan& plan) {
    return fmt::format("{} of {}x{}x{}, K / {}, {} CTAs", plan.row_blocks, plan.x_rows, plan.columns, plan.blocks * 64,
                       plan.split, plan.ctas);
  }
  std::string describe_plan(i64 m, i64 n, i64 k) const {
    return small_gemm_is_faster_sm90(m, n, k, room_, sms_) ? describe(plan_small_gemm_sm90(m, n, k, room_))
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
      std::vector<GemmBench::Choice> choices;
      if (options.every_tile && m <= kSmallGemmMostRows)
        for (const SmallGemmTile& tile : kSmallTiles)
          for (const int split : {1, 2, 4, 8}) {
            const auto plan = plan_small_gemm_sm90_cut(m, n, k, room, tile, split);
            if (plan && plan->ctas * 2 >= properties.multiProcessorCount && plan->turns() <= 3)
              choices.push_back({std::nullopt, *plan});
          }
      if (options.every_tile && m > 32)
        for (const GemmTileShape& tile : gemm_tile_shapes())
          choices.push_back({plan_gemm_sm90_tile(m, n, k, properties.multiProcessorCount, tile), std::nullopt});
      if (!options.every_tile) choices.push_back({});
      WEFT_ASSIGN(const auto rows, bench.run(m, n, k, choices));
      report.rows.insert(report.rows.end(), rows.begin(), rows.end());
    }
  }
  return report;
}

}  // namespace weft
