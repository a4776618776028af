// Philox 4x32-10, a counter-based random generator. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3,
// 2011.
#pragma once
#include <array>

#include "base/types.h"

namespace weft {

constexpr std::array<u32, 4> philox4x32(std::array<u32, 4> counter, std::array<u32, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const u64 a = u64(0xD2511F53) * counter[0], b = u64(0xCD9E8D57) * counter[2];
    counter = {u32(b >> 32) ^ counter[1] ^ key[0], u32(b), u32(a >> 32) ^ counter[3] ^ key[1], u32(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

}  // namespace weft
