#include "ops/gemm/weight.h"

#include <cstring>
#include <new>
#include <optional>

#include "device/allocate.h"
#include "ops/gemm/kernels.h"

namespace weft {
namespace {

static_assert(Weight::kPanel == kPanelColumns);

std::optional<WeightFormat> format_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16: return WeightFormat::kF32;
    case DType::kBF16: return WeightFormat::kBF16;
    case DType::kQ4_0: return WeightFormat::kQ4_0;
    case DType::kQ4_1: return WeightFormat::kQ4_1;
    case DType::kQ8_0: return WeightFormat::kQ8_0;
    default: return std::nullopt;
  }
}

bool is_quantised(WeightFormat format) {
  return format != WeightFormat::kF32 && format != WeightFormat::kBF16;
}

i64 block_bytes(WeightFormat format) {
  return format == WeightFormat::kQ4_0   ? kQ40PanelBlockBytes
         : format == WeightFormat::kQ4_1 ? kQ41PanelBlockBytes
                                         : kQ8PanelBlockBytes;
}

i64 bytes_per_panel(WeightFormat format, i64 k) {
  switch (format) {
    case WeightFormat::kF32: return k * kPanelColumns * 4;
    case WeightFormat::kBF16: return (k + 1) / 2 * kPanelColumns * 4;
    default: return k / 32 * block_bytes(format);
  }
}

// Where the nibbles or bytes begin in a block of a panel.
i64 quants_offset(WeightFormat format) {
  return format == WeightFormat::kQ4_1 ? 64 : 32;
}

i64 column_end(const WeightPart& part) {
  return part.k_end < 0 ? part.raw.dim(1) : part.k_end;
}
i64 row_count(const WeightPart& part) {
  return part.rows.empty() ? part.raw.dim(0) : i64(part.rows.size());
}

Status check_part(const std::string& name, size_t index, const WeightPart& part, i64 k) {
  const auto fault = [&](const std::string& what) {
    return error(Code::kInvalidArgument, "{}: part {}: {}", name, index, what);
  };
  const TensorView& raw = part.raw;
  if (raw.shape.rank() != 2) return fault(fmt::format("expected a matrix, found {}", raw.describe()));
  if (!format_of(raw.dtype)) {
    return error(Code::kUnimplemented, "{}: part {}: weights of type {} are not supported", name, index,
                 dtype_name(raw.dtype));
  }
  if (raw.device != DeviceKind::kCpu) return fault("expected CPU memory");
  const i64 end = column_end(part), block = dtype_layout(raw.dtype).block;
  if (part.k_begin < 0 || part.k_begin > end || end > raw.dim(1)) {
    return fault(fmt::format("columns [{}, {}) outside {}", part.k_begin, end, raw.describe()));
  }
  if (part.k_begin % block != 0 || end % block != 0) {
    return fault(fmt::format("columns [{}, {}) of {} off the block borders (multiples of {})", part.k_begin, end,
                             dtype_name(raw.dtype), block));
  }
  if (end - part.k_begin != k) {
    return fault(fmt::format("{} columns, but part 0 has {}", end - part.k_begin, k));
  }
  for (i64 row : part.rows) {
    if (row < 0 || row >= raw.dim(0)) return fault(fmt::format("row {} outside {}", row, raw.describe()));
  }
  return {};
}

