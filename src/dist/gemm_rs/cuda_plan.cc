#include "dist/gemm_rs/cuda_plan.h"

#include <array>
#include <utility>
#include <vector>

#include "dist/exchange/rank_rows.h"

namespace weft {
namespace {

constexpr std::array kTiles = {GemmTileShape{256, 160, 3}, GemmTileShape{256, 128, 3}, GemmTileShape{128, 160, 5},
                               GemmTileShape{128, 128, 5}};

// In clocks of H200s: from the last store to a peer until that peer has it; and the bytes that leave a GPU in a clock.
constexpr double kWayClocks = 2500, kWireBytes = 220;

// Of gemm_ar's push, the rows of tiles in `parts`: when all CTAs are through, turn after turn, and the last bytes have
// come.
double push_clocks(const GemmPlan& gemm, i64 tiles_m, int ranks, int parts) {
  const double turn = gemm.clocks / gemm.waves(), tile_bytes = double(gemm.tile.m) * gemm.tile.n * 2;
  struct Run {
    bool own;
    int part;
    i64 begin, end;  // in the order of the walk
  };
  std::vector<Run> runs;
  i64 tiles = 0;
  const auto add = [&](bool own, int part) {
    const i64 part_rows = tiles_m / parts, down = part < parts - 1 ? part_rows : tiles_m - part * part_rows;
    const i64 count = down * gemm.tiles_n * (own ? 1 : ranks - 1);
    runs.push_back({own, part, tiles, tiles + count});
    tiles += count;
  };
  for (int part = 0; part < parts; ++part) {
    add(false, part);
    if (part > 0) add(true, part - 1);
  }
  add(true, parts - 1);
  std::vector<double> arrived(size_t(parts), 0.0);
  double now = 0, wire = 0, end = 0;
  for (i64 first = 0; first < tiles; first += gemm.ctas) {
    now += turn;
    for (const Run& run : runs) {
      const i64 count = std::min(first + gemm.ctas, run.end) - std::max(first, run.begin);
      if (count <= 0) continue;
      double& came = arrived[size_t(run.part)];
      if (!run.own) {
        wire = std::max(wire, now) + double(count) * tile_bytes / kWireBytes;
        came = wire + kWayClocks;
        continue;
      }
      if (first >= run.begin) now = std::max(now, came);
      wire = std::max({wire, now, came}) + double(count) * tile_bytes * (ranks - 1) / kWireBytes;
      end = wire + kWayClocks;
    }
  }
  return end;
}

// Every rank has at least `least_m` rows of tiles.
void plan_parts(CudaGemmRsPlan& plan, i64 tiles_m, i64 least_m, int ranks) {
  double best = 0;
  for (int parts = 1; parts <= std::clamp<i64>(least_m, 1, 8); ++parts) {
    const double clocks = push_clocks(plan.gemm, tiles_m, ranks, parts);
    if (best > 0 && clocks >= best) continue;
    best = clocks;
    plan.parts = parts, plan.part_rows = int(std::max<i64>(1, least_m / parts));
  }
}

// How gemm_ar's finished rows go back, beside what has yet to be computed. Every rank has at least `rows` rows.
void plan_way_back(CudaGemmRsPlan& plan, i64 rows) {
  const int tile_rows = int(divide_up(rows, plan.gemm.tile.m));
  const int wave_rows = std::max(1, plan.gemm.ctas / plan.gemm.tiles_n), waves = tile_rows / wave_rows;
  const int returned = waves - std::clamp(waves / 2, 1, 2);
  if (returned <= 0) return;
  const int chunk_waves = std::max<int>(std::min(2, returned), divide_up(returned, kRsMostChunks));
  plan.returned_rows = chunk_waves * wave_rows;
  plan.returned_chunks = returned / chunk_waves;
  plan.gemm.group = std::min(plan.gemm.group, plan.returned_rows);  // a chunk is whole before the next begins
}

}  // namespace

std::span<const GemmTileShape> cuda_gemm_rs_tiles() {
  return kTiles;
}

CudaGemmRsPlan plan_cuda_gemm_rs(i64 m, i64 n, i64 k, int ranks, int max_ctas, FusedVariant forced, bool to_all) {
  CudaGemmRsPlan plan;
  plan.variant = choose_fused_variant(m, ranks, forced);
  plan.few = plan.variant == FusedVariant::kPush && m <= kFewRows;
  if (plan.variant == FusedVariant::kSplit || plan.few) return plan;
  const RankRows rows(m, ranks);
  const bool push = plan.variant == FusedVariant::kPush;
  const int ctas = std::max(1, max_ctas - fused_spare_sms(max_ctas));
  // The last copy hides under the owner's own rows, if these are a wave; else smaller tiles, whose waves are shorter:
  // as gemm_ar wants them, whose last wave is stored to all ranks with nothing to hide under.
  const bool large = !push && !to_all && divide_up(rows.most(), 256) * divide_up(n, 160) >= ctas;
  for (const GemmTileShape& tile : kTiles) {
    if ((tile.m == 256) != large) continue;
    GemmPlan gemm = plan_gemm_sm90(rows.blocks(ranks, tile.m) * tile.m, n, k, ctas, std::span(&tile, 1));
    if (plan.gemm.ctas == 0 || gemm.clocks < plan.gemm.clocks) plan.gemm = gemm;
  }
  const i64 tiles_m = divide_up(rows.most(), plan.gemm.tile.m), per_owner = tiles_m * plan.gemm.tiles_n;
  const i64 chunks = std::clamp<i64>(per_owner / plan.gemm.ctas, 1, kRsMostChunks);
  plan.tiles_per_chunk = int(divide_up(per_owner, chunks));
  if (to_all && push) plan_parts(plan, tiles_m, divide_up(rows.base, plan.gemm.tile.m), ranks);
  if (to_all && !push) plan_way_back(plan, rows.base);
  return plan;
}

i64 cuda_gemm_rs_slot_bytes(i64 rows, i64 n) {
  i64 bytes = 0;
  for (const GemmTileShape& tile : kTiles)
    bytes = std::max(bytes, divide_up(rows, tile.m) * divide_up(n, tile.n) * tile.m * tile.n * 2);
  return bytes;
}

}  // namespace weft
