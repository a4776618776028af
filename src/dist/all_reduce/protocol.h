// All-reduce: three protocols over one set of buffers and one epoch counter. All add in rank order in fp32 and round
// once, so their bits are equal. Each makes every rank hear from every other in every call, directly or through the
// owner of a tile, which is what the two halves need, also where calls of different protocols follow one another.
//
// Hooks: produce(begin, end) makes this rank's elements of those tiles available and runs before they are read;
// own(i) is the address of element i, contiguous within a run of tiles; sink(tile, i, sums, n) takes results. A tile is
// produced, read by own() and sunk by one CTA, so x and y may be the same memory.
#pragma once
#include "dist/exchange/ll_words.h"
#include "dist/exchange/words.h"

namespace weft {

// stage [2][ranks][slot] T; result [2][elements] T; inbox [2][ranks][words].
template <class T>
struct AllReduceBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;  // [ranks][kMaxTiles]: a contribution lies in my stage
  FlagTable reduced;  // [ranks][kMaxTiles]: a sum lies in my result
  sym<T> stage;
  i64 slot = 0;
  sym<T> result;
  i64 result_elements = 0;
  LlInbox inbox;
};

// Payload and flag in one word: one trip, no flag to wait for, twice the bytes. For the smallest sizes.
template <class T, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_reduce_ll(M& m, const AllReduceBuffers<T>& b, const Tiles& tiles, Hooks&& hooks) {
  constexpr i64 kPerWord = kLlBytes / i64(sizeof(T));
  const u32 epoch = m.epoch(b.epoch);
  const auto inbox = [&](int p) { return b.inbox.template from<F>(p, m.ranks(), epoch); };
  const auto word_of = [&](i64 i, i64 end) { return ll_load(hooks.own(i), (end - i) * i64(sizeof(T))); };
  m.tiles(tiles.count, [&](i64 first, i64 last) {
    hooks.produce(first, last);
    m.sync();
    const i64 begin = tiles.begin(first), end = tiles.end(last - 1);
    peers(m, [&](int p) {
      each_lane(m, (end - begin + kPerWord - 1) / kPerWord, [&](i64 w) {
        m.send(inbox(m.rank()) + (begin / kPerWord + w), p, word_of(begin + w * kPerWord, end), epoch);
      });
      m.flush(p);
    });
    return true;
  });
  const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
    bool ok = true;
    for (i64 tile = first; tile < last; ++tile) {
      const i64 begin = tiles.begin(tile), end = tiles.end(tile);
      each_lane(m, (end - begin + kPerWord - 1) / kPerWord, [&](i64 w) {
        const i64 i = begin + w * kPerWord;
        float sums[kPerWord];
        ok = ok && ll_sum<T, F>(m, inbox, i / kPerWord, word_of(i, end), epoch, sums);
        if (ok) hooks.sink(tile, i, sums, end - i < kPerWord ? end - i : kPerWord);
      });
      if (!ok) return false;
    }
    return true;
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// Every rank sends everything to every rank, a flag per tile; each sums all.
template <class T, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_reduce_one_shot(M& m, const AllReduceBuffers<T>& b, const Tiles& tiles, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<T> half = b.stage + half_of<F>(epoch) * m.ranks() * b.slot;
  m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
    in_cache(tiles, run_first, run_last, [&](i64 first, i64 last) {
      hooks.produce(first, last);
      m.sync();
      const i64 begin = tiles.begin(first), bytes = (tiles.end(last - 1) - begin) * i64(sizeof(T));
      peers(m, [&](int p) {
        m.put_bytes((half + (m.rank() * b.slot + begin)).template as<std::byte>(), p, hooks.own(begin), bytes);
      });
      stores_done<F>(m);
      if (m.lane() == 0) {
        peers(m, [&](int p) {
          for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), p, epoch);
          m.flush(p);
        });
      }
    });
    return true;
  });
  const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
    for (i64 tile = first; tile < last; ++tile) {
      if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, tile), p, epoch); })) return false;
      sum_ranks<T>(
          m, tiles.begin(tile), tiles.end(tile), [&](i64 i) { return hooks.own(i); },
          [&](int p, i64 i) { return half + (p * b.slot + i); },
          [&](i64 i, const float* sums, i64 n) { hooks.sink(tile, i, sums, n); });
    }
    return true;
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// Tiles are shared out: every rank sends each owner its tiles, the owner sums them and sends the rounded sums to all.
// Own tiles come last, when the peers' have had time to arrive.
template <class T, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_reduce_two_shot(M& m, const AllReduceBuffers<T>& b, const Tiles& tiles, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<T> half = b.stage + half_of<F>(epoch) * m.ranks() * b.slot;
  const sym<T> result = b.result + half_of<F>(epoch) * b.result_elements;
  peers(m, [&](int p) {
    const Run owned = split_run(tiles.count, m.ranks(), p);
    m.tiles(owned.size(), [&](i64 run_first, i64 run_last) {
      in_cache(tiles, owned.begin + run_first, owned.begin + run_last, [&](i64 first, i64 last) {
        hooks.produce(first, last);
        m.sync();
        const i64 begin = tiles.begin(first), bytes = (tiles.end(last - 1) - begin) * i64(sizeof(T));
        const i64 in_slot = begin - tiles.begin(owned.begin);
        m.put_bytes((half + (m.rank() * b.slot + in_slot)).template as<std::byte>(), p, hooks.own(begin), bytes);
      });
      return true;
    });
  });
  // Signalled together: every owner waits for the peer that sends to it last, and a GPU pays for each release.
  stores_done<F>(m);
  if (m.lane() == 0) {
    peers(m, [&](int p) {
      const Run owned = split_run(tiles.count, m.ranks(), p);
      m.tiles(owned.size(), [&](i64 first, i64 last) {
        for (i64 t = first; t < last; ++t) signal<F>(m, b.arrived.at(m.rank(), owned.begin + t), p, epoch);
        return true;
      });
      m.flush(p);
    });
  }
  const Run mine = split_run(tiles.count, m.ranks(), m.rank());
  const bool summed = m.tiles(mine.size(), [&](i64 first, i64 last) {
    hooks.produce(mine.begin + first, mine.begin + last);
    m.sync();
    for (i64 tile = mine.begin + first; tile < mine.begin + last; ++tile) {
      if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, tile), p, epoch); })) return false;
      sum_ranks<T>(
          m, tiles.begin(tile), tiles.end(tile), [&](i64 i) { return hooks.own(i); },
          [&](int p, i64 i) { return half + (p * b.slot + i - tiles.begin(mine.begin)); },
          [&](i64 i, const float* sums, i64 n) {
            for (i64 at = 0; at < n; at += Pack<T>::kElements) {
              Pack<T> pack = {};
              const i64 left = n - at;
              store_sums(pack.values, sums + at, left < Pack<T>::kElements ? left : i64(Pack<T>::kElements));
              peers(m, [&](int p) { m.put((result + (i + at)).template as<Pack<T>>(), p, pack); });
            }
            hooks.sink(tile, i, sums, n);
          });
    }
    stores_done<F>(m);
    if (m.lane() == 0) {
      peers(m, [&](int p) {
        for (i64 t = first; t < last; ++t) signal<F>(m, b.reduced.at(m.rank(), mine.begin + t), p, epoch);
        m.flush(p);
      });
    }
    return true;
  });
  if (!summed) return false;
  const bool heard = peers_until(m, [&](int p) {
    const Run owned = split_run(tiles.count, m.ranks(), p);
    return m.tiles(owned.size(), [&](i64 first, i64 last) {
      for (i64 tile = owned.begin + first; tile < owned.begin + last; ++tile) {
        if constexpr (F != Fault::kOnlySelf) {
          if (!hear<F>(m, b.reduced.at(p, tile), p, epoch)) return false;
        }
        each_piece<T>(m, tiles.begin(tile), tiles.end(tile), [&](i64 i, i64 n) {
          float sums[kLaneElements<T, M>];
          for (int at = 0; at < kLaneElements<T, M>; at += Pack<T>::kElements) {
            if (at >= n) break;
            const Pack<T> pack = m.get((result + (i + at)).template as<Pack<T>>());
            for (int j = 0; j < Pack<T>::kElements; ++j) sums[at + j] = widen(pack.values[j]);
          }
          hooks.sink(tile, i, sums, n);
        });
      }
      return true;
    });
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// ---- without flags, for GPUs ----

// inbox [2][ranks][packs of the most that is sent to one rank]; sums [2][ranks][packs of a share].
struct AllReduceWords {
  sym<EpochWord> epoch;
  BareInbox inbox, sums;
};

// Packs of a share where `elements` are shared out in a two-shot: the last shares may have fewer, or none.
template <class T>
WEFT_HD i64 share_packs(i64 elements, int ranks) {
  return divide_up(bare_packs(elements * i64(sizeof(T))), ranks);
}

// y = the sums of x [elements] of all ranks; x may be y. Everybody sends everything to everybody. A lane sends its
// packs before it writes them.
template <class T, Fault F = Fault::kNone, class M>
WEFT_HD bool all_reduce_one_shot_words(M& m, const AllReduceWords& b, const T* x, T* y, i64 elements) {
  const u32 epoch = m.epoch(b.epoch);
  const i64 packs = bare_packs(elements * i64(sizeof(T)));
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, m.ranks(), epoch, pack); };
  const Part<const T> own{x, elements};
  const Lanes all{m.lane(), m.lanes()};
  each_pack<kSendAhead>(m, all, packs, [&](auto count, i64 first, i64 step) {
    constexpr int kCount = decltype(count)::value;
    Pack<T> part[kCount];
    load_packs(own, first, step, part);
    for (int k = 0; k < kCount; ++k) put_to_all(m, place, first + k * step, bare_numbers(part[k]));
    return true;
  });
  flush_all(m);
  const bool heard = each_pack<kTakeAhead<M>>(m, all, packs, [&](auto count, i64 first, i64 step) {
    Pack<T> part[decltype(count)::value];
    load_packs(own, first, step, part);
    return take_sums<T, F>(m, epoch, place, part, first, step, [&](int, i64 pack, const Pack<T>& rounded) {
      store_pack(Part<T>{y, elements}, pack, rounded);
    });
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// One-shot by rows of `row_packs` packs, a row to a CTA, so that a CTA can go on with the sums of whole rows:
// hooks.take(slot, row, pack, rounded) [lane] gets pack `pack` of a row, the lane's slot-th of the row; hooks.row(row)
// [cta] comes after the row's last. x [rows, row_packs] packs, not changed before its row is taken.
template <class T, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_reduce_rows_words(M& m, const AllReduceWords& b, const T* x, i64 rows, i64 row_packs, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, m.ranks(), epoch, pack); };
  const Part<const T> own{x, rows * row_packs * Pack<T>::kElements};
  const i64 step = m.lanes();
  // f(count, first pack, its number in the row), two packs of a lane at a time.
  const auto each = [&](i64 row, auto&& f) {
    i64 at = m.lane();
    for (; at + step < row_packs; at += 2 * step)
      if (!f(std::integral_constant<int, 2>{}, row * row_packs + at, at)) return false;
    return at >= row_packs || f(std::integral_constant<int, 1>{}, row * row_packs + at, at);
  };
  for (i64 row = m.cta(); row < rows; row += m.ctas()) {
    each(row, [&](auto count, i64 first, i64) {
      constexpr int kCount = decltype(count)::value;
      Pack<T> part[kCount];
      load_packs(own, first, step, part);
      for (int k = 0; k < kCount; ++k) put_to_all(m, place, first + k * step, bare_numbers(part[k]));
      return true;
    });
  }
  flush_all(m);
  for (i64 row = m.cta(); row < rows; row += m.ctas()) {
    const bool heard = each(row, [&](auto count, i64 first, i64 at) {
      Pack<T> part[decltype(count)::value];
      load_packs(own, first, step, part);
      return take_sums<T, F>(m, epoch, place, part, first, step,
                             [&](int k, i64, const Pack<T>& rounded) { hooks.take(k, row, at + k * step, rounded); });
    });
    if (!heard) return false;
    hooks.row(row);
  }
  finish(m, b.epoch, epoch);
  return true;
}

// The same with shares: every rank sends each owner its share, the owner sums it and sends the rounded sums to all. The
// sums of a pack exist only once this rank has sent it, so x may be y here, too.
template <class T, Fault F = Fault::kNone, class M>
WEFT_HD bool all_reduce_two_shot_words(M& m, const AllReduceWords& b, const T* x, T* y, i64 elements) {
  const u32 epoch = m.epoch(b.epoch);
  const i64 packs = share_packs<T>(elements, m.ranks()), share = packs * Pack<T>::kElements;
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, m.ranks(), epoch, pack); };
  const auto result = [&](int source, i64 pack) { return b.sums.template at<F>(source, m.ranks(), epoch, pack); };
  const auto size_of = [&](int p) {
    const i64 left = elements - p * share;
    return left < 0 ? 0 : left < share ? left : share;
  };
  const auto part_of = [&](int p) { return Part<const T>{x + p * share, size_of(p)}; };
  const auto target_of = [&](int p) { return Part<T>{y + p * share, size_of(p)}; };
  const auto scatter = [&](const Lanes& crew) {
    return scatter_numbers<T, kSendAhead>(m, crew, packs, place, [&](int p, i64 first, i64 step, auto& part) {
      load_packs(part_of(p), first, step, part);
    });
  };
  const auto sum = [&](const Lanes& crew) {
    const Part<const T> mine = part_of(m.rank());
    return each_pack<kTakeAhead<M>>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      Pack<T> own[decltype(count)::value];
      load_packs(mine, first, step, own);
      const auto visit = [&](int, i64 pack, const Pack<T>& rounded) {
        const BareWords bare = bare_numbers(rounded);
        put_to_all(m, result, pack, bare);
        store_pack(target_of(m.rank()), pack, numbers_of<T>(bare));
      };
      if (!take_sums<T, F>(m, epoch, place, own, first, step, visit)) return false;
      flush_all(m);
      return true;
    });
  };
  const auto gather = [&](const Lanes& crew) {
    return gather_numbers<T, F>(m, crew, packs, epoch, result, [&](int p, i64 pack, const Pack<T>& numbers) {
      store_pack(target_of(p), pack, numbers);
    });
  };
  if (!in_crews(m, scatter, sum, gather)) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