// Writes one column of a panel: k values from `raw`.
void pack_column(DType dtype, const std::byte* raw, i64 k, i64 column, std::byte* panel) {
  const auto words = [column](std::byte* group) { return group + column * 4; };
  switch (dtype) {
    case DType::kF32:
      for (i64 i = 0; i < k; ++i) std::memcpy(words(panel + i * 64), raw + i * 4, 4);
      return;
    case DType::kF16:
      for (i64 i = 0; i < k; ++i) {
        f16 half;
        std::memcpy(&half, raw + i * 2, 2);
        const float value = float(half);
        std::memcpy(words(panel + i * 64), &value, 4);
      }
      return;
    case DType::kBF16:
      for (i64 i = 0; i < k; ++i) std::memcpy(words(panel + i / 2 * 64) + i % 2 * 2, raw + i * 2, 2);
      return;
    default: break;
  }
  const WeightFormat format = *format_of(dtype);
  const i64 raw_header = format == WeightFormat::kQ4_1 ? 4 : 2, groups = format == WeightFormat::kQ8_0 ? 8 : 4;
  const u32 flip = format == WeightFormat::kQ8_0 ? 0x80808080u : 0;  // q + 128 is q with its sign bit flipped
  for (i64 b = 0; b < k / 32; ++b) {
    const std::byte* source = raw + b * dtype_layout(dtype).bytes;
    std::byte* block = panel + b * block_bytes(format);
    std::memcpy(block + column * 2, source, 2);
    if (format == WeightFormat::kQ4_1) std::memcpy(block + 32 + column * 2, source + 2, 2);
    for (i64 g = 0; g < groups; ++g) {
      u32 word;
      std::memcpy(&word, source + raw_header + g * 4, 4);
      word ^= flip;
      std::memcpy(words(block + quants_offset(format) + g * 64), &word, 4);
    }
  }
}

}  // namespace

const char* weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return "f32";
    case WeightFormat::kBF16: return "bf16";
    case WeightFormat::kQ4_0: return "q4_0";
    case WeightFormat::kQ4_1: return "q4_1";
    case WeightFormat::kQ8_0: return "q8_0";
  }
  return "?";
}

Result<Weight> Weight::pack(const std::string& name, std::span<const WeightPart> parts) {
  Weight weight;
  weight.name_ = name;
  if (parts.empty()) return error(Code::kInvalidArgument, "{}: expected at least one part", name);
  if (parts[0].raw.shape.rank() == 2) weight.k_ = column_end(parts[0]) - parts[0].k_begin;
  for (size_t i = 0; i < parts.size(); ++i) WEFT_TRY(check_part(name, i, parts[i], weight.k_));

  // Segments first: neighbours of one format share one, so that its panels are filled without gaps.
  bool any_quantised = false, any_plain = false, all_bf16 = true;
  for (const WeightPart& part : parts) {
    const WeightFormat format = *format_of(part.raw.dtype);
    (is_quantised(format) ? any_quantised : any_plain) = true;
    all_bf16 = all_bf16 && format == WeightFormat::kBF16;
  }
  if (any_quantised && any_plain) {
    return error(Code::kInvalidArgument, "{}: parts mix quantised and plain types", name);
  }
  weight.activation_format_ = any_quantised ? ActivationFormat::kQ16
                              : all_bf16    ? ActivationFormat::kBF16
                                            : ActivationFormat::kF32;
  const auto packed_as = [&](DType dtype) {
    // bf16 beside f32 reads f32 activations, so it is widened.
    const WeightFormat format = *format_of(dtype);
    return format == WeightFormat::kBF16 && !all_bf16 ? WeightFormat::kF32 : format;
  };
  for (const WeightPart& part : parts) {
    const WeightFormat format = packed_as(part.raw.dtype);
    if (weight.segments_.empty() || weight.segments_.back().format != format) {
      Segment segment;
      segment.format = format;
      segment.n_begin = segment.n_end = weight.n_;
      segment.panel_bytes = size_t(bytes_per_panel(format, weight.k_));
      weight.segments_.push_back(std::move(segment));
    }
    weight.n_ += row_count(part);
    weight.segments_.back().n_end = weight.n_;
  }
  try {
    for (Segment& segment : weight.segments_) {
      segment.data = HugeBuffer(segment.panel_bytes * size_t(segment.panels()));
    }
  } catch (const std::bad_alloc&) {
    return error(Code::kResourceExhausted, "{}: no memory for the packed weight", name);
  }

  size_t s = 0;
  i64 n = 0;
  for (const WeightPart& part : parts) {
    while (n >= weight.segments_[s].n_end && s + 1 < weight.segments_.size()) ++s;
    const Segment& segment = weight.segments_[s];
    const DType dtype = part.raw.dtype;
    const bool widen = dtype == DType::kBF16 && segment.format == WeightFormat::kF32;
    std::vector<float> wide(widen ? size_t(weight.k_) : 0);
    for (i64 i = 0; i < row_count(part); ++i, ++n) {
      const i64 row = part.rows.empty() ? i : part.rows[size_t(i)];
      const std::byte* source = part.raw.row<std::byte>(row) + dtype_bytes(dtype, part.k_begin);
      const i64 local = n - segment.n_begin;
      std::byte* panel = segment.panel(local / kPanel);
      if (!widen) {
        pack_column(dtype, source, weight.k_, local % kPanel, panel);
        continue;
      }
      for (i64 j = 0; j < weight.k_; ++j) {
        bf16 value;
        std::memcpy(&value, source + j * 2, 2);
        wide[size_t(j)] = float(value);
      }
      pack_column(DType::kF32, reinterpret_cast<const std::byte*>(wide.data()), weight.k_, local % kPanel, panel);
    }
  }
  return weight;
}

