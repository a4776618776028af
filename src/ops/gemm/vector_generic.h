// The vector policy of kernel_body.h in plain C++. For kernel files and their tests only.
#pragma once
#include <cmath>

#include "base/dtype.h"
#include "ops/gemm/kernel_body.h"

namespace weft {
namespace {

struct Generic {
  static constexpr int kPlainRows = 4, kPlainPanels = 1, kPlainGemvPanels = 1;
  static constexpr int kQuantRows = 4, kQuantPanels = 1, kQuantGemvPanels = 1;
  static constexpr int kPeakAccumulators = 4;
  struct F {
    float v[16];
  };
  struct I {
    i32 v[16];
  };
  struct Bytes {
    u8 v[64];
  };
  struct Pairs {
    u32 v[16];
  };

  static F constant(float value) {
    F out;
    for (float& lane : out.v) lane = value;
    return out;
  }
  static F zero() { return constant(0); }
  static F broadcast(const float* at) { return constant(*at); }
  static F load(const float* at) { return load_some(at, 16); }
  static F load_some(const float* at, int count) {
    F out = zero();
    for (int i = 0; i < count; ++i) out.v[i] = at[i];
    return out;
  }
  static void store_some(float* at, F value, int count) {
    for (int i = 0; i < count; ++i) at[i] = value.v[i];
  }
  static F add(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
    return a;
  }
  static F mul(F a, F b) {
    for (int i = 0; i < 16; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static F fma(F a, F b, F c) {
    for (int i = 0; i < 16; ++i) c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  static F from_int(I a) {
    F out;
    for (int i = 0; i < 16; ++i) out.v[i] = float(a.v[i]);
    return out;
  }
  static I load_ints(const i32* at) {
    I out;
    __builtin_memcpy(out.v, at, 64);
    return out;
  }
  static I join_halves(I high, const I& low) {
    for (int i = 0; i < 16; ++i) high.v[i] = high.v[i] * 256 + low.v[i];
    return high;
  }
  static F load_half(const std::byte* at) {
    F out;
    for (int i = 0; i < 16; ++i) {
      f16 half;
      __builtin_memcpy(&half, at + i * 2, 2);
      out.v[i] = float(half);
    }
    return out;
  }

  static Bytes load_bytes(const std::byte* at) {
    Bytes out;
    __builtin_memcpy(out.v, at, 64);
    return out;
  }
  static void store_bytes(std::byte* at, const Bytes& a) { __builtin_memcpy(at, a.v, 64); }
  static Bytes low_nibbles(Bytes a) {
    for (u8& byte : a.v) byte &= 15;
    return a;
  }
  static Bytes high_nibbles(Bytes a) {
    for (u8& byte : a.v) byte >>= 4;
    return a;
  }
  struct Four {
    i8 v[4];
  };
  static Four broadcast_four(const std::byte* at) {
    Four out;
    __builtin_memcpy(out.v, at, 4);
    return out;
  }
  template <int kBits>
  struct Dot {
    using Acc = I;
    static I zero() { return {}; }
    static I add(I acc, const Bytes& w, Four x) {
      for (int i = 0; i < 16; ++i) {
        for (int t = 0; t < 4; ++t) acc.v[i] += i32(w.v[i * 4 + t]) * x.v[t];
      }
      return acc;
    }
    static I finish(I acc) { return acc; }
  };

  static Pairs load_pairs(const std::byte* at) {
    Pairs out;
    __builtin_memcpy(out.v, at, 64);
    return out;
  }
  static u32 broadcast_pair(u32 pair) { return pair; }
  static F dot_pairs(F acc, const Pairs& w, u32 x) {
    for (int i = 0; i < 16; ++i) {
      // The pair's second number is the high half of the word on little-endian machines.
      const float high =
          std::fma(std::bit_cast<float>(x & 0xffff0000), std::bit_cast<float>(w.v[i] & 0xffff0000), acc.v[i]);
      acc.v[i] = std::fma(std::bit_cast<float>(x << 16), std::bit_cast<float>(w.v[i] << 16), high);
    }
    return acc;
  }

  static void store_bf16(u16* at, F value, int count) {
    for (int i = 0; i < count; ++i) at[i] = bf16(value.v[i]).bits;
  }
  static u32 max_abs_bits(F a, F b) {
    u32 largest = 0;
    for (int i = 0; i < 16; ++i) {
      for (float value : {a.v[i], b.v[i]}) {
        const u32 bits = std::bit_cast<u32>(value) & 0x7fffffff;
        if (bits > largest) largest = bits;
      }
    }
    return largest;
  }
  // Rounds 16 numbers to integers: high halves at `at`, low ones 32 bytes on. Returns their sum.
  static i32 store_rounded(i8* at, F value) {
    i32 sum = 0;
    for (int i = 0; i < 16; ++i) {
      const float rounded = (value.v[i] + 0x1.8p23f) - 0x1.8p23f;  // to nearest even, for |value| < 2^22
      const i32 q = i32(rounded), high = (q + 128) >> 8;
      at[i] = i8(high);
      at[i + 32] = i8(q - high * 256);
      sum += q;
    }
    return sum;
  }
};

static_assert(std::endian::native == std::endian::little, "panels are little-endian");

}  // namespace
}  // namespace weft
