#include "layers/cuda_mlp_bench.h"

#include <algorithm>

#include "comm/nccl.cuh"
#include "layers/cuda_layer_bench.cuh"
#include "layers/mlp_layer.h"
#include "ops/swiglu/swiglu.cuh"

namespace weft {
namespace {

using namespace layer_bench;

class RankMlp {
 public:
  RankMlp(CudaCommunicator& comm, cudaStream_t stream, const CudaMlpBenchOptions& options)
      : comm_(comm), handle_(Communicator::on_gpu(comm)), stream_(stream), options_(options) {}

  Status prepare() {
    const i64 hidden = options_.hidden, ffn = options_.ffn;
    if (hidden < 8 || hidden % 8 != 0 || ffn < 8 * comm_.size() || ffn % 8 != 0)
      return error(Code::kInvalidArgument, "mlp: hidden {}, ffn {}: expected multiples of 8, 8 columns for every rank",
                   hidden, ffn);
    most_ = *std::max_element(options_.m.begin(), options_.m.end());
    WEFT_ASSIGN(const LayerMode mode, parse_layer_mode(options_.mode));
    if (mode == LayerMode::kAuto) return error(Code::kInvalidArgument, "mlp: mode: expected ar or ag_rs");
    sharded_ = mode == LayerMode::kAgRs;
    const Range eights = split_range(ffn / 8, comm_.size(), comm_.rank());
    columns_ = eights.size() * 8;
    const i64 most_columns = split_range(ffn / 8, comm_.size(), 0).size() * 8;
    TensorParallelShape shape{.max_tokens = most_,
                              .max_logits = 0,
                              .hidden = hidden,
                              .vocab = 0,
                              .column_formats = {},
                              .column_n = 2 * most_columns,
                              .row_k = most_columns};
    shape.column_formats[size_t(ActivationFormat::kBF16)] = true;
    WEFT_ASSIGN(tp_, TensorParallel::create(
                         handle_, shape, mode,
                         {.variant = options_.variant, .tuning = options_.tuning, .all_reduce = options_.all_reduce}));
    WEFT_ASSIGN(workspace_, Workspace::create({.max_tokens = most_,
                                               .max_logits = 0,
                                               .hidden = hidden,
                                               .head_dim = 0,
                                               .qkv = 0,
                                               .attention = 0,
                                               .ffn = columns_,
                                               .vocab = 0,
                                               .attention_format = ActivationFormat::kBF16,
                                               .ffn_format = ActivationFormat::kBF16,
                                               .head_format = ActivationFormat::kBF16},
                                              DeviceKind::kCuda));
    const u32 rank = u32(comm_.rank());
    MlpWeights weights;
    WEFT_ASSIGN(weights.gate_up, random_weight("gate_up", 2 * columns_, hidden, 100 + rank, hidden));
    WEFT_ASSIGN(weights.down, random_weight("down", hidden, columns_, 200 + rank, ffn));
    mlp_.emplace(std::move(weights), 0.0f);
    WEFT_ASSIGN(x_, DeviceBuffer::create(size_t(most_ * hidden) * 2));
    WEFT_TRY(fill_random_bf16(stream_, x_.data(), most_ * hidden, 1));  // the same on every rank
    return comm_.synchronize(stream_);
  }

  Result<CudaMlpCheckRow> check(i64 m) {
    WEFT_TRY(set_input(m));
    return check_calls(
        comm_, stream_, m, [&] { return call(m); },
        [&](const std::vector<float>& y) {
          const i64 samples = std::min(m, kSampledRows);
          return distance(comm_, stream_, {.count = samples, .stride = samples > 0 ? m / samples : 1}, x_.as<bf16>(),
                          options_.hidden, mlp_->gate_up().matrix().as<bf16>(), mlp_->down().matrix().as<bf16>(),
                          columns_, tp_->local_tokens(m), y);
        });
  }