Result<Weight> Weight::on_gpu(std::string name, Tensor matrix) {
  const TensorView& view = matrix.view;
  const bool plain = view.dtype == DType::kBF16 || view.dtype == DType::kF16;
  if (view.device != DeviceKind::kCuda || !plain || view.shape.rank() != 2) {
    return error(Code::kInvalidArgument, "{}: expected a bf16 or f16 matrix in CUDA memory, found {}", name,
                 view.describe());
  }
  Weight weight;
  weight.name_ = std::move(name);
  weight.n_ = view.dim(0);
  weight.k_ = view.dim(1);
  weight.activation_format_ = plain_format(view.dtype);
  weight.matrix_ = std::move(matrix);
  return weight;
}

Result<Weight> Weight::copy_to_gpu() const {
  const Tensor rows = Tensor::zeros(DType::kBF16, {n_, k_});
  round_to_bf16(rows.view.as<bf16>());
  WEFT_ASSIGN(Tensor matrix, copy_to(DeviceKind::kCuda, rows.view));
  return on_gpu(name_, std::move(matrix));
}

void Weight::round_to_bf16(bf16* out) const {
  std::vector<float> row(static_cast<size_t>(k_));
  for (i64 i = 0; i < n_; ++i) {
    dequantize_row(i, row.data());
    for (const float value : row) *out++ = bf16(value);
  }
}

size_t Weight::bytes() const {
  size_t total = matrix_.storage.size();
  for (const Segment& segment : segments_) total += segment.data.size();
  return total;
}

void Weight::dequantize_row(i64 row, float* out) const {
  WEFT_CHECK(0 <= row && row < n_ && device() == DeviceKind::kCpu, row, n_);
  const Segment* segment = segments_.data();
  while (row >= segment->n_end) ++segment;
  const i64 local = row - segment->n_begin, column = local % kPanel;
  const std::byte* panel = segment->panel(local / kPanel);
  const auto half = [&](const std::byte* from) {
    f16 value;
    std::memcpy(&value, from + column * 2, 2);
    return float(value);
  };
  if (segment->format == WeightFormat::kF32) {
    for (i64 i = 0; i < k_; ++i) std::memcpy(out + i, panel + i * 64 + column * 4, 4);
    return;
  }
  if (segment->format == WeightFormat::kBF16) {
    for (i64 i = 0; i < k_; ++i) {
      bf16 value;
      std::memcpy(&value, panel + i / 2 * 64 + column * 4 + i % 2 * 2, 2);
      out[i] = float(value);
    }
    return;
  }
  for (i64 b = 0; b < k_ / 32; ++b, out += 32) {
    const std::byte* block = panel + b * block_bytes(segment->format);
    const std::byte* quants = block + quants_offset(segment->format) + column * 4;
    const float d = half(block);
    // d (u - c) has one rounding at most, d u + m one: the same as GGUF's own formulas.
    if (segment->format == WeightFormat::kQ8_0) {
      for (i64 i = 0; i < 32; ++i) out[i] = float(int(quants[i / 4 * 64 + i % 4]) - 128) * d;
      continue;
    }
    const bool has_min = segment->format == WeightFormat::kQ4_1;
    const float m = has_min ? half(block + 32) : 0;
    for (i64 i = 0; i < 16; ++i) {
      const int byte = int(quants[i / 4 * 64 + i % 4]);
      for (int nibble : {0, 1}) {
        const int u = nibble ? byte >> 4 : byte & 15;
        out[i + 16 * nibble] = has_min ? float(u) * d + m : float(u - 8) * d;
      }
    }
  }
}

}  // namespace weft
