// The attention kernel for the instruction set of the including file. For every KV block of 64 positions:
//   load_keys     widens K into an f32 tile, transposed, so that lanes are positions
//   load_values   widens V into an f32 tile; where all rows fit one register tile, V is read in place instead
//   score_tile    scores of up to 4 rows: a sum over head_dim in ascending order
//   softmax_tile  maximum, weights and sum of each row within the block
//   value_tile    adds the block's weighted values in ascending position
// and either adds the block to what the row has summed so far (attend), or leaves it as a part that merge_parts adds
// later: both do the same operations in the same order, so a sequence's blocks may be shared out over threads.
// A row is one (query, head). Each of its numbers comes from the same operations in the same order whatever rows share
// its tile, and lanes that it does not see are never added.
#pragma once
#include "device/simd.h"
#include "ops/attention/kernels.h"

namespace weft::WEFT_SIMD {
namespace {

constexpr i64 kVectors = kAttentionBlock / 16;
constexpr i64 kTileRows = 4;
#if defined(__AVX512F__)
constexpr i64 kTileVectors = 4;  // accumulators of a full tile: 16 of 32 registers
#else
constexpr i64 kTileVectors = 1;
#endif

// Lanes [lo, hi) of a block.
struct Lanes {
  i64 lo, hi;
  bool operator==(const Lanes&) const = default;
};

i64 smaller(i64 a, i64 b) {
  return a < b ? a : b;
}
i64 larger(i64 a, i64 b) {
  return a > b ? a : b;
}

// Positions that query i sees.
Lanes visible(const AttentionItem& item, i64 i) {
  const i64 position = item.positions[i];
  return {item.window > 0 ? larger(0, position - item.window + 1) : 0, smaller(position + 1, item.kv_len)};
}

// K and V rows of positions [begin, end) within the block that starts at `block`.
template <class T>
struct BlockRows {
  const T* keys[kAttentionBlock];
  const T* values[kAttentionBlock];
};

template <class T>
void find_rows(const AttentionItem& item, i64 block, i64 begin, i64 end, BlockRows<T>& rows) {
  for (i64 position = begin; position < end;) {
    const i64 page = position / item.page_tokens, offset = position - page * item.page_tokens;
    const i64 run = smaller(item.page_tokens - offset, end - position);
    i64 element = item.pages[page] * item.page_stride + offset * item.head_dim;
    for (i64 i = 0; i < run; ++i, ++position, element += item.head_dim) {
      rows.keys[position - block] = static_cast<const T*>(item.keys) + element;
      rows.values[position - block] = static_cast<const T*>(item.values) + element;
    }
  }
}

// Pages lie scattered and the hardware does not guess the next one, so rows are asked for while others are worked on:
// V while K is read, the next block's K while V is read.
template <class T>
void fetch_row(const T* row, i64 head_dim) {
  for (i64 d = 0; d < head_dim; d += 64 / i64(sizeof(T))) __builtin_prefetch(row + d);
}

// Columns [d, d + 16) of 16 lanes -> keys[d..][first_lane..].
template <class T>
void transpose_keys(const T* const* rows, i64 lo, i64 hi, i64 d, i64 count, float* keys) {
  F32x16 tile[16];
  for (i64 lane = 0; lane < 16; ++lane) {
    tile[lane] = lane < lo || lane >= hi ? F32x16::zero()
                 : count == 16           ? F32x16::load(rows[lane] + d)
                                         : F32x16::load_first(rows[lane] + d, count);
  }
  transpose(tile);
  for (i64 i = 0; i < count; ++i) tile[i].store(keys + (d + i) * kAttentionBlock);
}

#if defined(__AVX512F__)
// Columns [d, d + 32): pairs are transposed before they are taken apart.
void transpose_key_pairs(const bf16* const* rows, i64 lo, i64 hi, i64 d, float* keys) {
  F32x16 tile[16];
  for (i64 lane = 0; lane < 16; ++lane) {
    const bool seen = lo <= lane && lane < hi;
    tile[lane] = seen ? F32x16::load(reinterpret_cast<const float*>(rows[lane] + d)) : F32x16::zero();
  }
  transpose(tile);
  for (i64 i = 0; i < 16; ++i) {
    lower_bf16(tile[i]).store(keys + (d + 2 * i) * kAttentionBlock);
    upper_bf16(tile[i]).store(keys + (d + 2 * i + 1) * kAttentionBlock);
  }
}
i64 transpose_all_pairs(const bf16* const* rows, i64 lo, i64 hi, i64 head_dim, float* keys) {
  i64 d = 0;
  for (; d + 32 <= head_dim; d += 32) transpose_key_pairs(rows, lo, hi, d, keys);
  return d;
}
#endif
// Returns how many columns it has done: those that come in pairs.
template <class T>
i64 transpose_all_pairs(const T* const*, i64, i64, i64, float*) {
  return 0;
}

template <class T>
void load_keys(const AttentionItem& item, const BlockRows<T>& rows, Lanes lanes, float* keys) {
  for (i64 first = lanes.lo / 16 * 16; first < lanes.hi; first += 16) {
    const i64 lo = lanes.lo - first, hi = lanes.hi - first;
    for (i64 lane = larger(lo, 0); lane < smaller(hi, 16); ++lane) fetch_row(rows.values[first + lane], item.head_dim);
    for (i64 d = transpose_all_pairs(rows.keys + first, lo, hi, item.head_dim, keys + first); d < item.head_dim;
         d += 16) {
      transpose_keys(rows.keys + first, lo, hi, d, smaller(16, item.head_dim - d), keys + first);
    }
  }
}

template <class T>
void load_values(const AttentionItem& item, const BlockRows<T>& rows, const BlockRows<T>& next, Lanes lanes,
                 AttentionScratch& s) {
  const i64 width = (item.head_dim + 15) / 16 * 16;
  for (i64 lane = lanes.lo; lane < lanes.hi; ++lane) {
    fetch_row(next.keys[lane], item.head_dim);
    for (i64 d = 0; d < width; d += 16) {
      const T* value = rows.values[lane] + d;
      const F32x16 v = d + 16 <= item.head_dim ? F32x16::load(value) : F32x16::load_first(value, item.head_dim - d);
      v.store(s.values + lane * width + d);
    }
  }
}

// R rows x V vectors of lanes from vector `c`.
template <int R, int V>
void score_vectors(const float* const* q, i64 head_dim, const float* keys, i64 c, float* scores) {
  F32x16 sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = F32x16::zero();
  for (i64 d = 0; d < head_dim; ++d) {
    F32x16 k[V];
    for (int v = 0; v < V; ++v) k[v] = F32x16::load(keys + d * kAttentionBlock + 16 * (c + v));
    for (int r = 0; r < R; ++r) {
      const F32x16 x = F32x16::all(q[r][d]);
      for (int v = 0; v < V; ++v) sums[r][v] = fma(x, k[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v].store(scores + r * kAttentionBlock + 16 * (c + v));
}

template <int R>
void score_tile(const float* const* q, i64 head_dim, const float* keys, Lanes lanes, float* scores) {
  i64 c = lanes.lo / 16;
  const i64 end = (lanes.hi + 15) / 16;
  for (; c + kTileVectors <= end; c += kTileVectors) score_vectors<R, kTileVectors>(q, head_dim, keys, c, scores);
  for (; c < end; ++c) score_vectors<R, 1>(q, head_dim, keys, c, scores);
}

// Turns scores into weights; each row's maximum and sum of this block.
template <int R>
void softmax_tile(float scale, Lanes lanes, float* scores, float* largest, float* sum) {
  const F32x16 nothing = F32x16::all(-kInfinity);
  for (int r = 0; r < R; ++r) {
    float* row = scores + r * kAttentionBlock;
    F32x16 best = nothing;
    for (i64 c = lanes.lo / 16; c < (lanes.hi + 15) / 16; ++c) {
      const F32x16 scaled = F32x16::load(row + 16 * c) * F32x16::all(scale);
      const F32x16 seen = select_lanes(lanes.lo - 16 * c, lanes.hi - 16 * c, scaled, nothing);
      best = max(best, seen);
      seen.store(row + 16 * c);
    }
    largest[r] = max_of(best);
    F32x16 weights[kVectors] = {F32x16::zero(), F32x16::zero(), F32x16::zero(), F32x16::zero()};
    for (i64 c = lanes.lo / 16; c < (lanes.hi + 15) / 16; ++c) {
      weights[c] = exp(F32x16::load(row + 16 * c) - F32x16::all(largest[r]));
      weights[c].store(row + 16 * c);
    }
    sum[r] = sum_of((weights[0] + weights[1]) + (weights[2] + weights[3]));
  }
}

// Adds a block's sums to those of rows so far: out = out * old + block's out * fresh, for which it returns the factors.
template <int R>
void merge_sums(const float* block_largest, const float* block_sum, float* largest, float* sum, float* old,
                float* fresh) {
  alignas(64) float drop[16] = {};
  for (int r = 0; r < R; ++r) {
    const float now = block_largest[r] > largest[r] ? block_largest[r] : largest[r];
    drop[r] = largest[r] - now;
    drop[8 + r] = block_largest[r] - now;
    largest[r] = now;
  }
  exp(F32x16::load(drop)).store(drop);
  for (int r = 0; r < R; ++r) {
    old[r] = drop[r];
    fresh[r] = drop[8 + r];
    sum[r] = sum[r] * old[r] + block_sum[r] * fresh[r];
  }
}
F32x16 merge_out(const F32x16& out, float old, const F32x16& block, float fresh) {
  return fma(block, F32x16::all(fresh), out * F32x16::all(old));
}

// Where value_tile finds 16 values of a lane from column d. fetch() goes before the columns [d, d + 16 vectors).
struct ValueTile {
  const float* values;
  i64 width;
  void fetch(i64, i64, int) const {}
  F32x16 operator()(i64 lane, i64 d) const { return F32x16::load(values + lane * width + d); }
};
template <class T>
struct ValuesInPlace {
  const T* const* rows;
  const T* const* next_keys;
  void fetch(i64 lane, i64 d, int vectors) const { fetch_row(next_keys[lane] + d, 16 * vectors); }
  F32x16 operator()(i64 lane, i64 d) const { return F32x16::load(rows[lane] + d); }
};

// How value_tile leaves the block's sums: added to `out`, or as they are where `old` is null.
struct Merge {
  const float* old;
  const float* fresh;
};

template <int R, int V, class Values>
void value_vectors(const float* weights, const Merge& merge, Lanes lanes, const Values& values, i64 d,
                   float* const* out) {
  F32x16 sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = F32x16::zero();
  for (i64 lane = lanes.lo; lane < lanes.hi; ++lane) {
    F32x16 x[V];
    values.fetch(lane, d, V);
    for (int v = 0; v < V; ++v) x[v] = values(lane, d + 16 * v);
    for (int r = 0; r < R; ++r) {
      const F32x16 weight = F32x16::all(weights[r * kAttentionBlock + lane]);
      for (int v = 0; v < V; ++v) sums[r][v] = fma(weight, x[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      float* at = out[r] + d + 16 * v;
      if (merge.old) sums[r][v] = merge_out(F32x16::load(at), merge.old[r], sums[r][v], merge.fresh[r]);
      sums[r][v].store(at);
    }
  }
}

template <int R, class Values>
void value_tile(const float* weights, const Merge& merge, Lanes lanes, const Values& values, i64 width,
                float* const* out) {
  i64 d = 0;
  for (; d + 16 * kTileVectors <= width; d += 16 * kTileVectors)
    value_vectors<R, kTileVectors>(weights, merge, lanes, values, d, out);
  for (; d < width; d += 16) value_vectors<R, 1>(weights, merge, lanes, values, d, out);
}

i64 width_of(const AttentionItem& item) {
  return (item.head_dim + 15) / 16 * 16;
}

// Rows [row, row + R) of the item over one block; into `part` if it is not null.
template <int R, class Values>
void attend_tile(const AttentionItem& item, const Values& values, i64 row, Lanes lanes, float* part,
                 AttentionScratch& s) {
  const i64 width = width_of(item), part_row = attention_part_row(item.head_dim);
  const float* q[R];
  float* out[R];
  for (int r = 0; r < R; ++r) {
    const i64 query = (row + r) / item.heads, head = (row + r) % item.heads;
    q[r] = item.q + query * item.q_stride + head * item.head_dim;
    out[r] = part ? part + (row + r) * part_row : item.out + query * item.out_stride + head * width;
  }
  float largest[R], sum[R], old[R], fresh[R];
  score_tile<R>(q, item.head_dim, s.keys, lanes, s.scores);
  softmax_tile<R>(item.scale, lanes, s.scores, largest, sum);
  if (part) {
    for (int r = 0; r < R; ++r) out[r][width] = largest[r], out[r][width + 1] = sum[r];
    value_tile<R>(s.scores, Merge{nullptr, nullptr}, lanes, values, width, out);
  } else {
    merge_sums<R>(largest, sum, s.largest + row, s.sum + row, old, fresh);
    value_tile<R>(s.scores, Merge{old, fresh}, lanes, values, width, out);
  }
}

// A part of a row that sees nothing of the block, told by its sum.
constexpr float kNothingSeen = -1;
void mark_empty(const AttentionItem& item, float* part, i64 row) {
  part[row * attention_part_row(item.head_dim) + width_of(item) + 1] = kNothingSeen;
}

// Every row over one block; neighbours that see the same lanes share a tile.
template <class Values>
void attend_rows(const AttentionItem& item, const Values& values, i64 block, float* part, AttentionScratch& s) {
  Lanes lanes[kAttentionMaxRows];
  for (i64 i = 0; i < item.queries; ++i) {
    const Lanes seen = visible(item, i);
    lanes[i] = {larger(seen.lo - block, 0), smaller(seen.hi - block, kAttentionBlock)};
  }
  const i64 rows = item.queries * item.heads;
  for (i64 row = 0; row < rows;) {
    const Lanes mine = lanes[row / item.heads];
    i64 count = 1;
    while (count < kTileRows && row + count < rows && lanes[(row + count) / item.heads] == mine) ++count;
    if (mine.lo >= mine.hi && part) {
      for (i64 r = row; r < row + count; ++r) mark_empty(item, part, r);
    } else if (mine.lo < mine.hi) {
      if (count == 1) attend_tile<1>(item, values, row, mine, part, s);
      if (count == 2) attend_tile<2>(item, values, row, mine, part, s);
      if (count == 3) attend_tile<3>(item, values, row, mine, part, s);
      if (count == 4) attend_tile<4>(item, values, row, mine, part, s);
    }
    row += count;
  }
}

template <class T>
void attend_block(const AttentionItem& item, const BlockRows<T>& rows, const BlockRows<T>& next, i64 block, Lanes lanes,
                  float* part, AttentionScratch& s) {
  load_keys(item, rows, lanes, s.keys);
  if (item.queries * item.heads <= kTileRows && item.head_dim % 16 == 0) {
    attend_rows(item, ValuesInPlace<T>{rows.values, next.keys}, block, part, s);
  } else {
    load_values(item, rows, next, lanes, s);
    attend_rows(item, ValueTile{s.values, width_of(item)}, block, part, s);
  }
}

// Positions that any query sees.
Lanes seen_by_any(const AttentionItem& item) {
  Lanes seen{item.kv_len, 0};
  for (i64 i = 0; i < item.queries; ++i) {
    const Lanes mine = visible(item, i);
    if (mine.lo < mine.hi) seen = {smaller(seen.lo, mine.lo), larger(seen.hi, mine.hi)};
  }
  return seen;
}

// Blocks that start in [begin, end); each into its part, `stride` floats apart, if `parts` is not null.
template <class T>
void attend_blocks(const AttentionItem& item, Lanes seen, i64 begin, i64 end, float* parts, i64 stride,
                   AttentionScratch& s) {
  const auto lanes_of = [&](i64 block) {
    return Lanes{larger(seen.lo - block, 0), smaller(seen.hi - block, kAttentionBlock)};
  };
  BlockRows<T> rows[2];  // of this block and the next one, in turns
  find_rows(item, begin, larger(begin, seen.lo), smaller(begin + kAttentionBlock, seen.hi), rows[0]);
  int turn = 0;
  for (i64 block = begin; block < end; block += kAttentionBlock, turn = 1 - turn) {
    const i64 following = block + kAttentionBlock;
    rows[1 - turn] = rows[turn];  // lanes that the next block lacks
    if (following < end) {
      find_rows(item, following, following, smaller(following + kAttentionBlock, seen.hi), rows[1 - turn]);
    }
    attend_block(item, rows[turn], rows[1 - turn], block, lanes_of(block), parts, s);
    if (parts) parts += stride;
  }
}

void clear_row(AttentionScratch& s, i64 row, float* out, i64 width) {
  s.largest[row] = -kInfinity;
  s.sum[row] = 0;
  for (i64 d = 0; d < width; d += 16) F32x16::zero().store(out + d);
}

void divide_row(const AttentionScratch& s, i64 row, float* out, i64 width) {
  const F32x16 inverse = F32x16::all(s.sum[row] == 0 ? 0.0f : 1.0f / s.sum[row]);
  for (i64 d = 0; d < width; d += 16) (F32x16::load(out + d) * inverse).store(out + d);
}

float* out_of(const AttentionItem& item, i64 row) {
  return item.out + row / item.heads * item.out_stride + row % item.heads * width_of(item);
}

}  // namespace

template <class T>
void attend(const AttentionItem& item, AttentionScratch& s) {
  const Lanes seen = seen_by_any(item);
  const i64 width = width_of(item), rows = item.queries * item.heads;
  for (i64 row = 0; row < rows; ++row) clear_row(s, row, out_of(item, row), width);
  if (seen.lo < seen.hi) {
    attend_blocks<T>(item, seen, seen.lo / kAttentionBlock * kAttentionBlock, seen.hi, nullptr, 0, s);
  }
  for (i64 row = 0; row < rows; ++row) divide_row(s, row, out_of(item, row), width);
}

template <class T>
void attend_parts(const AttentionItem& item, i64 begin, i64 end, float* parts, AttentionScratch& s) {
  const i64 stride = item.queries * item.heads * attention_part_row(item.head_dim);
  const Lanes seen = seen_by_any(item);
  attend_blocks<T>(item, seen, begin, smaller(end, seen.hi), parts, stride, s);
}

void merge_parts(const AttentionItem& item, const float* parts, i64 blocks, AttentionScratch& s) {
  const i64 width = width_of(item), rows = item.queries * item.heads, part_row = attention_part_row(item.head_dim);
  for (i64 row = 0; row < rows; ++row) {
    float* out = out_of(item, row);
    clear_row(s, row, out, width);
    for (i64 block = 0; block < blocks; ++block) {
      const float* part = parts + (block * rows + row) * part_row;
      if (part[width + 1] == kNothingSeen) continue;
      float old, fresh;
      merge_sums<1>(part + width, part + width + 1, s.largest + row, s.sum + row, &old, &fresh);
      for (i64 d = 0; d < width; d += 16) {
        merge_out(F32x16::load(out + d), old, F32x16::load(part + d), fresh).store(out + d);
      }
    }
    divide_row(s, row, out, width);
  }
}

template void attend<bf16>(const AttentionItem&, AttentionScratch&);
template void attend<f16>(const AttentionItem&, AttentionScratch&);
template void attend<float>(const AttentionItem&, AttentionScratch&);
template void attend_parts<bf16>(const AttentionItem&, i64, i64, float*, AttentionScratch&);
template void attend_parts<f16>(const AttentionItem&, i64, i64, float*, AttentionScratch&);
template void attend_parts<float>(const AttentionItem&, i64, i64, float*, AttentionScratch&);

}  // namespace weft::WEFT_SIMD
