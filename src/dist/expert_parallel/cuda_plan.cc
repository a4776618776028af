#include "dist/expert_parallel/cuda_plan.h"

#include <algorithm>

#include "dist/exchange/plan.h"

namespace weft::ep {
namespace {

Status expect(const char* field, bool holds, const char* expected, i64 found) {
  if (holds) return {};
  return error(Code::kInvalidArgument, "expert parallel: {}: expected {}, found {}", field, expected, found);
}

i64 local_experts(const CudaWire& w) {
  return divide_up(w.experts, w.ranks);
}

}  // namespace

Result<CudaWire> plan_cuda_wire(const AllToAllShape& s, const AllToAllOptions& o) {
  constexpr i64 kMostTokens = i64(1) << 20, kMostBytes = i64(1) << 20;
  const auto between = [](i64 value, i64 least, i64 most) { return value >= least && value <= most; };
  const i64 unit = 16 / dtype_bytes(o.combine_dtype, 1);
  WEFT_TRY(expect("world_size", between(s.world_size, 1, 8), "1 to 8", s.world_size));
  WEFT_TRY(expect("dp_size", s.dp_size >= 1 && s.world_size % s.dp_size == 0, "a divisor of world_size", s.dp_size));
  WEFT_TRY(expect("max_num_tokens", between(s.max_num_tokens, 1, kMostTokens), "1 to 2^20", s.max_num_tokens));
  WEFT_TRY(expect("num_experts", between(s.num_experts, 1, kCudaMostExperts), "1 to 65535", s.num_experts));
  WEFT_TRY(expect("experts_per_token", between(s.experts_per_token, 1, std::min<i64>(s.num_experts, kCudaMostPerToken)),
                  "1 to num_experts and 16", s.experts_per_token));
  WEFT_TRY(expect("hidden_dim", between(s.hidden_dim, 1, kMostBytes) && s.hidden_dim % unit == 0,
                  "rows of combine_dtype in whole 16 bytes", s.hidden_dim));
  WEFT_TRY(expect("hidden_dim_bytes", between(s.hidden_dim_bytes, 16, kMostBytes) && s.hidden_dim_bytes % 16 == 0,
                  "a multiple of 16", s.hidden_dim_bytes));
  WEFT_TRY(expect("hidden_dim_scale_bytes",
                  between(s.hidden_dim_scale_bytes, 0, kMostBytes) && s.hidden_dim_scale_bytes % 4 == 0,
                  "a multiple of 4", s.hidden_dim_scale_bytes));
  WEFT_TRY(expect("expert_capacity", between(o.expert_capacity, 0, i64(1) << 24), "0 to 2^24", o.expert_capacity));
  CudaWire w;
  w.ranks = s.world_size;
  w.dp_size = s.dp_size;
  w.max_tokens = int(s.max_num_tokens);
  w.source_tokens = int(divide_up(s.max_num_tokens, s.dp_size));
  w.experts = int(s.num_experts);
  w.per_token = int(s.experts_per_token);
  const i64 capacity = o.expert_capacity > 0 ? o.expert_capacity : s.max_num_tokens * (w.ranks / w.dp_size);
  w.x_words = int(s.hidden_dim_bytes / 16);
  w.scale_bytes = int(s.hidden_dim_scale_bytes);
  w.words = w.x_words + int(divide_up(w.scale_bytes, 16));
  w.groups = int(divide_up(w.words, 32));
  w.row_words = int(round_up(w.words + w.groups, kFlagLineBytes / 16));
  w.id_words = int(divide_up(w.per_token, 4));
  w.y_words = int(dtype_bytes(o.combine_dtype, s.hidden_dim) / 16);
  w.exact = o.combine == CombineMode::kExact;
  w.parts = w.exact ? w.per_token : w.ranks;
  // Work is counted in 32 bits.
  const i64 rows = i64(w.source_tokens) * w.ranks, chunks = std::max(w.groups, w.y_words);
  if (local_experts(w) * capacity > INT32_MAX || rows * std::max<i64>(chunks, w.per_token) > INT32_MAX)
    return error(Code::kInvalidArgument, "expert parallel: max_num_tokens: {} tokens are more than the GPU form counts",
                 s.max_num_tokens);
  w.capacity = int(capacity);
  return w;
}

CudaBuffers plan_cuda_buffers(const CudaWire& w, u64 base, i64* bytes) {
  SymmetricLayout m;
  const i64 rows = 2 * i64(w.ranks) * w.source_tokens;
  const auto lines = [&](i64 count) { return base + u64(m.reserve<std::byte>(count * kFlagLineBytes)); };
  const auto words = [&](i64 count) { return base + u64(m.reserve<Word>(count)); };
  CudaBuffers b;
  b.dispatched = {lines(1)};
  b.combined = {lines(1)};
  b.dispatch_begun = {lines(w.ranks)};
  b.combine_begun = {lines(w.ranks)};
  b.headers = {lines(2 * w.ranks)};
  b.ids = {words(rows * w.id_words)};
  b.weights = {base + u64(m.reserve<u64>(w.exact ? 0 : rows * w.per_token))};
  b.rows = {words(rows * w.row_words)};
  b.parts = {words(2 * i64(w.parts) * w.max_tokens * w.y_words)};
  *bytes = m.bytes();
  return b;
}

CudaExchangeGrid plan_cuda_dispatch(const CudaWire& w, int tokens, int max_ctas, bool send, bool receive) {
  CudaExchangeGrid grid;
  const i64 items = std::max<i64>(1, i64(tokens) * w.ranks) * w.groups;  // of one group each
  const auto size_up = [&](i64 ctas) {
    grid.ctas = int(std::clamp<i64>(ctas, 1, std::max(1, max_ctas)));
    grid.wide = items >= i64(kCudaWarps) * grid.ctas * 2;
    grid.pushers = 0;
    if (send && receive && w.ranks > 1 && grid.ctas >= 16 && tokens >= 96)
      grid.pushers = grid.ctas / (tokens >= 1024 ? 4 : 8);
    grid.mask_words = 1;
    grid.shared_bytes = 0;
    if (!receive) return;
    // A CTA receives a run of chunks of rows in the order (token, source): the tokens it touches, both ends included.
    const i64 chunks = grid.wide ? divide_up(w.groups, kCudaDispatchUnroll) : w.groups;
    const i64 per_cta = divide_up(i64(w.source_tokens) * w.ranks * chunks, grid.ctas - grid.pushers);
    const i64 most_tokens = std::min<i64>(w.source_tokens, (per_cta / chunks + 2) / w.ranks + 2);
    grid.mask_words = int(divide_up(most_tokens, 32));
    grid.shared_bytes = w.ranks * local_experts(w) * (2 + grid.mask_words) * i64(sizeof(u32)) +
                        most_tokens * w.ranks * w.per_token * i64(sizeof(i32));
  };
  size_up(items);
  if (grid.shared_bytes > kCudaSharedBytes) size_up(max_ctas);  // few tokens here, but other ranks may send many
  return grid;
}

CudaExchangeGrid plan_cuda_combine(const CudaWire& w, int tokens, int max_ctas, bool send, bool receive) {
  CudaExchangeGrid grid;
  const i64 items = std::max<i64>(1, i64(tokens) * std::max(1, w.ranks - 1)) * divide_up(w.y_words, 32);
  grid.ctas = int(std::clamp<i64>(divide_up(items, 3), 1, std::max(1, max_ctas)));
  grid.wide = items >= i64(kCudaWarps) * grid.ctas;
  if (send && receive && w.ranks > 1 && tokens >= 1024 && grid.ctas >= 16) grid.pushers = grid.ctas / 2;
  return grid;
}

}  // namespace weft::ep
