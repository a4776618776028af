// moe_ar on Hopper GPUs: the row-parallel layer of experts whose output every rank has whole. The grouped GEMM; then,
// of few tokens, their experts added up and all_reduce, of more, one kernel that sends the sums as it makes them, to
// the token's owner and from there to all.
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
  std::unique_ptr<CudaAllReduce> reduce_;       // of few tokens, by one shot
  std::optional<CudaExpertWords<true>> words_;  // of more
  DeviceBuffer products_;                       // [max_rows, n]
};

}  // namespace weft
