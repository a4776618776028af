#include "ops/gemm/gemm.h"

#include <algorithm>

#include "ops/gemm/dispatch.h"
#include "ops/gpu.h"

namespace weft {
namespace {

GemmKernels::Gemm kernel_for(const GemmKernels& kernels, WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return kernels.f32;
    case WeightFormat::kBF16: return kernels.bf16;
    case WeightFormat::kQ4_0: return kernels.q4_0;
    case WeightFormat::kQ4_1: return kernels.q4_1;
    case WeightFormat::kQ8_0: return kernels.q8_0;
  }
  return nullptr;
}

// Columns [begin, end) of one segment, counted from its first; `begin` on a panel border.
struct Columns {
  const Weight::Segment& segment;
  i64 begin, end;
};

GemmKernelArgs kernel_args(const ActivationView& x, const Columns& columns) {
  return {.x = x.data,
          .x_stride = x.row_bytes(),
          .rows = x.rows,
          .k = x.k,
          .panels = columns.segment.panel(columns.begin / Weight::kPanel),
          .panel_bytes = i64(columns.segment.panel_bytes),
          .columns = columns.end - columns.begin,
          .out = nullptr,
          .out_stride = 0,
          .bias = nullptr,
          .accumulate = false};
}

Status check_gemm(const GemmArgs& args) {
  WEFT_TRY(check_gemm_input(args.x, args.w));
  const i64 m = args.x.rows, n = args.w.n();
  WEFT_TRY(expect_tensor("y", args.y, DType::kF32, {m, n}).with_context("gemm with " + args.w.name()));
  if (args.y.device != DeviceKind::kCpu || args.y.byte_strides[0] % 4 != 0 || (m > 0 && n > 0 && !args.y.data)) {
    return error(Code::kInvalidArgument, "gemm with {}: y: expected CPU memory in rows of whole floats", args.w.name());
  }
  if (args.bias.data) {
    WEFT_TRY(expect_tensor("bias", args.bias, DType::kF32, {n}).with_context("gemm with " + args.w.name()));
  }
  return {};
}

}  // namespace

const GemmKernels& gemm_kernels(CpuIsa isa) {
  WEFT_CHECK(cpu_supports(isa), cpu_isa_name(isa));
  switch (isa) {
    case CpuIsa::kGeneric: return kGemmGeneric;
#if defined(__x86_64__)
    case CpuIsa::kAvx2: return kGemmAvx2;
    case CpuIsa::kAvx512: return kGemmAvx512;
    case CpuIsa::kAvx512Vnni: return kGemmAvx512Vnni;
    case CpuIsa::kAmx: return kGemmAmx;
#endif
    default: return kGemmGeneric;
  }
}

Status check_gemm_input(const ActivationView& x, const Weight& w) {
  if (x.format != w.activation_format() || x.k != w.k() || x.rows < 0 || x.device != DeviceKind::kCpu ||
      w.device() != DeviceKind::kCpu || (x.rows > 0 && x.k > 0 && !x.data)) {
    return error(Code::kInvalidArgument,
                 "gemm with {} [{}, {}]: x: expected {} [any, {}] on the CPU, found {} [{}, {}]{}", w.name(), w.n(),
                 w.k(), activation_format_name(w.activation_format()), w.k(), activation_format_name(x.format), x.rows,
                 x.k,
                 w.device() != DeviceKind::kCpu ? ", the weight on a GPU"
                 : x.device != DeviceKind::kCpu ? " on a GPU"
                 : x.data                       ? ""
                                                : " without memory");
  }
  return {};
}

Status gemm_with(const GemmKernels& kernels, Exec& exec, const GemmArgs& args) {
  WEFT_TRY(check_gemm(args));
  i64 panels = 0;
  for (const Weight::Segment& segment : args.w.segments()) panels += segment.panels();
  const Range share = exec.share(panels);
  i64 first = 0;  // the segment's first panel among all
  for (const Weight::Segment& segment : args.w.segments()) {
    const i64 begin = std::max<i64>(share.begin - first, 0), end = std::min(share.end - first, segment.panels());
    first += segment.panels();
    if (begin >= end || args.x.rows == 0) continue;
    const i64 column = begin * Weight::kPanel;
    const i64 column_end = std::min(end * Weight::kPanel, segment.n_end - segment.n_begin);
    GemmKernelArgs call = kernel_args(args.x, {segment, column, column_end});
    call.out = args.y.row<float>(0) + segment.n_begin + column;
    call.out_stride = args.y.byte_strides[0] / 4;
    call.bias = args.bias.data ? args.bias.as<float>() + segment.n_begin + column : nullptr;
    call.accumulate = args.accumulate;
    kernel_for(kernels, segment.format)(call);
  }
  return exec.sync();
}

void gemm_tile_with(const GemmKernels& kernels, const ActivationView& x, const Weight& w, const GemmTile& tile,
                    float* out, i64 out_stride, const float* bias) {
  WEFT_CHECK(x.format == w.activation_format() && x.k == w.k(), w.name(), x.k, w.k());
  WEFT_CHECK(0 <= tile.n_begin && tile.n_begin <= tile.n_end && tile.n_end <= w.n(), tile.n_begin, tile.n_end, w.n());
  const ActivationView rows = x.slice(tile.m_begin, tile.m_end);
  if (rows.rows == 0) return;
  for (const Weight::Segment& segment : w.segments()) {
    i64 begin = std::max(tile.n_begin, segment.n_begin) - segment.n_begin;
    const i64 end = std::min(tile.n_end, segment.n_end) - segment.n_begin;
    if (begin >= end) continue;
    float* target = out + segment.n_begin - tile.n_begin;  // of the segment's column 0
    const GemmKernels::Gemm kernel = kernel_for(kernels, segment.format);
    if (const i64 skip = begin % Weight::kPanel; skip != 0) {
      // A later segment need not begin where a tile does: compute the cut panel row by row and keep its end.
      const i64 cut_end = std::min(begin - skip + Weight::kPanel, end);
      for (i64 i = 0; i < rows.rows; ++i) {
        float panel[Weight::kPanel];
        GemmKernelArgs call = kernel_args(rows.slice(i, i + 1), {segment, begin - skip, cut_end});
        call.out = panel;
        call.bias = bias ? bias + segment.n_begin + begin - skip : nullptr;
        kernel(call);
        std::copy(panel + skip, panel + (cut_end - begin + skip), target + i * out_stride + begin);
      }
      begin = cut_end;
    }
    if (begin >= end) continue;
    GemmKernelArgs call = kernel_args(rows, {segment, begin, end});
    call.out = target + begin;
    call.out_stride = out_stride;
    call.bias = bias ? bias + segment.n_begin + begin : nullptr;
    kernel(call);
  }
}

Status gemm(Exec& exec, const GemmArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::gemm(exec, args);
  static const GemmKernels& kernels = gemm_kernels(cpu_isa());
  return gemm_with(kernels, exec, args);
}

void gemm_tile(const ActivationView& x, const Weight& w, const GemmTile& tile, float* out, i64 out_stride,
               const float* bias) {
  static const GemmKernels& kernels = gemm_kernels(cpu_isa());
  gemm_tile_with(kernels, x, w, tile, out, out_stride, bias);
}

}  // namespace weft
