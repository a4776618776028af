// The weighted sum of a token's experts, 8 columns at a time.
#pragma once
#include "base/types.h"

namespace weft {

// See CudaExpertSumArgs.
struct ExpertSums {
  const bf16* products;
  i64 n;  // and their row stride
  const i32 *pairs, *rows;
  const float* weights;
  int per_token;

  // sums: columns [column, column + 8) of the token's sum. Loads of 8 experts are under way at once.
  __device__ __forceinline__ void add_up(i64 token, i64 column, float (&sums)[8]) const {
    const i32* mine = rows + token * per_token;
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = 0;
    int at = 0;
    for (; at + 8 <= per_token && mine[at + 7] >= 0; at += 8) add_rows<8>(mine + at, column, sums);
    for (; at + 2 <= per_token && mine[at + 1] >= 0; at += 2) add_rows<2>(mine + at, column, sums);
    if (at < per_token && mine[at] >= 0) add_rows<1>(mine + at, column, sums);
  }

 private:
  template <int Count>
  __device__ __forceinline__ void add_rows(const i32* mine, i64 column, float (&sums)[8]) const {
    i32 row[Count];
    uint4 held[Count];
    float weight[Count];
#pragma unroll
    for (int j = 0; j < Count; ++j) row[j] = mine[j];
#pragma unroll
    for (int j = 0; j < Count; ++j) held[j] = __ldcs(reinterpret_cast<const uint4*>(products + row[j] * n + column));
#pragma unroll
    for (int j = 0; j < Count; ++j) weight[j] = weights[pairs[row[j]]];
#pragma unroll
    for (int j = 0; j < Count; ++j) {
      const u32 words[4] = {held[j].x, held[j].y, held[j].z, held[j].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i * 2] += weight[j] * __uint_as_float(words[i] << 16);
        sums[i * 2 + 1] += weight[j] * __uint_as_float(words[i] & 0xffff0000u);
      }
    }
  }
};

}  // namespace weft
