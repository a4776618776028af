#include "ops/grouped_gemm/expert_groups.h"

#include <algorithm>

#include "device/allocate.h"
#include "ops/gpu.h"

namespace weft {
namespace {

// From one element of a [rows, columns] table to the next; 0 where they do not lie at one distance.
i64 step_of(const TensorView& table) {
  const i64 size = dtype_layout(table.dtype).bytes, step = table.dim(1) > 1 ? table.byte_strides[1] : size;
  const bool even = table.dim(0) < 2 || table.byte_strides[0] == step * table.dim(1);
  return even && step % size == 0 ? step / size : 0;
}

}  // namespace

ExpertGroups ExpertGroups::create(i64 max_pairs, i64 experts) {
  ExpertGroups groups;
  groups.experts_ = experts;
  groups.max_pairs_ = max_pairs;
  groups.begins_.assign(size_t(experts) + 1, 0);
  groups.next_.assign(size_t(experts), 0);
  groups.sorted_.assign(size_t(max_pairs), 0);
  groups.weights_.assign(size_t(max_pairs), 0);
  return groups;
}

Result<ExpertGroups> ExpertGroups::create(DeviceKind device, i64 max_pairs, i64 experts) {
  if (device == DeviceKind::kCpu) return create(max_pairs, experts);
  ExpertGroups groups;
  groups.experts_ = experts;
  groups.max_pairs_ = max_pairs;
  WEFT_ASSIGN(groups.offsets_, make_tensor(device, DType::kI32, {experts + 1}));
  WEFT_ASSIGN(groups.map_, make_tensor(device, DType::kI32, {max_pairs}));
  WEFT_ASSIGN(groups.rows_, make_tensor(device, DType::kI32, {max_pairs}));
  WEFT_ASSIGN(groups.placed_, make_tensor(device, DType::kF32, {max_pairs}));
  return groups;
}

// A counting sort, which keeps the order of the tokens.
Status ExpertGroups::count(const TensorView& ids, const TensorView& weights) {
  const i32* expert = ids.as<i32>();
  const float* weight = weights.as<float>();
  const i64 all = ids.shape.elements(), step = step_of(ids), weight_step = weight ? step_of(weights) : 0;
  std::ranges::fill(begins_, 0);
  pairs_ = 0;
  for (i64 i = 0; i < all; ++i) {
    const i32 e = expert[i * step];
    if (e < -1 || e >= experts_) {
      std::ranges::fill(begins_, 0);
      return error(Code::kInvalidArgument, "ids: expert {} of token {} is not one of {}", e, i / per_token_, experts_);
    }
    if (e >= 0) ++begins_[size_t(e) + 1];
  }
  for (size_t e = 0; e < next_.size(); ++e) {
    next_[e] = begins_[e];
    begins_[e + 1] += begins_[e];
  }
  for (i64 i = 0; i < all; ++i) {
    const i32 e = expert[i * step];
    if (e < 0) continue;
    const size_t row = size_t(next_[size_t(e)]++);
    sorted_[row] = i32(i);
    weights_[row] = weight ? weight[i * weight_step] : 1;
  }
  pairs_ = begins_.back();
  return {};
}

Status ExpertGroups::sort(Exec& exec, const TensorView& ids, const TensorView& weights) {
  WEFT_TRY(expect_tensor("ids", ids, DType::kI32, {-1, -1}));
  if (ids.dim(1) < 1 || ids.shape.elements() > max_pairs_ || step_of(ids) == 0) {
    return error(Code::kInvalidArgument, "ids: expected at most {} pairs at one distance, found {}", max_pairs_,
                 ids.describe());
  }
  if (weights.data != nullptr) {
    WEFT_TRY(expect_tensor("weights", weights, DType::kF32, ids.shape));
    if (step_of(weights) == 0) {
      return error(Code::kInvalidArgument, "weights: expected elements at one distance, found {}", weights.describe());
    }
  }
  if (exec.device() == DeviceKind::kCuda) return sort_on_gpu(exec, ids, weights);
  if (exec.thread() == 0) {
    tokens_ = ids.dim(0);
    per_token_ = ids.dim(1);
    outcome_ = count(ids, weights);
  }
  WEFT_TRY(exec.sync());
  return outcome_;
}

Status ExpertGroups::sort_on_gpu(Exec& exec, const TensorView& ids, const TensorView& weights) {
  if (offsets_.view.device != DeviceKind::kCuda)
    return error(Code::kInvalidArgument, "groups: planned for a CPU, the Exec is a GPU's");
  const i64 pairs = ids.shape.elements();
  tokens_ = ids.dim(0);
  per_token_ = ids.dim(1);
  take({.offsets = offsets_.view,
        .map = map_.storage.view(DType::kI32, {pairs}),
        .rows = rows_.storage.view(DType::kI32, ids.shape),
        .weights = placed_.storage.view(DType::kF32, ids.shape)},
       pairs);
  return gpu::sort_experts(exec, ids, weights, tables_);
}

void ExpertGroups::take(const ExpertTables& tables, i64 pairs) {
  tables_ = tables;
  pairs_ = pairs;
}

Range ExpertGroups::rows_of_tokens(i64 expert, i64 begin, i64 end) const {
  const Range all = rows(expert);
  const auto first_from = [&](i64 token) {
    const auto from = sorted_.begin() + all.begin, to = sorted_.begin() + all.end;
    return std::lower_bound(from, to, token * per_token_) - sorted_.begin();
  };
  return {first_from(begin), first_from(end)};
}

}  // namespace weft
