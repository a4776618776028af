// Weight: a matrix [n, k] packed once at load for the GEMM of this machine, or kept plain on its GPU.
#pragma once
#include <span>
#include <vector>

#include "base/huge_buffer.h"
#include "ops/gemm/activation.h"

namespace weft {

// What to pack: `rows` of `raw` in that order (empty = all), columns [k_begin, k_end) of each.
// raw [N, K]: f32, f16, bf16, q8_0, q4_0 or q4_1 on the CPU; row stride allowed; for block-quantised types the column
// borders lie on blocks of 32. The view is read during pack() only.
struct WeightPart {
  TensorView raw;
  std::vector<i64> rows;
  i64 k_begin = 0;
  i64 k_end = -1;  // -1 = K
};

// How a segment's numbers are kept.
// f16 is kept as f32; nothing is rounded. No format takes more bytes than the tensor in its file, but for f16.
enum class WeightFormat : u8 { kF32, kBF16, kQ4_0, kQ4_1, kQ8_0 };
const char* weight_format_name(WeightFormat format);

// Computes y = x W^T for x [m, k]. Several parts (for instance Q, K and V) stand below one another in n.
// Parts of different format become separate segments with columns in the order given.
class Weight {
 public:
  // Errors: kInvalidArgument naming `name` and the part for mismatching widths, row indices out of range, borders off
  // the block grid; kUnimplemented for an unsupported dtype. n may be 0 (a rank without a share). k may be 0.
  static Result<Weight> pack(const std::string& name, std::span<const WeightPart> parts);

  // A matrix [n, k] bf16 or f16 in CUDA memory, which is there before the first operator that reads it is launched; the
  // form that operators on GPUs take. Errors: kInvalidArgument naming `name` for another tensor.
  static Result<Weight> on_gpu(std::string name, Tensor matrix);
  // This packed weight as such a matrix on the current GPU. What is no bf16 is rounded to it.
  // Errors: those of copy_to().
  Result<Weight> copy_to_gpu() const;

  Weight() = default;
  i64 n() const { return n_; }
  i64 k() const { return k_; }
  const std::string& name() const { return name_; }
  // The format that gemm() expects of x. kQ16 for quantised segments, kBF16 for bf16, kF32 for f32 and mixtures of
  // plain types; a mixture of quantised and plain segments is refused by pack(). On a GPU that of the matrix.
  ActivationFormat activation_format() const { return activation_format_; }
  DeviceKind device() const { return matrix_.view.device; }
  // On a GPU; of a packed weight an empty view, which operators on GPUs refuse.
  const TensorView& matrix() const { return matrix_.view; }
  size_t bytes() const;
  // Row `row` of a packed matrix as f32, exactly the packed numbers: out [k].
  void dequantize_row(i64 row, float* out) const;
  // All rows, one behind the other: out [n, k]. What is no bf16 is rounded to it.
  void round_to_bf16(bf16* out) const;

  // One run of columns in one format, in panels of kPanel columns (zero-padded) as the kernels read them (kernels.h).
  static constexpr i64 kPanel = 16;
  struct Segment {
    WeightFormat format;
    i64 n_begin = 0, n_end = 0;
    HugeBuffer data;
    std::byte* panel(i64 index) const { return data.data() + size_t(index) * panel_bytes; }
    i64 panels() const { return (n_end - n_begin + kPanel - 1) / kPanel; }
    size_t panel_bytes = 0;
  };
  std::span<const Segment> segments() const { return segments_; }

 private:
  std::string name_;
  i64 n_ = 0, k_ = 0;
  ActivationFormat activation_format_ = ActivationFormat::kF32;
  std::vector<Segment> segments_;  // on the CPU
  Tensor matrix_;                  // on a GPU
};

}  // namespace weft
