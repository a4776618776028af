// The weighted sum of a token's experts, 8 columns at a time.
#pragma once
#include <bit>
#include <type_traits>

#include "base/dtype.h"

namespace weft {

// See CudaExpertSumArgs. rows and weights start at multiples of 16 bytes.
struct ExpertSums {
  const u16* products;  // bf16 or f16
  i64 n;                // and their row stride
  const i32* rows;
  const float* weights;
  int per_token;

  // sums[k]: columns [column[k], column[k] + 8) of the sum of token[k], products being of type T. Loads of 8 experts of
  // all N are under way at once.
  template <class T, int N>
  __device__ __forceinline__ void add_up(const u32 (&token)[N], const u32 (&column)[N], float (&sums)[N][8]) const {
#pragma unroll
    for (int k = 0; k < N; ++k)
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[k][i] = 0;
    if (per_token == 8) {
      i32 row[N][8];
      bool whole = true;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        load_eight(i64(token[k]) * 8, row[k]);
        whole = whole && row[k][7] >= 0;
      }
      if (whole) {
        uint4 held[N][8];
#pragma unroll
        for (int k = 0; k < N; ++k)
#pragma unroll
          for (int j = 0; j < 8; ++j) held[k][j] = load(row[k][j], column[k]);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const float4* factors = reinterpret_cast<const float4*>(weights + i64(token[k]) * 8);
          const float4 low = factors[0], high = factors[1];
          const float weight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int j = 0; j < 8; ++j) add<T>(weight[j], held[k][j], sums[k]);
        }
        return;
      }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) add_few<T>(i64(token[k]) * per_token, column[k], sums[k]);
  }

 private:
  __device__ __forceinline__ void load_eight(i64 first, i32 (&row)[8]) const {
    const int4* from = reinterpret_cast<const int4*>(rows + first);
    const int4 low = from[0], high = from[1];
    row[0] = low.x, row[1] = low.y, row[2] = low.z, row[3] = low.w;
    row[4] = high.x, row[5] = high.y, row[6] = high.z, row[7] = high.w;
  }
  __device__ __forceinline__ uint4 load(i32 row, u32 column) const {
    return __ldcs(reinterpret_cast<const uint4*>(products + row * n + column));
  }
  template <class T>
  __device__ __forceinline__ static void add(float weight, const uint4& eight, float (&sums)[8]) {
    const u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        sums[i * 2] += weight * __uint_as_float(words[i] << 16);
        sums[i * 2 + 1] += weight * __uint_as_float(words[i] & 0xffff0000u);
      } else {
        sums[i * 2] += weight * float(std::bit_cast<T>(u16(words[i])));
        sums[i * 2 + 1] += weight * float(std::bit_cast<T>(u16(words[i] >> 16)));
      }
    }
  }
  // Any number of experts, four at a time.
  template <class T>
  __device__ __forceinline__ void add_few(i64 first, u32 column, float (&sums)[8]) const {
    for (int at = 0; at < per_token; at += 4) {
      i32 row[4];
      uint4 held[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) row[j] = at + j < per_token ? rows[first + at + j] : -1;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (row[j] >= 0) held[j] = load(row[j], column);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (row[j] >= 0) add<T>(weights[first + at + j], held[j], sums);
    }
  }
};

}  // namespace weft
