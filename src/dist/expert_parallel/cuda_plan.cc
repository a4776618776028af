#include "dist/expert_parallel/cuda_plan.h"

#include <algorithm>

#include "dist/expert_parallel/plan.h"

namespace weft::ep {
namespace {

Status expect(const char* field, bool holds, const char* expected, i64 found) {
  if (holds) return {};
  return error(Code::kInvalidArgument, "expert parallel: {}: expected {}, found {}", field, expected, found);
}

// The fewest groups at a time with which `warps` warps have one piece each, or the most there are.
int unroll_for(i64 groups, i64 warps, int most) {
  int unroll = 1;
  while (unroll < most && divide_up(groups, unroll) > warps) unroll *= 2;
  return unroll;
}

// Every CTA holds the routing of all tokens: from so many rows on it gains up to 4 %, below it loses 2 %; in so much shared
// memory, which is cleared in each call.
constexpr i64 kLeastWholeRows = 256, kMostWholeBytes = 32 << 10;

i64 local_experts(const CudaWire& w) {
  return divide_up(w.experts, w.ranks);
}

}  // namespace

void CudaWire::derive() {
  each = experts / ranks;
  extra = experts % ranks;
  by_ranks = Divisor(ranks);
  by_dp = Divisor(dp_size);
  by_per_token = Divisor(std::max(1, per_token));
  by_id_words = Divisor(std::max(1, id_words));
  by_each = Divisor(std::max(1, each));
  by_each_and_one = Divisor(each + 1);
  by_capacity = Divisor(std::max(1, capacity));
}

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
  WEFT_TRY(expect_cast_sizes(s, o));
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
  w.derive();
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
  b.known_weights = {base + u64(m.reserve<u64>(w.exact ? 0 : rows * w.per_token))};
  b.rows = {words(rows * w.row_words)};
  b.parts = {words(2 * i64(w.parts) * w.max_tokens * w.y_words)};
  *bytes = m.bytes();
  return b;
}

CudaDispatchGrid plan_cuda_dispatch(const CudaWire& w, int tokens, int max_ctas, bool send, bool receive,
                                    int element_bytes) {
  CudaDispatchGrid grid;
  const i64 groups = std::max<i64>(1, i64(tokens) * w.ranks) * w.groups;
  const auto size_up = [&](i64 movers) {
    grid.ctas = int(std::clamp<i64>(movers + 1, 2, std::max(2, max_ctas)));
    grid.clerk = grid.ctas - 1;
    grid.pushers = send && receive && grid.ctas >= 16 && tokens * (w.ranks - 1) >= 64 ? grid.ctas / 5 : 0;
    grid.herald = grid.pushers > 0 ? grid.pushers - 1 : grid.clerk;
    if (receive && w.ranks > 1 && grid.pushers == 0 && grid.ctas < max_ctas) grid.herald = grid.ctas++;
    grid.takers = Divisor(grid.movers() - grid.pushers);
    grid.spans = Divisor(grid.pushers > 0 ? grid.takers.value : 1);
    grid.unroll = unroll_for(groups, i64(kCudaWarps) * grid.takers.value, 4 / element_bytes);
    grid.chunks = Divisor(divide_up(w.groups, grid.unroll));
    grid.token_pieces = Divisor(w.ranks * i64(grid.chunks.value));
    grid.first_quads = Divisor(kCudaThreads / w.ranks);
    grid.mask_words = 1;
    grid.shared_bytes = 0;
    if (!receive) return;
    // A CTA receives a run of pieces of rows in the order (token, source): the tokens it touches, both ends included.
    const i64 chunks = grid.chunks.value;
    const i64 per_cta = divide_up(i64(w.source_tokens) * w.ranks * chunks, grid.takers.value);
    const auto hold = [&](i64 held_tokens) {
      grid.mask_words = int(divide_up(held_tokens, 32));
      grid.row_words = int(round_up(w.ranks * grid.mask_words, 4));
      const i64 others = grid.whole ? 0 : 2 * w.ranks;
      // Behind the bits and counts, whose number is even, the indices.
      grid.shared_bytes = local_experts(w) * (grid.row_words + others) * i64(sizeof(u32)) +
                          held_tokens * w.ranks * w.id_words * i64(sizeof(uint64_t));
    };
    grid.whole = i64(tokens) * w.ranks >= kLeastWholeRows &&
                 i64(w.source_tokens) * w.id_words <= CudaDispatchGrid::kFirstQuads * i64(grid.first_quads.value);
    hold(w.source_tokens);
    grid.whole = grid.whole && grid.shared_bytes <= kMostWholeBytes;
    if (!grid.whole) hold(std::min<i64>(w.source_tokens, (per_cta / chunks + 2) / w.ranks + 2));
  };
  size_up(divide_up(groups, 8));
  if (grid.shared_bytes > kCudaSharedBytes) size_up(max_ctas);  // few tokens here, but other ranks may send many
  return grid;
}

CudaCombineGrid plan_cuda_combine(const CudaWire& w, int tokens, int max_ctas, bool send, bool receive) {
  CudaCombineGrid grid;
  // Own tokens travel only for other members of the group.
  grid.sends = !send || w.ranks == 1 ? 0 : w.dp_size > 1 ? w.ranks : w.ranks - 1;
  grid.receives = receive ? w.dp_size : 0;
  grid.by_sends = Divisor(std::max(1, grid.sends));
  grid.by_receives = Divisor(std::max(1, grid.receives));
  const i64 rows = std::max(1, grid.sends + grid.receives), most = std::max(1, tokens);
  const i64 most_movers = std::max(2, max_ctas) - 1, most_warps = most_movers * kCudaWarps;
  const i64 groups = divide_up(w.y_words, 32);
  grid.unroll = 2 * most * groups <= most_warps ? 1 : 2;  // small pieces while each pair has two warps
  grid.chunks = Divisor(divide_up(groups, grid.unroll));
  const i64 chunks = grid.chunks.value, pairs = most * chunks;
  i64 movers = most_movers;
  if (pairs <= most_warps) {
    grid.shares = int(std::min(most_warps / pairs, rows));
    movers = std::clamp<i64>(divide_up(pairs * grid.shares, kCudaWarps / 2), 1, most_movers);
    grid.stride = Divisor(pairs);
  } else if (grid.sends > 0) {
    // Each warp sends a piece in each of several turns.
    const i64 sent = most * grid.sends * chunks;
    movers = divide_up(divide_up(sent, divide_up(sent, most_warps)), kCudaWarps);
    grid.window = int(std::clamp<i64>(movers * kCudaWarps / (grid.sends * chunks), 1, most));
  } else {
    grid.window = int(most);
  }
  grid.by_window = Divisor(grid.window * rows);
  grid.clerk = int(movers);
  grid.ctas = grid.clerk + 1;
  return grid;
}

}  // namespace weft::ep
