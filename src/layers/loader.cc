#include "layers/loader.h"

#include "device/allocate.h"

namespace weft {

Result<Weight> load_linear(const Checkpoint& checkpoint, const std::string& name, std::span<const LinearPart> parts,
                           DeviceKind device) {
  std::vector<WeightPart> packed;
  for (const LinearPart& part : parts) {
    WEFT_ASSIGN(TensorView raw, checkpoint.tensor(part.name));
    WEFT_TRY(expect_tensor(part.name.c_str(), raw, raw.dtype, {part.total_rows, part.total_columns}));
    WeightPart source{.raw = raw, .rows = {}, .k_begin = part.columns.begin, .k_end = part.columns.end};
    for (i64 row = part.rows.begin; row < part.rows.end; ++row) {
      source.rows.push_back(checkpoint.file_row(part.name, row));
    }
    if (source.rows.empty()) source.raw = raw.rows(0, 0);  // an empty list would mean all rows
    packed.push_back(std::move(source));
  }
  Result<Weight> weight = Weight::pack(name, packed);
  checkpoint.drop_pages();  // as they are packed, so that the model is never in memory twice
  if (device == DeviceKind::kCpu || !weight.ok()) return weight;
  return weight->copy_to_gpu();
}

Result<Tensor> load_vector(const Checkpoint& checkpoint, const std::string& name, i64 size, DeviceKind device) {
  WEFT_ASSIGN(TensorView raw, checkpoint.tensor(name));
  WEFT_TRY(expect_tensor(name.c_str(), raw, raw.dtype, {size}));
  Tensor vector = Tensor::zeros(DType::kF32, {size});
  float* out = vector.view.as<float>();
  switch (raw.dtype) {
    case DType::kF32: std::copy(raw.as<float>(), raw.as<float>() + size, out); break;
    case DType::kF16:
      for (i64 i = 0; i < size; ++i) out[i] = float(raw.as<f16>()[i]);
      break;
    case DType::kBF16:
      for (i64 i = 0; i < size; ++i) out[i] = float(raw.as<bf16>()[i]);
      break;
    default:
      return error(Code::kUnimplemented, "tensor '{}': a vector of type {} is not supported", name,
                   dtype_name(raw.dtype));
  }
  if (device == DeviceKind::kCpu) return vector;
  return copy_to(device, vector.view);
}

Result<Tensor> load_bias(const Checkpoint& checkpoint, std::span<const LinearPart> parts) {
  i64 rows = 0;
  for (const LinearPart& part : parts) rows += part.rows.size();
  Tensor bias = Tensor::zeros(DType::kF32, {rows});
  float* out = bias.view.as<float>();
  for (const LinearPart& part : parts) {
    constexpr std::string_view kWeight = "weight";
    const std::string name = part.name.substr(0, part.name.size() - kWeight.size()) + "bias";
    WEFT_ASSIGN(const Tensor whole, load_vector(checkpoint, name, part.total_rows));
    for (i64 row = part.rows.begin; row < part.rows.end; ++row) {
      *out++ = whole.view.as<float>()[checkpoint.file_row(name, row)];
    }
  }
  return bias;
}

}  // namespace weft
