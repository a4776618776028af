#include "device/trace.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

namespace weft {
namespace {

TraceMark mark(u64 ns, u16 thread, TracePhase phase, bool end, u32 arg = 0) {
  return {ns, arg, thread, u8(u8(phase) | (end ? TraceMark::kEnd : 0)), 3};
}

TEST(Trace, MarksPairByThreadAndPhase) {
  const std::vector<TraceMark> ring = {
      mark(10, 0, TracePhase::kTile, false, 7), mark(11, 128, TracePhase::kTile, false, 8),
      mark(12, 0, TracePhase::kWait, false, 1), mark(13, 0, TracePhase::kWait, true),
      mark(14, 0, TracePhase::kTile, true),     mark(15, 128, TracePhase::kTile, true)};
  const auto spans = pair_marks(5, ring, ring.size());
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[0].phase, TracePhase::kWait);
  EXPECT_EQ(std::make_tuple(spans[0].arg, spans[0].begin_ns, spans[0].end_ns), std::make_tuple(1u, u64(12), u64(13)));
  EXPECT_EQ(std::make_tuple(spans[1].thread, spans[1].arg, spans[1].cta), std::make_tuple(u16(0), 7u, 5u));
  EXPECT_EQ(std::make_tuple(spans[2].thread, spans[2].arg, spans[2].op), std::make_tuple(u16(128), 8u, u8(3)));
}

TEST(Trace, AnOverwrittenRingKeepsWholeSpansOnly) {
  // Seven marks went into a ring of four: what is left is end, begin, end, begin.
  std::vector<TraceMark> all;
  for (u64 i = 0; i < 7; ++i) all.push_back(mark(i, 0, TracePhase::kPush, i % 2 == 1, u32(i)));
  std::vector<TraceMark> ring(4);
  for (u64 i = 0; i < 7; ++i) ring[i % 4] = all[i];
  const auto spans = pair_marks(0, ring, 7);
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0].arg, 4u);
  EXPECT_EQ(spans[0].end_ns, 5u);
  EXPECT_TRUE(pair_marks(0, ring, 0).empty());
  EXPECT_TRUE(pair_marks(0, {}, 0).empty());
}

TEST(Trace, RanksShareOneClockInTheFile) {
  const std::string path = testing::TempDir() + "weft_trace_test.json";
  const TraceSpan span{0, TracePhase::kWait, 2, 256, 1, 5000, 7500};
  const RankTrace traces[] = {{0, "GPU A", 0, {"ag_gemm"}, {span}}, {1, "GPU B", -1500, {"ag_gemm"}, {span}}};
  const Status written = write_trace(path, traces);
  ASSERT_TRUE(written.ok()) << written.message();
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  std::vector<nlohmann::json> events;
  for (const auto& event : json["traceEvents"])
    if (event["ph"] == "X") events.push_back(event);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["ts"], 1.5);  // rank 1 began first
  EXPECT_EQ(events[1]["ts"], 0.0);
  EXPECT_EQ(events[1]["dur"], 2.5);
  EXPECT_EQ(events[1]["pid"], 1);
  EXPECT_EQ(events[1]["cat"], "ag_gemm");
  EXPECT_EQ(json["traceEvents"][0]["args"]["name"], "rank 0 (GPU A)");
  std::remove(path.c_str());
  const Status refused = write_trace("/nowhere/trace.json", traces);
  EXPECT_EQ(refused.message(), "trace /nowhere/trace.json: cannot write");
}

}  // namespace
}  // namespace weft
