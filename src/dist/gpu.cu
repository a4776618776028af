#include "dist/gpu.h"

#include "device/cuda/stream.cuh"
#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"

namespace weft::gpu {
namespace {

// The operator with the variants that tune() finds where `fused` asks for them.
template <class Op, class Shape, class Tune>
Result<std::shared_ptr<Op>> make_fused(Communicator& comm, const Shape& shape, const FusedOptions& fused,
                                       const Tune& tune) {
  CudaFusedOptions options{.variant = fused.variant, .constant_w = fused.constant_w};
  if (fused.tunes) {
    WEFT_ASSIGN(options.tuned, tune());
  }
  WEFT_ASSIGN(Op op, Op::create(comm.cuda(), shape, options));
  return std::make_shared<Op>(std::move(op));
}

Result<cudaStream_t> expect_stream(const Exec& exec) {
  if (exec.device() == DeviceKind::kCuda) return stream_of(exec);
  return error(Code::kInvalidArgument, "the communicator is one of GPUs, the Exec of a CPU");
}

}  // namespace

Result<std::shared_ptr<CudaAgGemm>> make_ag_gemm(Communicator& comm, const FusedShape& s, const FusedOptions& fused) {
  const CudaAgGemmShape shape{.max_m = s.max_m, .k = s.k};
  return make_fused<CudaAgGemm>(comm, shape, fused,
                                [&] { return CudaAgGemm::tune(comm.cuda(), shape, s.n, fused.cache); });
}

Result<std::shared_ptr<CudaGemmAr>> make_gemm_ar(Communicator& comm, const FusedShape& s, const FusedOptions& fused) {
  const CudaGemmRsShape shape{.max_m = s.max_m, .n = s.n, .k = s.k};
  return make_fused<CudaGemmAr>(comm, shape, fused, [&] { return CudaGemmAr::tune(comm.cuda(), shape, fused.cache); });
}

Result<std::shared_ptr<CudaGemmRs>> make_gemm_rs(Communicator& comm, const FusedShape& s, const FusedOptions& fused) {
  const CudaGemmRsShape shape{.max_m = s.max_m, .n = s.n, .k = s.k};
  return make_fused<CudaGemmRs>(comm, shape, fused, [&] { return CudaGemmRs::tune(comm.cuda(), shape, fused.cache); });
}

Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator& comm, i64 max_elements, DType dtype,
                                                       const std::string& algorithm) {
  WEFT_ASSIGN(CudaAllReduce op,
              CudaAllReduce::create(comm.cuda(), {.max_elements = max_elements, .dtype = dtype}, {.name = algorithm}));
  return std::make_shared<CudaAllReduce>(std::move(op));
}

Status run(CudaAgGemm& op, const Exec& exec, const TensorView& x, i64 m, const TensorView& w, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, x, m, w, y);
}

Status run(CudaGemmAr& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, a, w, y);
}

Status run(CudaGemmRs& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, a, w, y);
}

Status run(CudaAllReduce& op, const Exec& exec, const TensorView& x, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, x, y);
}

TensorView output(const CudaGemmAr& op, i64 m) {
  return op.output(m);
}

}  // namespace weft::gpu
