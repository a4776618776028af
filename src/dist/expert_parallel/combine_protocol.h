// Combine: the experts' rows travel back to the token's ranks and are added with its weights.
//
// Pre-reduced: every source sends its weights first; a rank then adds the rows of its own experts for a token in fp32,
// in the order of the token's indices, rounds once and returns one row. The token's ranks add these in rank order, in
// fp32. Exact: a rank returns each expert's row as it is, and the token's ranks add them in the order of its indices.
// All members of a DP group get what belongs to a token of theirs and compute the same bits. A flag covers a tile of a
// source's tokens; a source without tokens has one empty tile, so that everybody hears from everybody.
#pragma once
#include "comm/machine/fault.h"
#include "dist/expert_parallel/layout.h"
#include "dist/expert_parallel/sums.h"

namespace weft::ep {

template <class T>
struct CombineInput {
  const T* y;            // rows of the local experts
  i64 y_stride;          // elements from row to row
  bool packed;           // the experts' rows lie without gaps, as Route::begins says; else [local experts, capacity]
  const i32* indices;    // [tokens, per_token], those of the dispatch
  const float* weights;  // [tokens, per_token]
  i64 tokens;            // rows of the output

  WEFT_HD const T* row(const Layout& l, const Route& route, i64 place) const {
    const i64 at = packed ? route.begins[place / l.capacity] + place % l.capacity : place;
    return y + at * y_stride;
  }
};

// Elements [i, i + count) of a row, count <= kLaneElements: whole packs, the last one filled up with zeros.
template <class T, class M>
struct PiecePacks {
  Pack<T> packs[M::kLanePacks];
  T* elements() { return packs[0].values; }
};

// The same of a sum.
template <class T, class M>
struct Piece {
  static constexpr int kElements = Pack<T>::kElements;
  const SumKernels<T>& kernels;
  float sums[kLaneElements<T, M>] = {};

