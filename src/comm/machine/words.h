// What protocols without flags ask of the hardware besides machine.h (WordsMachine):
//
//   put_words(sym<BareWords>, peer, words)    [lane] 16 bytes, of which every 4 arrive whole, in no order; no word is 0
//   take_words(words[N], epoch, place, peer_of) [lane] -> bool. until no word of the own arena's 16 bytes at place(k),
//                                                   which peer_of(k) writes, is 0, for all k < N; none to wait for
//                                                   where that is this rank. `epoch` is for the message
//   empty_words(sym<BareWords>)               [lane] makes them 0 again, for the next that come there
#pragma once
#include "comm/machine/machine.h"

namespace weft {

// 16 bytes that say by themselves that they have come: a word that is not 0 is there. What numbers they carry is the
// sender's and the receiver's agreement (dist/exchange/words.h).
struct alignas(16) BareWords {
  u32 words[4];
};

namespace machine_detail {
struct AnyPlace {
  WEFT_HD sym<BareWords> operator()(int) const { return {}; }
};
struct AnyRank {
  WEFT_HD int operator()(int) const { return 0; }
};
}  // namespace machine_detail

template <class M>
concept WordsMachine =
    SignalMachine<M> && requires(M& m, sym<BareWords> place, BareWords words, BareWords (&taken)[2], int peer, u32 v) {
      m.put_words(place, peer, words);
      { m.take_words(taken, v, machine_detail::AnyPlace{}, machine_detail::AnyRank{}) } -> std::same_as<bool>;
      m.empty_words(place);
    };

}  // namespace weft
