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
};

// The fastest of split, push and copy for 16, 32, 64 ... max_m rows. Collective; see CudaAgGemm::tune().
Result<std::vector<TunedVariant>> tune_fused(CudaCommunicator& comm, const FusedTask& task, TuningCache* cache,
                                             const MakeFused& make);

// Random bf16 elements in device memory, as matrices of some rows.
class RandomBf16 {
 public:
  explicit RandomBf16(DeviceBuffer buffer) : buffer_(std::move(buffer)) {}
  TensorView rows(i64 rows, i64 columns) const {
    return TensorView::dense(buffer_.data(), DType::kBF16, {rows, columns}, DeviceKind::kCuda);
  }

 private:
  DeviceBuffer buffer_;
};
Result<std::shared_ptr<RandomBf16>> random_bf16(i64 elements);

}  // namespace weft
