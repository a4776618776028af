#include "comm/bootstrap/exchange.h"
#include "layers/cuda_mlp.cuh"
#include "ops/gemm/gemm.cuh"
#include "ops/swiglu/swiglu.cuh"

namespace weft {
namespace {

TensorView bf16_matrix(void* data, i64 rows, i64 columns) {
  return TensorView::dense(data, DType::kBF16, {rows, columns}, DeviceKind::kCuda);
}

}  // namespace

Result<CudaMlp> CudaMlp::create(CudaCommunicator& comm, const CudaMlpShape& shape, const CudaMlpOptions& options) {
  if (shape.max_m < 0 || shape.hidden < 8 || shape.hidden % 8 != 0 || shape.ffn < 8 || shape.ffn % 8 != 0)
    return error(Code::kInvalidArgument, "mlp: max_m {}, hidden {}, ffn {}: expected >= 0 and two multiples of 8",
                 shape.max_m, shape.hidden, shape.ffn);
  if (options.mode == LayerMode::kAuto) return error(Code::kInvalidArgument, "mlp: mode: expected ar or ag_rs");
  if (options.mode == LayerMode::kAgRs && !options.all_reduce.empty())
    return error(Code::kInvalidArgument, "mlp: all_reduce '{}': mode ag_rs has no all-reduce", options.all_reduce);
  CudaMlp mlp(comm, shape, options);
  const Range eights = split_range(shape.ffn / 8, comm.size(), comm.rank());
  mlp.columns_ = {eights.begin * 8, eights.end * 8};
  if (mlp.columns_.size() == 0)
    return error(Code::kInvalidArgument, "mlp: ffn {}: fewer than 8 columns for each of {} ranks", shape.ffn,
                 comm.size());
  const i64 most_columns = split_range(shape.ffn / 8, comm.size(), 0).size() * 8, m = shape.max_m;
  WEFT_ASSIGN(mlp.gate_up_, DeviceBuffer::create(size_t(m * 2 * mlp.columns_.size()) * 2));
  WEFT_ASSIGN(mlp.activated_, DeviceBuffer::create(size_t(m * mlp.columns_.size()) * 2));
  const CudaGemmRsShape down{.max_m = m, .n = shape.hidden, .k = most_columns};
  CudaFusedOptions fused{.variant = options.variant};
  TuningCache cache;
  if (options.tuning) {
    auto opened = comm.rank() == 0 ? TuningCache::open(*options.tuning) : Result<TuningCache>(TuningCache());
    WEFT_TRY(agree(comm.world(), opened.status(), Deadline::after(std::chrono::seconds(60))));
    cache = std::move(opened.value());
  }
  if (options.mode == LayerMode::kAgRs) {
    WEFT_ASSIGN(mlp.y_, DeviceBuffer::create(size_t(split_range(m, comm.size(), 0).size() * shape.hidden) * 2));
    const CudaAgGemmShape up{.max_m = m, .k = shape.hidden};
    if (options.tuning) {
      WEFT_ASSIGN(fused.tuned, CudaAgGemm::tune(comm, up, 2 * most_columns, &cache));
    }
    WEFT_ASSIGN(mlp.gather_, CudaAgGemm::create(comm, up, fused));
    if (options.tuning) {
      WEFT_ASSIGN(fused.tuned, CudaGemmRs::tune(comm, down, &cache));
    }
    WEFT_ASSIGN(mlp.scatter_, CudaGemmRs::create(comm, down, fused));
  } else if (options.all_reduce.empty()) {
    if (options.tuning) {
      WEFT_ASSIGN(fused.tuned, CudaGemmAr::tune(comm, down, &cache));
    }
    WEFT_ASSIGN(mlp.reduce_, CudaGemmAr::create(comm, down, fused));
  } else {
    WEFT_ASSIGN(mlp.y_, DeviceBuffer::create(size_t(m * shape.hidden) * 2));
    WEFT_ASSIGN(mlp.all_reduce_, CudaAllReduce::create(comm, {.max_elements = m * shape.hidden, .dtype = DType::kBF16},
                                                       {.name = options.all_reduce}));
  }
  return std::move(mlp);
}

Range CudaMlp::rows(i64 m) const {
  return mode_ == LayerMode::kAgRs ? split_range(m, comm_->size(), comm_->rank()) : Range{0, m};
}

Result<TensorView> CudaMlp::run(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& gate_up,
                                const TensorView& down) {
  if (m < 0 || m > shape_.max_m)
    return error(Code::kInvalidArgument, "mlp: m = {}: expected 0 to max_m = {}", m, shape_.max_m);
  const i64 columns = columns_.size();
  WEFT_TRY(expect_cuda_matrix("mlp: x", x, {rows(m).size(), shape_.hidden}));
  WEFT_TRY(expect_cuda_matrix("mlp: gate_up", gate_up, {2 * columns, shape_.hidden}));
  WEFT_TRY(expect_cuda_matrix("mlp: down", down, {shape_.hidden, columns}));
  const TensorView wide = bf16_matrix(gate_up_.data(), m, 2 * columns);
  const TensorView activated = bf16_matrix(activated_.data(), m, columns);
  WEFT_TRY(gather_ ? gather_->run(stream, x, m, gate_up, wide) : cuda_gemm(stream, {x, gate_up, wide}));
  WEFT_TRY(cuda_swiglu(stream, {.gate_up = wide, .y = activated}));
  if (reduce_) {
    const TensorView y = reduce_->output(m);
    WEFT_TRY(reduce_->run(stream, activated, down, y));
    return y;
  }
  const TensorView y = bf16_matrix(y_.data(), rows(m).size(), shape_.hidden);
  if (scatter_) {
    WEFT_TRY(scatter_->run(stream, activated, down, y));
    return y;
  }
  WEFT_TRY(cuda_gemm(stream, {activated, down, y}));
  WEFT_TRY(all_reduce_->run(stream, y, y));
  return y;
}

}  // namespace weft
