#include "dist/gpu.cuh"

#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/all_gather/all_gather.cuh"
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "dist/moe_ar/moe_ar.cuh"
#include "dist/reduce_scatter/reduce_scatter.cuh"
#include "ops/grouped_gemm/expert_groups.h"

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
  return make_on_gpu<Op>(comm, shape, options);
}

CudaMoeShape expert_sums(const ExpertSumsShape& s) {
  return {.max_m = s.max_m, .max_rows = s.max_pairs, .n = s.n, .dtype = s.dtype};
}
CudaMoeArgs expert_sums(const TensorView& a, const ExpertGroups& groups, const TensorView& w, const TensorView& y) {
  const ExpertTables& tables = groups.tables();
  return {.a = a, .offsets = tables.offsets, .rows = tables.rows, .weights = tables.weights, .w = w, .y = y};
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

Result<std::shared_ptr<CudaAllGather>> make_all_gather(Communicator& comm, i64 max_bytes_per_rank) {
  return make_on_gpu<CudaAllGather>(comm, AllGatherShape{.max_bytes_per_rank = max_bytes_per_rank});
}

Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator& comm, i64 max_elements, DType dtype,
                                                       const std::string& algorithm) {
  return make_on_gpu<CudaAllReduce>(comm, AllReduceShape{.max_elements = max_elements, .dtype = dtype},
                                    AllReduceOptions{.name = algorithm});
}

Result<std::shared_ptr<CudaReduceScatter>> make_reduce_scatter(Communicator& comm, const ReduceScatterShape& shape) {
  return make_on_gpu<CudaReduceScatter>(comm, shape);
}

Result<std::shared_ptr<CudaMoeAr>> make_moe_ar(Communicator& comm, const ExpertSumsShape& shape) {
  return make_on_gpu<CudaMoeAr>(comm, expert_sums(shape));
}

Result<std::shared_ptr<CudaMoeRs>> make_moe_rs(Communicator& comm, const ExpertSumsShape& shape) {
  return make_on_gpu<CudaMoeRs>(comm, expert_sums(shape));
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

Status run(CudaAllGather& op, const Exec& exec, const TensorView& shard, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, shard, y, exec.sm_budget());
}

Status run(CudaReduceScatter& op, const Exec& exec, const TensorView& x, const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, x, y);
}

Status run(CudaMoeAr& op, const Exec& exec, const TensorView& a, const ExpertGroups& groups, const TensorView& w,
           const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, expert_sums(a, groups, w, y));
}

Status run(CudaMoeRs& op, const Exec& exec, const TensorView& a, const ExpertGroups& groups, const TensorView& w,
           const TensorView& y) {
  WEFT_ASSIGN(const cudaStream_t stream, expect_stream(exec));
  return op.run(stream, expert_sums(a, groups, w, y));
}

TensorView output(const CudaGemmAr& op, i64 m) {
  return op.output(m);
}

}  // namespace weft::gpu
