// The MLP of a layer over the tensor-parallel ranks of a host's GPUs: gate and up projections, SwiGLU, down projection.
#pragma once
#include <optional>

#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "layers/layer_mode.h"

namespace weft {

struct CudaMlpShape {
  i64 max_m = 0;   // tokens of one call
  i64 hidden = 0;  // divisible by 8
  i64 ffn = 0;     // columns of gate, and of up, over all ranks; divisible by 8
};

struct CudaMlpOptions {
  LayerMode mode = LayerMode::kAgRs;  // not kAuto
  std::string variant = "auto";       // of the fused operators
  // For auto: the variants that are fastest here, measured now or before; rank 0's memory of it, "" = none.
  std::optional<std::string> tuning = {};
  // Mode kAr: instead of gemm_ar a GEMM followed by all_reduce with this algorithm.
  std::string all_reduce = "";
};

class CudaMlp {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of these widths.
  // Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaMlp> create(CudaCommunicator& comm, const CudaMlpShape& shape, const CudaMlpOptions& options = {});

  // This rank's columns of gate and of up, which are its rows of down: whole eights.
  Range columns() const { return columns_; }
  // Which of m tokens this rank gives and gets: kAgRs its split_range, kAr all.
  Range rows(i64 m) const;

  // The MLP of m <= max_m tokens on `stream`, m the same on every rank. x [rows(m), hidden] bf16, row stride a multiple
  // of 16 bytes; gate_up [2 columns(), hidden] bf16, gate's rows first; down [hidden, columns()] bf16. Returns y
  // [rows(m), hidden] bf16, this object's own, valid on that stream until the next run(). SwiGLU's input and output and
  // the ranks' products are rounded to bf16, sums are fp32; the same bits on every run. Captures into a graph; calls
  // run in one stream order, the same on every rank. Errors: kInvalidArgument before a launch; the communicator's
  // failure.
  Result<TensorView> run(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& gate_up,
                         const TensorView& down);

 private:
  CudaMlp(CudaCommunicator& comm, const CudaMlpShape& shape, const CudaMlpOptions& options)
      : comm_(&comm), shape_(shape), mode_(options.mode) {}
  CudaCommunicator* comm_;
  CudaMlpShape shape_;
  LayerMode mode_;
  Range columns_;
  std::optional<CudaAgGemm> gather_;  // kAgRs
  std::optional<CudaGemmRs> scatter_;
  std::optional<CudaGemmAr> reduce_;         // kAr
  std::optional<CudaAllReduce> all_reduce_;  // kAr with an algorithm
  DeviceBuffer gate_up_, activated_, y_;
};

}  // namespace weft
