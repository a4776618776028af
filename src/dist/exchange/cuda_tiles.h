// How GPUs cut elements into tiles, and what their operators check. Host side.
#pragma once
#include <algorithm>

#include "dist/exchange/plan.h"
#include "dist/exchange/words.h"

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

// Threads of a CTA of two crews at most: more would leave a lane too few registers for the packs it has under way.
inline constexpr int kWordsThreads = 512;

// CTAs and threads for `packs` packs without flags (words.h), by `crews` crews of a CTA.
inline CudaGrid cuda_words_grid(i64 packs, int crews, int max_ctas) {
  const int lanes = packs <= 128 * max_ctas ? 128 : 256;
  return {int(std::clamp<i64>(divide_up(packs, lanes), 1, std::max(max_ctas, 1))), lanes * crews};
}

// Rows split over ranks as split_range() splits them, with the division done.
struct RowSplit {
  i64 base, extra;
  RowSplit(i64 rows, int ranks) : base(rows / ranks), extra(rows % ranks) {}
  WEFT_HD i64 size(int rank) const { return base + (rank < extra ? 1 : 0); }
  WEFT_HD i64 begin(int rank) const { return rank * base + (rank < extra ? rank : extra); }
};

// Reserves an inbox for messages of up to `bytes` bytes from each rank; with room for escapes where bits travel.
struct BareInboxPlace {
  i64 packs, escapes, most;
  static BareInboxPlace reserve(SymmetricLayout& layout, int ranks, i64 bytes, bool bits) {
    const i64 most = bare_packs(bytes), all = 2 * ranks * most;
    const i64 at = layout.reserve<BareWords>(all);
    return {at, bits ? layout.reserve<LlWord>(all) : 0, most};
  }
  BareInbox at(sym<std::byte> base) const {
    return {SymmetricLayout::at<BareWords>(base, packs), SymmetricLayout::at<LlWord>(base, escapes), most};
  }
};

// `tensor` must be dense in CUDA memory, 16-byte aligned.
inline Status expect_cuda(const char* op, const char* tensor, const TensorView& view) {
  WEFT_TRY(expect_dense(op, tensor, view));
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "{}: {}: not in CUDA memory", op, tensor);
  if (reinterpret_cast<uintptr_t>(view.data) % 16 == 0) return {};
  return error(Code::kInvalidArgument, "{}: {}: address {} is not a multiple of 16", op, tensor,
               static_cast<void*>(view.data));
}

}  // namespace weft
