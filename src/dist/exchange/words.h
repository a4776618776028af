// Messages without flags and fences, at the full width of the wire: a buffer holds zeros until words come, and who
// takes them puts zeros back before the buffer's turn comes again, of two. So that no word is 0, words travel inverted,
// and the one whose inverse is 0 is replaced: among numbers it is a NaN, which another NaN stands for; among bits of
// any meaning it becomes the word beside it, and a low-latency word says which of the two is meant.
#pragma once
#include "comm/machine/fault.h"
#include "comm/machine/pack.h"
#include "comm/machine/words.h"
#include "dist/exchange/tiles.h"

namespace weft {

inline constexpr i64 kBarePackBytes = sizeof(BareWords);

// [2][ranks][packs] packs of an operator, a part of each half for every source, zero at first; `escapes` alike, only
// where bits travel.
struct BareInbox {
  sym<BareWords> packs;
  sym<LlWord> escapes;
  i64 most = 0;  // packs of a message
  template <Fault F>
  WEFT_HD sym<BareWords> at(int source, int ranks, u32 epoch, i64 pack) const {
    return packs + ((half_of<F>(epoch) * ranks + source) * most + pack);
  }
  template <Fault F>
  WEFT_HD sym<LlWord> escape(int source, int ranks, u32 epoch, i64 pack) const {
    return escapes + ((half_of<F>(epoch) * ranks + source) * most + pack);
  }
};

// The packs of a message; one for none, so that everybody is heard.
WEFT_HD i64 bare_packs(i64 bytes) {
  const i64 packs = divide_up(bytes, kBarePackBytes);
  return packs > 0 ? packs : 1;
}

// ---- what travels ----

template <class T>
WEFT_HD BareWords bare_numbers(const Pack<T>& pack) {
  constexpr u32 kNan = sizeof(T) == 4 ? 0x7fffffff : 0x7fff7fff;
  BareWords bare;
  memcpy(&bare, &pack, sizeof bare);
  for (u32& word : bare.words) word = ~word != 0 ? ~word : ~kNan;
  return bare;
}
template <class T>
WEFT_HD Pack<T> numbers_of(const BareWords& bare) {
  BareWords plain;
  for (int i = 0; i < 4; ++i) plain.words[i] = ~bare.words[i];
  Pack<T> pack;
  memcpy(static_cast<void*>(&pack), &plain, sizeof pack);
  return pack;
}

using Bytes16 = Pack<std::byte>;
// `escaped`: 0, or what the low-latency word beside the pack says: a bit for each word that is ~0, and one more.
struct BareBits {
  BareWords bare;
  u32 escaped = 0;
};
WEFT_HD BareBits bare_bits(const Bytes16& bytes) {
  BareBits bits;
  memcpy(&bits.bare, &bytes, sizeof bytes);
  for (int i = 0; i < 4; ++i) {
    u32& word = bits.bare.words[i];
    word = ~word;
    if (word <= 1) {
      bits.escaped |= 16 | (word == 0 ? 1 << i : 0);
      word = 1;
    }
  }
  return bits;
}

template <Fault F, class M>
WEFT_HD void send_bits(M& m, const BareInbox& inbox, int peer, u32 epoch, i64 pack, const BareBits& bits) {
  m.put_words(inbox.at<F>(m.rank(), m.ranks(), epoch, pack), peer, bits.bare);
  // The half knows whether the epoch is odd; and a word that nobody has sent yet must not pass for that of epoch 0.
  if (bits.escaped != 0) m.send(inbox.escape<F>(m.rank(), m.ranks(), epoch, pack), peer, bits.escaped, epoch | 1);
}
// The bytes of `bits.bare`, which came from `source`; `bits.escaped` as it was sent. False = the communicator failed.
template <Fault F, class M>
WEFT_HD bool bytes_of(M& m, const BareInbox& inbox, int source, u32 epoch, i64 pack, BareBits& bits, Bytes16& bytes) {
  const u32(&words)[4] = bits.bare.words;
  bits.escaped = 0;
  if (words[0] == 1 || words[1] == 1 || words[2] == 1 || words[3] == 1) {
    if (!m.recv(inbox.escape<F>(source, m.ranks(), epoch, pack), source, epoch | 1, bits.escaped)) return false;
  }
  BareWords plain;
  for (int i = 0; i < 4; ++i) plain.words[i] = ~words[i] | (bits.escaped >> i & 1);
  memcpy(static_cast<void*>(&bytes), &plain, sizeof bytes);
  return true;
}

// A run of memory.
template <class T>
struct Part {
  T* begin;
  i64 size;
};

// The packs first, first + step ... of `part`, whose elements beyond the end are 0.
template <int N, class T>
WEFT_HD void load_packs(const Part<const T>& part, i64 first, i64 step, Pack<T> (&packs)[N]) {
  constexpr i64 kElements = Pack<T>::kElements;
  if (is_pack_aligned(part.begin) && (first + (N - 1) * step + 1) * kElements <= part.size) {
    for (int k = 0; k < N; ++k)
      memcpy(static_cast<void*>(&packs[k]),
             __builtin_assume_aligned(part.begin + (first + k * step) * kElements, kBarePackBytes), kBarePackBytes);
  } else {
    for (int k = 0; k < N; ++k) {
      const i64 at = (first + k * step) * kElements;
      packs[k] = load_pack(part.begin + (at < part.size ? at : 0), part.size - at);
    }
  }
}
// As far as `part` goes.
template <class T>
WEFT_HD void store_pack(const Part<T>& part, i64 pack, const Pack<T>& values) {
  constexpr i64 kElements = Pack<T>::kElements;
  const i64 at = pack * kElements, left = part.size - at;
  T* const to = part.begin + at;
  if (left >= kElements && is_pack_aligned(to)) {
    memcpy(static_cast<void*>(__builtin_assume_aligned(to, kBarePackBytes)), &values, kBarePackBytes);
  } else {
    for (int i = 0; i < kElements; ++i) {  // constant indices: the pack stays in registers
      if (i < left) to[i] = values.values[i];
    }
  }
}

// ---- who does what ----

// Packs that a lane sends, or takes from each rank, at a time.
inline constexpr int kSendAhead = 4;
template <class M>
constexpr int most_ranks() {
  if constexpr (requires { M::kRanks; }) {
    return M::kRanks;
  } else {
    return 8;
  }
}
template <class M>
inline constexpr int kTakeAhead = most_ranks<M>() < 8 ? 8 / most_ranks<M>() : 1;

// Roles of a call that go on side by side, each by its part of a CTA's lanes, as every role's waits are for other roles
// of other ranks; one after another where there are fewer lanes. role(crew) -> bool.
template <class M, class... Roles>
WEFT_HD bool in_crews(M& m, Roles&&... roles) {
  constexpr int kCrews = int(sizeof...(Roles));
  int each = m.lanes() / kCrews;
  if (each > m.warp_size()) each -= each % m.warp_size();
  if (each == 0) return (roles(Lanes{m.lane(), m.lanes()}) && ...);
  const int mine = m.lane() / each < kCrews ? m.lane() / each : kCrews - 1;
  const Lanes crew{m.lane() - mine * each, mine + 1 < kCrews ? each : m.lanes() - mine * each};
  bool ok = true;
  int at = 0;
  const auto run = [&](auto&& role) {
    if (at++ == mine) ok = role(crew);
  };
  (run(roles), ...);
  return ok;
}

// [0, packs) by the lanes of a crew on all CTAs of the rank, `Ahead` at a time where there are as many: f(count, first,
// step) -> bool, count an integral_constant. A lane of crews of one size gets the same packs.
template <int Ahead, class M, class F>
WEFT_HD bool each_pack(M& m, const Lanes& crew, i64 packs, F&& f) {
  const i64 step = i64(m.ctas()) * crew.count;
  i64 i = i64(m.cta()) * crew.count + crew.index;
  for (; i + (Ahead - 1) * step < packs; i += Ahead * step) {
    if (!f(std::integral_constant<int, Ahead>{}, i, step)) return false;
  }
  if constexpr (Ahead > 1) {
    for (; i < packs; i += step) {
      if (!f(std::integral_constant<int, 1>{}, i, step)) return false;
    }
  }
  return true;
}

// Ends what a lane has sent.
template <class M>
WEFT_HD void flush_all(M& m) {
  peers(m, [&](int p) { m.flush(p); });
}

// N packs of each peer: of(p, k) is place(p, first + k * step).
template <int N, class M>
struct TakenPacks {
  static constexpr int kMost = most_ranks<M>();
  BareWords came[N * kMost];
  // Not from rank `silent`. False = the communicator failed.
  template <class Place>
  WEFT_HD bool take(M& m, u32 epoch, Place&& place, i64 first, i64 step, int silent = -1) {
    return m.take_words(
        came, epoch, [&](int at) { return place(at % kMost, first + at / kMost * step); },
        [&](int at) {
          const int p = at % kMost;
          return p < m.ranks() && p != silent ? p : m.rank();
        });
  }
  WEFT_HD const BareWords& of(int rank, int k) const { return came[k * kMost + rank]; }
};

// ---- messages of numbers and of bits ----

// The sums over ranks, in rank order and fp32, of this rank's `own` pack and the peers' that were taken.
template <class T, class M, class Taken>
WEFT_HD void sum_packs(M& m, const Pack<T>& own, const Taken& taken, int k, float (&sums)[Pack<T>::kElements]) {
  for (int p = 0; p < m.ranks(); ++p) {
    const Pack<T> part = p == m.rank() ? own : numbers_of<T>(taken.of(p, k));
    for (int j = 0; j < Pack<T>::kElements; ++j)
      sums[j] = p == 0 ? widen(part.values[j]) : sums[j] + widen(part.values[j]);
  }
}

// `bare` to every peer, at its place(this rank, pack).
template <class M, class Place>
WEFT_HD void put_to_all(M& m, Place&& place, i64 pack, const BareWords& bare) {
  peers(m, [&](int p) { m.put_words(place(m.rank(), pack), p, bare); });
}

// Every peer p gets the packs of load(p, first, step, its packs) at its place(this rank, pack). [crew]
template <class T, int Ahead, class M, class Place, class Load>
WEFT_HD bool scatter_numbers(M& m, const Lanes& crew, i64 packs, Place&& place, Load&& load) {
  return each_pack<Ahead>(m, crew, packs, [&](auto count, i64 first, i64 step) {
    constexpr int kCount = decltype(count)::value;
    peers(m, [&](int p) {
      Pack<T> part[kCount];
      load(p, first, step, part);
      for (int k = 0; k < kCount; ++k) m.put_words(place(m.rank(), first + k * step), p, bare_numbers(part[k]));
      m.flush(p);
    });
    return true;
  });
}

// visit(k, pack, sum) for N packs first, first + step ...: the sums over ranks of `own` and of what the peers sent to
// place(), rounded. Leaves the places empty. False = the communicator failed.
template <class T, Fault F, int N, class M, class Place, class Visit>
WEFT_HD bool take_sums(M& m, u32 epoch, Place&& place, const Pack<T> (&own)[N], i64 first, i64 step, Visit&& visit) {
  constexpr int kElements = Pack<T>::kElements;
  TakenPacks<N, M> taken;
  if (!taken.take(m, epoch, place, first, step)) return false;
  for (int k = 0; k < N; ++k) {
    const i64 pack = first + k * step;
    float sums[kElements];
    sum_packs(m, own[k], taken, k, sums);
    Pack<T> rounded;
    store_sums(rounded.values, sums, kElements);
    visit(k, pack, rounded);
    if constexpr (F != Fault::kNoCredit) peers(m, [&](int p) { m.empty_words(place(p, pack)); });
  }
  return true;
}

// keep(p, pack, numbers) for the packs that each peer p has sent to place(). Leaves the places empty. [crew]
// False = the communicator failed.
template <class T, Fault F, class M, class Place, class Keep>
WEFT_HD bool gather_numbers(M& m, const Lanes& crew, i64 packs, u32 epoch, Place&& place, Keep&& keep) {
  return each_pack<kTakeAhead<M>>(m, crew, packs, [&](auto count, i64 first, i64 step) {
    constexpr int kCount = decltype(count)::value;
    TakenPacks<kCount, M> taken;
    if (!taken.take(m, epoch, place, first, step)) return false;
    for (int k = 0; k < kCount; ++k) {
      const i64 pack = first + k * step;
      for (int p = 0; p < m.ranks(); ++p) {
        if (p == m.rank()) continue;
        keep(p, pack, numbers_of<T>(taken.of(p, k)));
        if constexpr (F != Fault::kNoCredit) m.empty_words(place(p, pack));
      }
    }
    return true;
  });
}

// Rank p gets the bytes to(p) and puts them to its from(this rank), all ranks at once; `packs` is the most of any
// message, the same on every rank. to(rank) == from(rank) is left in place. [cta] False = the communicator failed.
template <Fault F = Fault::kNone, class M, class To, class From>
WEFT_HD bool exchange_bits(M& m, const BareInbox& inbox, u32 epoch, i64 packs, To&& to, From&& from) {
  const auto send = [&](const Lanes& crew) {
    return each_pack<kSendAhead>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      constexpr int kCount = decltype(count)::value;
      Bytes16 bytes[kCount];
      peers(m, [&](int p) {
        load_packs(to(p), first, step, bytes);
        for (int k = 0; k < kCount; ++k) send_bits<F>(m, inbox, p, epoch, first + k * step, bare_bits(bytes[k]));
        m.flush(p);
      });
      const Part<const std::byte> own = to(m.rank());
      if (own.begin == from(m.rank()).begin) return true;
      load_packs(own, first, step, bytes);
      for (int k = 0; k < kCount; ++k) store_pack(from(m.rank()), first + k * step, bytes[k]);
      return true;
    });
  };
  const auto receive = [&](const Lanes& crew) {
    return each_pack<kTakeAhead<M>>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      constexpr int kCount = decltype(count)::value;
      TakenPacks<kCount, M> taken;
      const auto place = [&](int p, i64 pack) { return inbox.at<F>(p, m.ranks(), epoch, pack); };
      if (!taken.take(m, epoch, place, first, step)) return false;
      for (int k = 0; k < kCount; ++k) {
        const i64 pack = first + k * step;
        for (int p = 0; p < m.ranks(); ++p) {
          if (p == m.rank()) continue;
          BareBits bits{taken.of(p, k)};
          Bytes16 bytes;
          if (!bytes_of<F>(m, inbox, p, epoch, pack, bits, bytes)) return false;
          store_pack(from(p), pack, bytes);
          if constexpr (F != Fault::kNoCredit) m.empty_words(place(p, pack));
        }
      }
      return true;
    });
  };
  return in_crews(m, send, receive);
}

}  // namespace weft
