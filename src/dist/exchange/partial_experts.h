// Partial sums of a step's experts whose K is split over ranks, as tiles to exchange.
#pragma once
#include "dist/exchange/partial.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

struct ExpertProducts {
  const ActivationView& a;  // [pairs, k_r]
  const ExpertGroups& groups;
  const GroupedWeight& w;  // [n, k_r] each

  // out [cut.tiles.elements]: tiles [begin, end) of the weighted sums of tokens first to first + cut.rows.
  void multiply(const ProductTiles& cut, i64 first, i64 begin, i64 end, float* out) const {
    if (cut.rows == 0 || cut.n == 0) return;
    std::fill(out + cut.tiles.begin(begin), out + cut.tiles.end(end - 1), 0.0f);
    const i64 step = cut.rows == 1 ? end - begin : 1;  // a row of all tiles is contiguous
    for (i64 tile = begin; tile < end; tile += step) {
      const GemmTile part{first, first + cut.rows, cut.column(tile), std::min(cut.n, cut.column(tile + step))};
      grouped_sum_tile(a, groups, w, part, out + cut.tiles.begin(tile), cut.rows == 1 ? cut.n : cut.pitch(tile));
    }
  }
};

// What the operators ask of their input.
inline Status expect_experts(const char* op, const Exec& exec, const ExpertProducts& e, i64 max_m, i64 n) {
  WEFT_TRY(expect_cpu(op, exec));
  WEFT_TRY(check_grouped_input(op, e.a, e.groups.pairs(), e.groups, e.w));
  if (e.w.n() != n || e.groups.tokens() > max_m) {
    return error(Code::kInvalidArgument, "{}: {} tokens and {} [{}, {}] do not go with max_m = {}, n = {}", op,
                 e.groups.tokens(), e.w.name(), e.w.n(), e.w.k(), max_m, n);
  }
  return {};
}

}  // namespace weft
