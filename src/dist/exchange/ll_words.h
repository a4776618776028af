// Low-latency messages: 4 bytes of payload beside the call's number in one store. One trip, no flag to wait for, twice
// the bytes: for the smallest sizes.
#pragma once
#include "comm/machine/fault.h"
#include "comm/machine/pack.h"
#include "dist/exchange/tiles.h"

namespace weft {

inline constexpr i64 kLlBytes = sizeof(u32);

// The inbox of an operator: [2][ranks][words], a part of each half for every source.
struct LlInbox {
  sym<LlWord> base;
  i64 words = 0;  // most of a message
  template <Fault F>
  WEFT_HD sym<LlWord> from(int source, int ranks, u32 epoch) const {
    return base + (half_of<F>(epoch) * ranks + source) * words;
  }
};

// The words of a message; one for none, so that everybody is heard.
WEFT_HD i64 ll_words(i64 bytes) {
  const i64 words = divide_up(bytes, kLlBytes);
  return words > 0 ? words : 1;
}

// The next word at `from`, of which `left` bytes are there.
template <class T>
WEFT_HD u32 ll_load(const T* from, i64 left) {
  u32 word = 0;
  if (left >= kLlBytes && reinterpret_cast<uintptr_t>(from) % kLlBytes == 0) {
    memcpy(&word, __builtin_assume_aligned(from, kLlBytes), kLlBytes);
  } else if (left > 0) {
    memcpy(&word, from, size_t(left < kLlBytes ? left : kLlBytes));
  }
  return word;
}
// Its first `bytes` bytes go to `to`.
WEFT_HD void ll_store(std::byte* to, u32 word, i64 bytes) {
  if (bytes == kLlBytes && reinterpret_cast<uintptr_t>(to) % kLlBytes == 0) {
    memcpy(__builtin_assume_aligned(to, kLlBytes), &word, kLlBytes);
  } else {
    memcpy(to, &word, size_t(bytes));
  }
}

// The sums over ranks, in rank order and fp32, of the elements of one word: this rank's `own`, the peers' words at
// inbox(p) + w as they come. False = the communicator failed.
template <class T, Fault F, class M, class Inbox>
WEFT_HD bool ll_sum(M& m, Inbox&& inbox, i64 w, u32 own, u32 epoch, float (&sums)[kLlBytes / sizeof(T)]) {
  constexpr int kPerWord = int(kLlBytes / i64(sizeof(T)));
  for (int p = 0; p < m.ranks(); ++p) {
    u32 word = 0;
    if (p == m.rank()) {
      word = own;
    } else if (F != Fault::kOnlySelf && !m.recv(inbox(p) + w, p, epoch, word)) {
      return false;
    }
    T parts[kPerWord];
    memcpy(static_cast<void*>(parts), &word, sizeof word);
    for (int j = 0; j < kPerWord; ++j) sums[j] = p == 0 ? widen(parts[j]) : sums[j] + widen(parts[j]);
  }
  return true;
}

}  // namespace weft
