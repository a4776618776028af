// mix64: a 64-bit number whose bits all depend on all bits of another.
#pragma once
#include "base/types.h"

namespace weft {

// The finaliser of splitmix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, 2014). A bijection.
constexpr u64 mix64(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace weft