  Status time(CudaMlpReport& report) {
    WEFT_ASSIGN(cublas_, Cublas::open(stream_));
    auto nccl = NcclCommunicator::create(comm_.world(), deadline());
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.cublas = cublas_->version();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    if (nccl.ok()) nccl_ = std::move(nccl.value());
    const i64 columns = columns_;
    WEFT_ASSIGN(all_x_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    WEFT_ASSIGN(wide_, DeviceBuffer::create(size_t(most_ * 2 * columns) * 2));
    WEFT_ASSIGN(activated_, DeviceBuffer::create(size_t(most_ * columns) * 2));
    WEFT_ASSIGN(product_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    WEFT_ASSIGN(sum_, DeviceBuffer::create(size_t(most_ * options_.hidden) * 2));
    for (const i64 m : options_.m) {
      WEFT_TRY(set_input(m));
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
  Result<Weight> random_weight(const char* name, i64 n, i64 k, u32 seed, i64 whole_k) {
    WEFT_ASSIGN(Tensor matrix, make_tensor(DeviceKind::kCuda, DType::kBF16, {n, k}));
    WEFT_TRY(fill_weights(stream_, DType::kBF16, matrix.view.data, n * k, seed, whole_k));
    return Weight::on_gpu(name, std::move(matrix));
  }

  ActivationView input(i64 m) const { return tp_->column_input(ActivationFormat::kBF16, m); }

  // This rank's of the first m rows of x to where a norm would write them.
  Status set_input(i64 m) {
    const Range rows = tp_->local_tokens(m);
    if (rows.size() == 0) return {};
    const size_t row_bytes = size_t(options_.hidden) * 2;
    WEFT_CUDA_TRY(cudaMemcpy2DAsync(input(m).data, size_t(input(m).row_bytes()),
                                    x_.as<bf16>() + rows.begin * options_.hidden, row_bytes, row_bytes,
                                    size_t(rows.size()), cudaMemcpyDefault, stream_));
    return comm_.synchronize(stream_);
  }

  // The residual is not looked at: what the layer adds waits beside it.
  Result<TensorView> call(i64 m) {
    Exec exec = comm_.exec(stream_);
    Residual residual{.rows = leading(workspace_.residual, tp_->local_tokens(m).size(), options_.hidden)};
    WEFT_TRY(mlp_->project(exec, *tp_, workspace_, input(m), m, residual));
    return residual.addend;
  }

  Status unfused(i64 m, bool communicates) {
    const i64 hidden = options_.hidden, columns = columns_, share = m / comm_.size();
    const void* x = x_.data();
    if (communicates && sharded_) {
      const Range rows = tp_->local_tokens(m);
      WEFT_TRY(
          nccl_->all_gather_bf16(x_.as<bf16>() + rows.begin * hidden, all_x_.data(), size_t(share * hidden), stream_));
      x = all_x_.data();
    }
    WEFT_TRY(cublas_->gemm(x, mlp_->gate_up().matrix().data, wide_.data(), int(m), int(2 * columns), int(hidden)));
    WEFT_TRY(cuda_swiglu(
        stream_, {.gate_up = matrix(wide_.data(), m, 2 * columns), .y = matrix(activated_.data(), m, columns)}));
    WEFT_TRY(cublas_->gemm(activated_.data(), mlp_->down().matrix().data, product_.data(), int(m), int(hidden),
                           int(columns)));
    if (!communicates) return {};
    return sharded_ ? nccl_->reduce_scatter_bf16(product_.data(), sum_.data(), size_t(share * hidden), stream_)
                    : nccl_->all_reduce_bf16(product_.data(), sum_.data(), size_t(m * hidden), stream_);
  }

  CudaCommunicator& comm_;
  Communicator handle_;
  const cudaStream_t stream_;
  const CudaMlpBenchOptions& options_;
  i64 most_ = 0;
  i64 columns_ = 0;  // of gate, and of up, of this rank: whole eights
  bool sharded_ = true;
  std::unique_ptr<TensorParallel> tp_;
  Workspace workspace_;
  std::optional<MlpLayer> mlp_;
  DeviceBuffer x_;  // [most_, hidden]
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
