#include "layers/cuda_mlp_bench.h"

#include <algorithm>

#include "comm/nccl.cuh"
#include "layers/cuda_layer_bench.cuh"
#include "layers/cuda_mlp.cuh"
#include "ops/swiglu/swiglu.cuh"

namespace weft {
namespace {

using namespace layer_bench;

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
    WEFT_TRY(fill_weights(stream_, gate_up_, 2 * columns * hidden, 100 + rank, hidden));
    WEFT_TRY(fill_weights(stream_, down_, hidden * columns, 200 + rank, options_.ffn));
    return comm_.synchronize(stream_);
  }

  Result<CudaMlpCheckRow> check(i64 m) {
    return check_calls(
        comm_, stream_, m, [&] { return call(m); },
        [&](const std::vector<bf16>& y) {
          const i64 samples = std::min(m, kSampledRows);
          return distance(comm_, stream_, {.count = samples, .stride = samples > 0 ? m / samples : 1}, x_.as<bf16>(),
                          options_.hidden, gate_up_.as<bf16>(), down_.as<bf16>(), mlp_->columns().size(), mlp_->rows(m),
                          y);
        });
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
      std::vector<NamedCall> calls;
      calls.push_back({"cublas", [=, this] { return unfused(m, false); }});
      if (nccl_ && m % comm_.size() == 0) calls.push_back({"cublas+nccl", [=, this] { return unfused(m, true); }});
      calls.push_back({options_.all_reduce.empty() ? "weft/" + options_.mode : "weft/gemm+" + options_.all_reduce,
                       [=, this] { return call(m).status(); }});
      const double flop = 6.0 * double(m) * double(options_.hidden) * double(columns);
      WEFT_TRY(time_variants(comm_, stream_, m, options_.regimes, flop, options_.repeats, calls, report));
    }
    return {};
  }

 private:
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

constexpr size_t kArenaBytes = size_t(4) << 30;

}  // namespace

Result<CudaMlpReport> check_cuda_mlp(const CudaMlpBenchOptions& options) {
  return run_layer<RankMlp>("mlp", options, kArenaBytes, false);
}
Result<CudaMlpReport> bench_cuda_mlp(const CudaMlpBenchOptions& options) {
  return run_layer<RankMlp>("mlp", options, kArenaBytes, true);
}

}  // namespace weft
