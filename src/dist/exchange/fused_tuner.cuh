// How the fused operators find their fastest variants: each variant is created on a communicator of its own and timed
// in graphs on all ranks.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/tensor.h"
#include "comm/cuda_communicator.cuh"
#include "dist/exchange/fused_plan.h"
#include "dist/exchange/tuner.h"

namespace weft {

// Runs an operator on m rows of what it was made with. Holds the operator and its buffers.
using FusedCall = std::function<Status(cudaStream_t, i64 m)>;
// The operator with these options on this communicator, which outlives the call. Collective.
using MakeFused = std::function<Result<FusedCall>(CudaCommunicator&, const CudaFusedOptions&)>;

struct FusedTask {
  std::string op, shape;  // for the key; the rows are added
  i64 max_m = 0;
  DType dtype = DType::kBF16;
};

// The fastest of split, push and copy for 16, 32, 64 ... max_m rows. Collective; see CudaAgGemm::tune().
Result<std::vector<TunedVariant>> tune_fused(CudaCommunicator& comm, const FusedTask& task, TuningCache* cache,
                                             const MakeFused& make);

// Random bf16 or f16 elements in device memory, as matrices of some rows.
class RandomElements {
 public:
  RandomElements(DeviceBuffer buffer, DType dtype) : buffer_(std::move(buffer)), dtype_(dtype) {}
  TensorView rows(i64 rows, i64 columns) const {
    return TensorView::dense(buffer_.data(), dtype_, {rows, columns}, DeviceKind::kCuda);
  }

 private:
  DeviceBuffer buffer_;
  DType dtype_;
};
Result<std::shared_ptr<RandomElements>> random_elements(DType dtype, i64 elements);

}  // namespace weft
