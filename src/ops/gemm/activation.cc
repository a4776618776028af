#include "ops/gemm/activation.h"

#include <algorithm>
#include <cstring>

#include "device/allocate.h"
#include "ops/gemm/dispatch.h"

namespace weft {

const char* activation_format_name(ActivationFormat format) {
  switch (format) {
    case ActivationFormat::kF32: return "f32";
    case ActivationFormat::kBF16: return "bf16";
    case ActivationFormat::kQ16: return "q16";
    case ActivationFormat::kF16: return "f16";
  }
  return "?";
}

i64 activation_row_bytes(ActivationFormat format, i64 k) {
  const i64 bytes =
      format == ActivationFormat::kQ16 ? 2 * k + k / kActivationBlock * 8 : dtype_bytes(activation_dtype(format), k);
  return (bytes + 63) / 64 * 64;
}

DType activation_dtype(ActivationFormat format) {
  WEFT_CHECK(format != ActivationFormat::kQ16);
  return format == ActivationFormat::kF32 ? DType::kF32 : format == ActivationFormat::kF16 ? DType::kF16 : DType::kBF16;
}

ActivationFormat plain_format(DType dtype) {
  WEFT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16);
  return dtype == DType::kF32   ? ActivationFormat::kF32
         : dtype == DType::kF16 ? ActivationFormat::kF16
                                : ActivationFormat::kBF16;
}

Result<TensorView> activation_matrix(const char* tensor, const ActivationView& view) {
  if (view.format == ActivationFormat::kQ16) {
    return error(Code::kUnimplemented, "{}: {} rows are no matrix", tensor, activation_format_name(view.format));
  }
  TensorView matrix = TensorView::dense(view.data, activation_dtype(view.format), {view.rows, view.k}, view.device);
  matrix.byte_strides[0] = view.row_bytes();
  return matrix;
}

Result<ActivationBuffer> ActivationBuffer::create(DeviceKind device, ActivationFormat format, i64 rows, i64 k) {
  ActivationBuffer buffer{.storage = {}, .format = format, .k = k};
  WEFT_ASSIGN(buffer.storage, allocate(device, size_t(activation_row_bytes(format, k) * rows)));
  return buffer;
}

void store_activation_row_with(const GemmKernels& kernels, const float* x, const ActivationView& out, i64 i) {
  WEFT_CHECK(0 <= i && i < out.rows, i, out.rows);
  switch (out.format) {
    case ActivationFormat::kF32:
      if (out.k) std::memcpy(out.row(i), x, size_t(out.k) * 4);
      return;
    case ActivationFormat::kBF16: return kernels.store_bf16(x, out.k, out.row(i));
    case ActivationFormat::kQ16:
      WEFT_CHECK(out.k % kActivationBlock == 0, out.k);
      return kernels.store_q16(x, out.k, out.row(i));
    case ActivationFormat::kF16: break;  // refused by expect_activation()
  }
  WEFT_CHECK(false, int(out.format));
}

void store_activation_row(const float* x, const ActivationView& out, i64 i) {
  static const GemmKernels& kernels = gemm_kernels(cpu_isa());
  store_activation_row_with(kernels, x, out, i);
}

void store_activation_span(const float* x, const ActivationView& out, i64 i, i64 begin, i64 end) {
  static const GemmKernels& kernels = gemm_kernels(cpu_isa());
  WEFT_CHECK(0 <= i && i < out.rows && 0 <= begin && begin <= end && end <= out.k, i, out.rows, begin, end, out.k);
  if (begin == end) return;
  if (out.format == ActivationFormat::kF32) {
    std::memcpy(out.row(i) + begin * 4, x, size_t(end - begin) * 4);
  } else if (out.format == ActivationFormat::kBF16) {
    kernels.store_bf16(x, end - begin, out.row(i) + begin * 2);
  } else {
    WEFT_CHECK(out.format == ActivationFormat::kQ16, int(out.format));
    constexpr i64 kBlock = kActivationBlock, kChunk = 16 * kBlock;
    WEFT_CHECK(begin % kBlock == 0 && end % kBlock == 0, begin, end);
    alignas(64) std::byte row[2 * kChunk + kChunk / kBlock * 8];  // a row of the chunk alone, then taken apart
    std::byte* scales = out.row(i) + 2 * out.k;
    std::byte* sums = scales + out.k / kBlock * 4;
    for (; begin < end; begin += kChunk, x += kChunk) {
      const i64 count = std::min(kChunk, end - begin), blocks = count / kBlock;
      kernels.store_q16(x, count, row);
      std::memcpy(out.row(i) + 2 * begin, row, size_t(2 * count));
      std::memcpy(scales + begin / kBlock * 4, row + 2 * count, size_t(blocks) * 4);
      std::memcpy(sums + begin / kBlock * 4, row + 2 * count + blocks * 4, size_t(blocks) * 4);
    }
  }
}

Status expect_activation(const char* tensor, const ActivationView& view, i64 rows, i64 k) {
  if (view.rows != rows || view.k != k) {
    return error(Code::kInvalidArgument, "{}: expected {} [{}, {}], found [{}, {}]", tensor,
                 activation_format_name(view.format), rows, k, view.rows, view.k);
  }
  if (view.format == ActivationFormat::kQ16 && k % kActivationBlock != 0) {
    return error(Code::kInvalidArgument, "{}: q16 rows need whole blocks of {}, found {} values", tensor,
                 kActivationBlock, k);
  }
  if (view.format == ActivationFormat::kF16) return error(Code::kUnimplemented, "{}: f16 rows on a CPU", tensor);
  return {};
}

}  // namespace weft
