// Pack: 16 bytes of elements, the unit of weak typed loads and stores, and conversions to the fp32 of all sums.
#pragma once
#include <bit>
#include <cstring>

#include "base/dtype.h"
#include "comm/machine/machine.h"

namespace weft {

template <class T>
struct alignas(16) Pack {
  static constexpr int kElements = 16 / int(sizeof(T));
  T values[kElements];
};

WEFT_HD float widen(float value) {
  return value;
}
WEFT_HD float widen(bf16 value) {
  return __builtin_bit_cast(float, u32(value.bits) << 16);
}
WEFT_HD float widen(f16 value) {
  return static_cast<float>(value);
}

template <class T>
WEFT_HD T narrow(float value) {
  return T(value);
}

// Tells the compiler what was checked: a GPU moves 16 bytes at once only where it knows that it may.
template <class T>
WEFT_HD bool is_pack_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// `count` elements (at most a pack) of memory with no alignment; the others are zero.
template <class T>
WEFT_HD Pack<T> load_pack(const T* source, i64 count) {
  Pack<T> pack{};
  if (count >= Pack<T>::kElements && is_pack_aligned(source)) {
    memcpy(static_cast<void*>(&pack), __builtin_assume_aligned(source, 16), sizeof pack);
  } else if (count >= Pack<T>::kElements) {
    memcpy(static_cast<void*>(&pack), source, sizeof pack);
  } else {
    for (int i = 0; i < Pack<T>::kElements; ++i) {  // constant indices: the pack stays in registers
      if (i < count) pack.values[i] = source[i];
    }
  }
  return pack;
}

// Rounds `count` sums once and stores them.
template <class T>
WEFT_HD void store_sums(T* target, const float* sums, i64 count) {
  constexpr int kElements = Pack<T>::kElements;
  for (; count >= kElements && is_pack_aligned(target); count -= kElements, target += kElements, sums += kElements) {
    Pack<T> pack;
    for (int i = 0; i < kElements; ++i) pack.values[i] = narrow<T>(sums[i]);
    memcpy(static_cast<void*>(__builtin_assume_aligned(target, 16)), &pack, sizeof pack);
  }
  for (; count > 0; count -= kElements, target += kElements, sums += kElements) {
    for (int i = 0; i < kElements; ++i) {  // constant indices: the sums stay in registers
      if (i < count) target[i] = narrow<T>(sums[i]);
    }
  }
}

}  // namespace weft
