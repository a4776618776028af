// How GPUs cut elements into tiles, and what their operators check. Host side.
#pragma once
#include <algorithm>

#include "dist/exchange/plan.h"

namespace weft {

// CTAs that an operator launches at most, and so tiles of one rank's share: flags are laid out for these.
inline constexpr int kCudaMaxCtas = 128;

// At most `count` tiles of whole units of kTileUnit elements; one empty tile for no elements.
WEFT_HD Tiles cut_into(i64 elements, i64 count) {
  const i64 even = divide_up(elements, count);
  const i64 stride = even > 0 ? round_up(even, kTileUnit) : kTileUnit;
  const i64 tiles = divide_up(elements, stride);
  return {tiles > 0 ? tiles : 1, stride, elements};
}

// CTAs and threads for moving `bytes` per rank: 16 bytes per lane until all CTAs are busy.
struct CudaGrid {
  int ctas, threads;
};
inline CudaGrid cuda_grid(i64 bytes, int max_ctas) {
  const int threads = bytes < 1 << 20 ? 512 : 1024;
  const i64 limit = std::clamp(max_ctas, 1, kCudaMaxCtas);
  return {int(std::clamp<i64>(divide_up(bytes, 16 * threads), 1, limit)), threads};
}

enum class CudaForm { kFlags, kLl };

// Forms in which a rank's share travels, by its bytes. Measured on 2 H200s.
struct CudaForms {
  i64 ll_most_bytes = 512 << 10;    // by low-latency words up to so much for all peers together; negative: never
  i64 parts_from_bytes = 16 << 20;  // beyond this a CTA sends and receives by kCudaParts parts in turn
  i64 ll_most_share(int ranks) const { return ll_most_bytes / std::max(ranks - 1, 1); }
  int parts(i64 bytes) const { return bytes > parts_from_bytes ? kCudaParts : 1; }
  static constexpr int kCudaParts = 4;
};

// CTAs and threads for `bytes` by low-latency words: one word per lane until all CTAs are busy.
inline CudaGrid cuda_ll_grid(i64 bytes, int max_ctas) {
  constexpr int kThreads = 512;
  return {int(std::clamp<i64>(divide_up(bytes, i64(sizeof(u32)) * kThreads), 1, std::clamp(max_ctas, 1, kCudaMaxCtas))),
          kThreads};
}

// `tensor` must be dense in CUDA memory, 16-byte aligned.
inline Status expect_cuda(const char* op, const char* tensor, const TensorView& view) {
  WEFT_TRY(expect_dense(op, tensor, view));
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "{}: {}: not in CUDA memory", op, tensor);
  if (reinterpret_cast<uintptr_t>(view.data) % 16 == 0) return {};
  return error(Code::kInvalidArgument, "{}: {}: address {} is not a multiple of 16", op, tensor,
               static_cast<void*>(view.data));
}

}  // namespace weft
