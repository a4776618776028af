#include "dist/exchange/tuner.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "dist/exchange/fused_plan.h"

namespace weft {
namespace {

// A path in the test's own folder, with no file there.
std::string fresh_path(const char* name) {
  const std::string path = testing::TempDir() + "weft_tuner_" + name + ".txt";
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".lock");
  return path;
}

// Every rank's choice.
std::vector<Result<int>> tune(int ranks, const std::function<Result<int>(World&)>& one) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<Result<int>> chosen(size_t(ranks), error(Code::kAborted, "did not run"));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] { chosen[size_t(rank)] = one(*worlds[size_t(rank)]); });
  for (auto& thread : threads) thread.join();
  return chosen;
}

const std::vector<std::string> kWays = {"split", "push", "copy"};

TEST(Tuner, TheSlowestRankDecidesAndTheCacheRemembers) {
  const std::string path = fresh_path("remembers");
  int timed = 0;
  const auto round = [&](double last) {
    return tune(3, [&](World& world) -> Result<int> {
      auto cache = TuningCache::open(world.rank() == 0 ? path : "");
      if (!cache.ok()) return cache.status();
      // Rank 2 finds "push" slow, which the others find the fastest.
      return choose_fastest(world, &*cache, "ag_gemm 4096", kWays, [&, last](int i) -> Result<double> {
        if (world.rank() == 0) ++timed;
        return i == 0 ? 30.0 : i == 1 ? (world.rank() == 2 ? 50.0 : 5.0) : last;
      });
    });
  };
  for (const auto& choice : round(20)) {
    ASSERT_TRUE(choice.ok()) << choice.status().message();
    EXPECT_EQ(*choice, 2);
  }
  EXPECT_EQ(timed, 3);
  for (const auto& choice : round(99)) EXPECT_EQ(*choice, 2);  // out of the file
  EXPECT_EQ(timed, 3);
  const auto cache = TuningCache::open(path);
  ASSERT_TRUE(cache.ok());
  EXPECT_EQ(cache->find("ag_gemm 4096"), "copy");
  EXPECT_EQ(cache->find("ag_gemm 2048"), std::nullopt);
}

TEST(Tuner, ACandidateThatFailsAnywhereIsOut) {
  const auto choices = tune(2, [](World& world) {
    return choose_fastest(world, nullptr, "key", kWays, [&](int i) -> Result<double> {
      if (i == 1 && world.rank() == 1) return error(Code::kResourceExhausted, "no memory for push");
      return i == 1 ? 1.0 : i == 0 ? 3.0 : 4.0;
    });
  });
  for (const auto& choice : choices) EXPECT_EQ(*choice, 0);
  const auto none = tune(2, [](World& world) {
    return choose_fastest(world, nullptr, "key", kWays,
                          [&](int) -> Result<double> { return error(Code::kResourceExhausted, "no memory"); });
  });
  for (const auto& choice : none) {
    EXPECT_EQ(choice.status().code(), Code::kResourceExhausted);
    EXPECT_NE(choice.status().message().find("no memory"), std::string::npos) << choice.status().message();
  }
}

TEST(Tuner, RanksThatDisagreeAreTold) {
  const auto choices = tune(2, [](World& world) {
    return choose_fastest(world, nullptr, world.rank() == 0 ? "m 128" : "m 256", kWays,
                          [](int) -> Result<double> { return 1.0; });
  });
  for (const auto& choice : choices) {
    EXPECT_EQ(choice.status().code(), Code::kInvalidArgument);
    EXPECT_NE(choice.status().message().find("m 256"), std::string::npos) << choice.status().message();
  }
}

TEST(Tuner, AChoiceThatIsNoLongerACandidateIsMeasuredAgain) {
  const auto choices = tune(2, [](World& world) -> Result<int> {
    auto cache = TuningCache::open("");
    if (const Status stored = cache->store("key", "gone", 1); !stored.ok()) return stored;
    return choose_fastest(world, &*cache, "key", kWays, [](int i) -> Result<double> { return 3.0 - i; });
  });
  for (const auto& choice : choices) EXPECT_EQ(*choice, 2);
}

TEST(FusedChoice, TakesWhatWasTunedAndTheRuleBeyond) {
  using enum FusedVariant;
  const auto choice = FusedChoice::parse("op", {.tuned = {{16, kSplit}, {256, kCopy}, {512, kSplit}}});
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->at(1, 4), kSplit);
  EXPECT_EQ(choice->at(17, 4), kCopy);
  EXPECT_EQ(choice->at(512, 4), kSplit);
  EXPECT_EQ(choice->at(1024, 4), kPush);  // the rule's
  EXPECT_EQ(choice->at(4096, 4), kCopy);
  const auto forced = FusedChoice::parse("op", {.variant = "push", .tuned = {{16, kSplit}}});
  EXPECT_EQ(forced->at(8, 4), kPush);
  EXPECT_EQ(forced->most_rows(kPush, 100, 4), 100);
  EXPECT_EQ(forced->most_rows(kSplit, 100, 4), 0);
  EXPECT_EQ(FusedChoice::parse("op", {.variant = "none"}).status().code(), Code::kInvalidArgument);
  for (const std::vector<TunedVariant>& wrong :
       {std::vector<TunedVariant>{{16, kSplit}, {16, kPush}}, {{0, kSplit}}, {{16, kAuto}}})
    EXPECT_NE(FusedChoice::parse("op", {.tuned = wrong}).status().message().find("tuned"), std::string::npos);
}

