// moe_ar on Hopper GPUs: the row-parallel layer of experts whose output every rank has whole: the grouped GEMM, a
// token's experts added up, all_reduce.
#pragma once
#include <memory>

#include "dist/all_reduce/all_reduce.cuh"
#include "dist/moe_rs/moe_rs.cuh"

namespace weft {

class CudaMoeAr {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaMoeAr> create(CudaCommunicator& comm, const CudaMoeShape& shape);

  // y [m, n] = all tokens of what CudaMoeRs::run() computes, the same bits on every rank. Otherwise as there.
  Status run(cudaStream_t stream, const CudaMoeArgs& args);

 private:
  CudaMoeAr(CudaCommunicator& comm, const CudaMoeShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  CudaMoeShape shape_;
  std::unique_ptr<CudaAllReduce> reduce_;
  DeviceBuffer products_;  // [max_rows, n] bf16
};

}  // namespace weft
