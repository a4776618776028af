// ActivationView: rows in the format that the next GEMM reads.
#pragma once
#include "base/aligned_buffer.h"
#include "base/tensor.h"

namespace weft {

enum class ActivationFormat : u8 {
  kF32,   // row: K floats
  kBF16,  // row: K bf16
  kQ16,   // row: K 16-bit integers q in blocks of 32, then K/32 f32 scales, then K/32 f32 sums: x[k] = scale[k/32] *
         // q[k], sum[b] = scale[b] * (sum of q in b). A block is 32 i8 high halves, then 32 i8 low ones: q = 256 high +
         // low, so that instructions for bytes multiply it with 4- and 8-bit weights.
  kF16,  // row: K f16; GPUs
};
constexpr i64 kActivationFormats = 4;
constexpr i64 kActivationBlock = 32;

const char* activation_format_name(ActivationFormat format);

// Bytes from one row to the next: the row itself rounded up to 64, so that every row starts on a cache line.
i64 activation_row_bytes(ActivationFormat format, i64 k);

// A view on `rows` rows of `k` values; a row is one contiguous run of row_bytes() bytes, so that operators that
// move rows between ranks need not know the format. Never owns. kQ16 needs k divisible by 32.
struct ActivationView {
  std::byte* data = nullptr;
  ActivationFormat format = ActivationFormat::kF32;
  DeviceKind device = DeviceKind::kCpu;
  i64 rows = 0;
  i64 k = 0;

  i64 row_bytes() const { return activation_row_bytes(format, k); }
  std::byte* row(i64 i) const { return data + i * row_bytes(); }
  const float* row_f32(i64 i) const { return reinterpret_cast<const float*>(row(i)); }
  const bf16* row_bf16(i64 i) const { return reinterpret_cast<const bf16*>(row(i)); }
  i32 quant(i64 i, i64 j) const {  // kQ16: q of value j of row i
    const auto* high =
        reinterpret_cast<const i8*>(row(i)) + j / kActivationBlock * 2 * kActivationBlock + j % kActivationBlock;
    return 256 * high[0] + high[kActivationBlock];
  }
  const float* row_scales(i64 i) const { return reinterpret_cast<const float*>(row(i) + 2 * k); }
  const float* row_sums(i64 i) const { return row_scales(i) + k / kActivationBlock; }
  ActivationView slice(i64 begin, i64 end) const {
    WEFT_CHECK(0 <= begin && begin <= end && end <= rows, begin, end, rows);
    return {row(begin), format, device, end - begin, k};
  }
};

// Writes one row: `x` [k] f32 -> row `i` of `out`, rounding to nearest even. kQ16 per block of 32: scale = max|x| /
// 32512, q = round(x * (32512 / max|x|)), so that |q| <= 127 * 256; a block below 2^-100 counts as zeros and has scale
// 0; a block with a NaN or an infinity has scale NaN, so that the fault shows in the result. The bits depend on this
// row alone, and are the same for every instruction set. Every operator that produces GEMM input ends with this.
void store_activation_row(const float* x, const ActivationView& out, i64 i);

// The same for values [begin, end) of row `i` alone, so that threads may share a row; x points at value `begin`. For
// kQ16 the borders are multiples of kActivationBlock. The bits equal store_activation_row's.
void store_activation_span(const float* x, const ActivationView& out, i64 i, i64 begin, i64 end);

// The type of a row's numbers; not of kQ16. And the other way round: f32, bf16 or f16.
DType activation_dtype(ActivationFormat format);
ActivationFormat plain_format(DType dtype);

// The rows as a matrix. Errors: kUnimplemented naming `tensor` for kQ16, whose rows are no plain numbers.
Result<TensorView> activation_matrix(const char* tensor, const ActivationView& view);

// An error that names `tensor` unless its extents are [rows, k] and its format can hold them on a CPU.
Status expect_activation(const char* tensor, const ActivationView& view, i64 rows, i64 k);

// An owned activation buffer for up to `rows` rows.
struct ActivationBuffer {
  AlignedBuffer storage;
  ActivationFormat format = ActivationFormat::kF32;
  i64 k = 0;
  static ActivationBuffer create(ActivationFormat format, i64 rows, i64 k) {
    return {AlignedBuffer(size_t(activation_row_bytes(format, k) * rows)), format, k};
  }
  // The same on either device. Errors: those of allocate().
  static Result<ActivationBuffer> create(DeviceKind device, ActivationFormat format, i64 rows, i64 k);
  ActivationView view(i64 rows) const {
    WEFT_CHECK(size_t(activation_row_bytes(format, k) * rows) <= storage.size(), rows, k, storage.size());
    return {storage.data(), format, storage.device(), rows, k};
  }
};

}  // namespace weft