TEST(FusedChoice, PushesWhereCopiesMayNotBe) {
  using enum FusedVariant;
  for (const std::vector<TunedVariant>& tuned : {std::vector<TunedVariant>{}, {{256, kCopy}, {512, kSplit}}}) {
    const auto with = FusedChoice::parse("op", {.tuned = tuned});
    const auto without = FusedChoice::parse("op", {.tuned = tuned}, false);
    ASSERT_TRUE(without.ok());
    for (const i64 m : {1, 200, 500, 1000, 4096}) {
      const FusedVariant wanted = with->at(m, 4);
      EXPECT_EQ(without->at(m, 4), wanted == kCopy ? kPush : wanted) << m;
    }
    EXPECT_EQ(without->most_rows(kCopy, 4096, 4), 0);
    EXPECT_EQ(without->most_rows(kPush, 4096, 4), 4096);
  }
  EXPECT_EQ(FusedChoice::parse("op", {.variant = "copy"}, false).status().code(), Code::kUnimplemented);
  EXPECT_TRUE(FusedChoice::parse("op", {.variant = "push"}, false).ok());
}

// Whatever is chosen for m rows, its buffers hold them; and none is larger than it must be.
TEST(FusedChoice, BuffersHoldEveryRowCountThatIsChosen) {
  using enum FusedVariant;
  const std::vector<TunedVariant> tables[] = {
      {}, {{64, kSplit}}, {{16, kPush}, {4096, kCopy}}, {{128, kCopy}, {300, kPush}, {900, kSplit}}};
  for (const auto& tuned : tables)
    for (const char* name : {"auto", "split", "push", "copy"})
      for (const int ranks : {2, 4, 8})
        for (const i64 max_m : {1, 100, 300, 700, 2000, 5000}) {
          const auto choice = FusedChoice::parse("op", {.variant = name, .tuned = tuned});
          ASSERT_TRUE(choice.ok());
          for (const FusedVariant variant : {kSplit, kPush, kCopy}) {
            i64 most = 0;
            for (i64 m = 1; m <= max_m; ++m)
              if (choice->at(m, ranks) == variant) most = m;
            const i64 room = choice->most_rows(variant, max_m, ranks);
            EXPECT_GE(room, most) << name << " " << ranks << " ranks, " << max_m;
            EXPECT_LE(room, max_m);
          }
        }
}

TEST(TuningCache, KeepsWhatOthersWroteMeanwhile) {
  const std::string path = fresh_path("others");
  auto first = TuningCache::open(path), second = TuningCache::open(path);
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(first->store("a", "push", 1).ok());
  ASSERT_TRUE(second->store("b", "copy", 2).ok());
  const auto all = TuningCache::open(path);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->find("a"), "push");
  EXPECT_EQ(all->find("b"), "copy");
}

TEST(TuningCache, NamesTheLineItCannotRead) {
  const std::string path = fresh_path("broken");
  const auto complaint = [&](const std::string& text) {
    std::ofstream(path, std::ios::trunc) << text;
    return TuningCache::open(path).status();
  };
  EXPECT_EQ(complaint("{}").code(), Code::kDataLoss);
  EXPECT_NE(complaint("{}").message().find("line 1"), std::string::npos);
  const std::string head = "# weft tuning 1: key, choice, microseconds\n";
  EXPECT_TRUE(complaint(head + "a b\tpush\t1.5\n").ok());
  for (const char* line : {"a b", "a\tpush", "a\tpush\tsoon", "a\tpush\t1.5x", "a\t\t1", "a\tpush\t-1"})
    EXPECT_NE(complaint(head + line + "\n").message().find("line 2"), std::string::npos) << line;
  auto cache = TuningCache::open("");
  EXPECT_EQ(cache->store("a\tb", "push", 1).code(), Code::kInvalidArgument);
  EXPECT_EQ(cache->store("a", "pu\nsh", 1).code(), Code::kInvalidArgument);
  auto nowhere = TuningCache::open("/nonexistent/folder/tuning.txt");
  ASSERT_TRUE(nowhere.ok());
  EXPECT_EQ(nowhere->store("a", "push", 1).code(), Code::kIo);
}

}  // namespace
}  // namespace weft