  explicit Piece(const SumKernels<T>& with) : kernels(with) {}
  void add_row(const T* row, float weight, i64 count) { kernels.add_scaled(sums, row, weight, count); }
  PiecePacks<T, M> rounded(i64 count) const {
    PiecePacks<T, M> row;
    kernels.round_to(row.elements(), sums, round_up(count, kElements));
    return row;
  }
};

// The sum of the rows that this rank holds for a token.
template <class M, class T>
Piece<T, M> local_sum(const SumKernels<T>& kernels, const Layout& l, const CombineInput<T>& in, const Route& route,
                      const i32* places, const float* weights, i64 i, i64 count) {
  Piece<T, M> piece(kernels);
  for (i64 j = 0; j < l.per_token; ++j) {
    if (places[j] >= 0) piece.add_row(in.row(l, route, places[j]) + i, weights[j], count);
  }
  return piece;
}

// Waits for the weights of the other ranks where it needs them, and for nothing else. False = the communicator failed.
template <class T, Fault F = Fault::kNone, class M>
bool combine_send(M& m, const Layout& l, const Buffers& b, const CombineInput<T>& in, const Route& route) {
  constexpr int kElements = Pack<T>::kElements;
  const SumKernels<T>& kernels = sum_kernels<T>();
  const u32 epoch = m.epoch(b.combined);
  const int half = half_of<F>(epoch), self = m.rank();
  const Run own = l.run_of(self, route.tokens[self]);
  const float* own_weights = in.weights + own.begin * l.per_token;
  if (!l.exact) {
    if (m.cta() == 0) {
      peers(m, [&](int p) {
        if (own.size() > 0) {
          m.put_bytes(b.routing_of(l, b.weights, half, self).template as<std::byte>(), p, own_weights,
                      own.size() * l.per_token * i64(sizeof(float)));
        }
        stores_done<F>(m);
        if (m.lane() == 0) {
          signal<F>(m, b.weighed.at(self, 0), p, epoch);
          m.flush(p);
        }
      });
    }
    if (!peers_until(m, [&](int p) { return hear<F>(m, b.weighed.at(p, 0), p, epoch); })) return false;
  }
  float weights[kMaxPerToken] = {};
  for (int d = 1; d <= l.ranks; ++d) {  // the own tokens last: only other members of the group wait for them
    const int source = self + d < l.ranks ? self + d : self + d - l.ranks;
    if (source == self && l.dp_size == 1) break;
    const Run run = l.run_of(source, route.tokens[source]);
    const Tiles tiles = l.tiles(run.size());
    const int first_member = l.source(l.group(source), 0);
    const sym<float> theirs = b.routing_of(l, b.weights, half, source);
    m.tiles(tiles.count, [&](i64 first, i64 last) {
      for (i64 t = tiles.begin(first); t < tiles.end(last - 1); ++t) {
        const i32* places = route.places + (source * l.source_tokens + t) * l.per_token;
        bool here = false;
        for (i64 j = 0; j < l.per_token; ++j) {
          here = here || places[j] != kElsewhere;
          if (!l.exact && places[j] >= 0) {
            weights[j] = source == self ? own_weights[t * l.per_token + j] : m.get(theirs + (t * l.per_token + j));
          }
        }
        if (!here) continue;
        const auto put = [&](i64 part, i64 i, const Pack<T>& pack) {
          for (int q = first_member; q < first_member + l.dp_size; ++q) {
            const sym<std::byte> row = b.part_row(l, half, part, run.begin + t);
            if (q != self) m.put((row + i * i64(sizeof(T))).template as<Pack<T>>(), q, pack);
          }
        };
        each_piece<T>(m, 0, l.hidden, [&](i64 i, i64 count) {
          if (!l.exact) {
            const auto row = local_sum<M>(kernels, l, in, route, places, weights, i, count).rounded(count);
            for (int at = 0; at < count; at += kElements) put(self, i + at, row.packs[at / kElements]);
            return;
          }
          for (i64 j = 0; j < l.per_token; ++j) {
            if (places[j] == kElsewhere) continue;
            for (int at = 0; at < count; at += kElements) {
              Pack<T> pack{};
              if (places[j] >= 0) pack = load_pack(in.row(l, route, places[j]) + i + at, count - at);
              put(j, i + at, pack);
            }
          }
        });
      }
      stores_done<F>(m);
      if (m.lane() == 0) {
        for (int q = first_member; q < first_member + l.dp_size; ++q) {
          if (q == self) continue;
          for (i64 tile = first; tile < last; ++tile) {
            signal<F>(m, b.returned.at(self, l.member(source) * kMaxTiles + tile), q, epoch);
          }
          m.flush(q);
        }
      }
      return true;
    });
  }
  return true;
}

// sink(token, i, sums, count): elements [i, i + count) of a token's sum. Tokens beyond those of the dispatch are left
// alone. False = the communicator failed.
template <class T, Fault F = Fault::kNone, class M, class Sink>
bool combine_receive(M& m, const Layout& l, const Buffers& b, const CombineInput<T>& in, const Route& route,
                     Sink&& sink) {
  constexpr int kElements = Pack<T>::kElements;
  const SumKernels<T>& kernels = sum_kernels<T>();
  const u32 epoch = m.epoch(b.combined);
  const int half = half_of<F>(epoch), self = m.rank(), group = l.group(self);
  for (int member = 0; member < l.dp_size; ++member) {
    const int source = l.source(group, member);
    const Run run = l.run_of(source, route.tokens[source]);
    const Tiles tiles = l.tiles(run.size());
    const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
      for (i64 tile = first; tile < last; ++tile) {
        if constexpr (F != Fault::kOnlySelf) {
          const i64 flag = member * kMaxTiles + tile;
          if (!peers_until(m, [&](int p) { return hear<F>(m, b.returned.at(p, flag), p, epoch); })) return false;
        }
        for (i64 in_run = tiles.begin(tile); in_run < tiles.end(tile); ++in_run) {
          const i64 t = run.begin + in_run;
          if (t >= in.tokens) continue;
          const i32* indices = in.indices + t * l.per_token;
          const i32* places = route.places + (source * l.source_tokens + in_run) * l.per_token;
          const float* weights = in.weights + t * l.per_token;
          const auto staged = [&](i64 part, i64 i) {
            return m.get((b.part_row(l, half, part, t) + i * i64(sizeof(T))).template as<Pack<T>>());
          };
          u64 ranks = 0;  // that hold experts of this token
          for (i64 j = 0; j < l.per_token; ++j) {
            if (l.is_expert(indices[j])) ranks |= u64(1) << l.rank_of(indices[j]);
          }
          each_piece<T>(m, 0, l.hidden, [&](i64 i, i64 count) {
            Piece<T, M> sum(kernels);
            PiecePacks<T, M> row;
            const auto add_part = [&](i64 part, float weight) {
              for (int at = 0; at < count; at += kElements) row.packs[at / kElements] = staged(part, i + at);
              sum.add_row(row.elements(), weight, count);
            };
            for (i64 j = 0; l.exact && j < l.per_token; ++j) {
              if (!l.is_expert(indices[j])) continue;
              if (l.rank_of(indices[j]) != self) {
                add_part(j, weights[j]);
              } else if (places[j] >= 0) {
                sum.add_row(in.row(l, route, places[j]) + i, weights[j], count);
              }
            }
            for (int p = 0; !l.exact && p < l.ranks; ++p) {
              if ((ranks >> p & 1) == 0) continue;
              if (p != self) {
                add_part(p, 1.0f);
                continue;
              }
              row = local_sum<M>(kernels, l, in, route, places, weights, i, count).rounded(count);
              sum.add_row(row.elements(), 1.0f, count);
            }
            sink(t, i, sum.sums, count);
          });
        }
      }
      return true;
    });
    if (!heard) return false;
  }
  finish(m, b.combined, epoch);
  return true;
}

}  // namespace weft::ep
