#include "dist/gemm_rs/cuda_schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>
namespace weft {
namespace {

// Of every rank: all tiles of all owners once, a partial where its owner looks for it, all peers' tiles of a part
// before the first own tile of it, so that no wait is in vain, and a CTA's last tile marked.
template <int M, int N>
void check(int m, int n, int ranks, int most_parts, int ctas) {
  const RankRows rows(m, ranks);
  const int down = int(divide_up(rows.base, M)), parts = std::clamp(down, 1, most_parts);
  CudaGemmRsPlan plan;
  plan.gemm = {{M, N}, int(rows.blocks(ranks, M)), int(divide_up(n, N)), ctas, 3};
  plan.parts = parts, plan.part_rows = std::max(1, down / parts);
  const auto schedule_of = [&](int rank) { return GemmRsSchedule<M, N>::of(plan, m, ranks, rank); };
  SCOPED_TRACE(fmt::format("{} x {} in {} x {}, {} ranks, {} parts", m, n, M, N, ranks, parts));
  // What each owner finds at a place: its row and column.
  std::vector<std::map<int, std::pair<int, int>>> sent(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    const auto schedule = schedule_of(rank);
    std::vector<std::map<std::pair<int, int>, int>> seen(static_cast<size_t>(ranks));
    typename GemmRsSchedule<M, N>::At at;
    int count = 0;
    for (; schedule.tile(count, ctas, at); ++count) {
      const int owner = (rank + at.distance) % ranks;
      ASSERT_EQ(at.own, owner == rank);
      ASSERT_EQ(at.last, count + ctas >= schedule.tiles);
      ASSERT_EQ(at.row, rows.begin(owner) + at.local);
      ASSERT_LT(at.local, rows.size(owner));
      ASSERT_LT(at.n * N, n);
      ++seen[size_t(owner)][{at.local, at.n}];
      if (at.own) continue;
      const auto [place, fresh] = sent[size_t(owner)].try_emplace(at.pos, at.local, at.n);
      ASSERT_EQ(place->second, (std::pair{at.local, at.n})) << "differs over ranks";
    }
    ASSERT_EQ(count, schedule.tiles);
    for (int owner = 0; owner < ranks; ++owner) {
      ASSERT_EQ(i64(seen[size_t(owner)].size()), divide_up(n, N) * divide_up(rows.size(owner), M))
          << "rank " << rank << ", owner " << owner;
      for (const auto& [place, times] : seen[size_t(owner)]) ASSERT_EQ(times, 1);
    }
  }
  for (int rank = 0; rank < ranks; ++rank) {
    const auto schedule = schedule_of(rank);
    const auto part_of = [&](int local) { return std::min(local / M / plan.part_rows, parts - 1); };
    std::map<int, int> first_own, last_peers;  // by part: indices
    typename GemmRsSchedule<M, N>::At at;
    for (int i = 0; schedule.tile(i, ctas, at); ++i) {
      const int part = part_of(at.local);
      if (!at.own) {
        last_peers[part] = i;
        continue;
      }
      first_own.try_emplace(part, i);
      const auto found = sent[size_t(rank)].find(at.pos);
      ASSERT_NE(found, sent[size_t(rank)].end());
      ASSERT_EQ(found->second, (std::pair{at.local, at.n}));
    }
    for (const auto& [part, own] : first_own)
      for (const auto& [peers_part, last] : last_peers)
        if (peers_part <= part) ASSERT_LT(last, own) << "a wait for what this CTA has yet to send";
  }
}

TEST(GemmRsSchedule, AllTilesComeOnceAndPartialsLieWhereTheirOwnerLooks) {
  for (const int ranks : {2, 3, 4, 8})
    for (const int m : {1, 5, 129, 511, 1024, 4099})
      for (const int n : {8, 200, 1000, 5120})
        for (const int parts : {1, 2, 5}) {
          check<128, 160>(m, n, ranks, parts, 132);
          check<128, 128>(m, n, ranks, parts, 33);
          check<256, 160>(m, n, ranks, 1, 128);
          if (HasFatalFailure()) return;
        }
}

}  // namespace
}  // namespace weft
