// Loading one rank's share of a layer's parameters.
#pragma once
#include "ops/gemm/weight.h"
#include "weights/checkpoint.h"
#include "weights/shard_plan.h"

namespace weft {

// One parameter of a fused linear layer: its rows [rows.begin, rows.end) and columns [columns.begin, columns.end), and
// its whole shape as the architecture demands it.
struct LinearPart {
  std::string name;  // "....weight"
  Range rows, columns;
  i64 total_rows, total_columns;
};

// Packs the parts below one another, for a GPU as Weight::copy_to_gpu(). Errors: a missing tensor or another shape,
// naming file, tensor, expected and found.
Result<Weight> load_linear(const Checkpoint& checkpoint, const std::string& name, std::span<const LinearPart> parts,
                           DeviceKind device = DeviceKind::kCpu);

// The biases of the parts' rows, one after another, as f32: tensors "....bias" of [total_rows].
Result<Tensor> load_bias(const Checkpoint& checkpoint, std::span<const LinearPart> parts);

// A vector [size] as f32.
Result<Tensor> load_vector(const Checkpoint& checkpoint, const std::string& name, i64 size,
                           DeviceKind device = DeviceKind::kCpu);

}  // namespace weft
