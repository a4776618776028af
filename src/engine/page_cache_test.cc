#include "engine/page_cache.h"

#include <gtest/gtest.h>

#include "engine/ngram.h"

namespace weft {
namespace {

using Tokens = std::vector<i32>;

// A sequence of full pages in the cache, as its only user.
std::vector<i32> cache_sequence(PageCache& cache, const Tokens& tokens) {
  std::vector<i32> pages;
  for (size_t at = 0; at + 2 <= tokens.size(); at += 2) {
    const std::span<const i32> page(tokens.data() + at, 2);
    const i32 parent = pages.empty() ? PageCache::kRoot : pages.back();
    const auto mine = cache.allocate();
    EXPECT_TRUE(mine);
    pages.push_back(cache.insert(parent, *mine, page));
  }
  cache.check();
  return pages;
}

std::vector<i32> find_sequence(PageCache& cache, const Tokens& tokens) {
  std::vector<i32> pages;
  for (size_t at = 0; at + 2 <= tokens.size(); at += 2) {
    const auto page = cache.find(pages.empty() ? PageCache::kRoot : pages.back(), {tokens.data() + at, 2});
    if (!page) break;
    pages.push_back(*page);
  }
  return pages;
}

TEST(PageCache, SharesBeginningsAndOnlyThose) {
  PageCache cache(8, 2);
  const auto first = cache_sequence(cache, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(find_sequence(cache, {1, 2, 3, 4, 9, 9}), std::vector<i32>(first.begin(), first.begin() + 2));
  EXPECT_EQ(cache.users(first[0]), 2);
  EXPECT_EQ(cache.users(first[2]), 1);
  EXPECT_TRUE(find_sequence(cache, {3, 4}).empty());  // the same tokens elsewhere
  EXPECT_EQ(cache.used(), 3);
}

TEST(PageCache, APageComputedTwiceIsKeptOnce) {
  PageCache cache(8, 2);
  const auto first = cache_sequence(cache, {1, 2, 3, 4});
  const auto second = cache_sequence(cache, {1, 2, 7, 8});
  EXPECT_EQ(second[0], first[0]);
  EXPECT_NE(second[1], first[1]);
  EXPECT_EQ(cache.used(), 3);
}

TEST(PageCache, TheLeastRecentlyUsedLeafGoesFirst) {
  PageCache cache(4, 2);
  cache.release(cache_sequence(cache, {1, 2, 3, 4}));
  cache.release(cache_sequence(cache, {5, 6, 7, 8}));
  EXPECT_EQ(cache.available(), 4);
  EXPECT_EQ(cache.idle(), 4);
  cache.release(find_sequence(cache, {1, 2, 3, 4}));  // used again
  const auto page = cache.allocate();                 // takes {7, 8}
  ASSERT_TRUE(page);
  cache.check();
  EXPECT_EQ(find_sequence(cache, {5, 6, 7, 8}).size(), 1u);  // which keeps {5, 6}
  ASSERT_TRUE(cache.allocate());                             // so {3, 4} goes
  EXPECT_EQ(find_sequence(cache, {1, 2, 3, 4}).size(), 1u);
  EXPECT_FALSE(cache.allocate());  // all have users
  cache.check();
}

TEST(PageCache, APrivatePageIsFreeAgain) {
  PageCache cache(1, 2);
  const auto page = cache.allocate();
  ASSERT_TRUE(page);
  EXPECT_FALSE(cache.allocate());
  cache.release(std::vector<i32>{*page});
  EXPECT_EQ(cache.idle(), 0);
  EXPECT_TRUE(cache.allocate());
}

Tokens draft(const Tokens& tokens, i64 most) {
  const auto found = draft_by_ngram(tokens, most);
  return {found.begin(), found.end()};
}

TEST(Draft, IsWhatFollowedTheLatestSamePlace) {
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 1, 2, 3}, 2), (Tokens{4, 5}));
  EXPECT_EQ(draft({1, 2, 3, 4, 1, 2, 3, 6, 1, 2, 3}, 1), (Tokens{6}));
  EXPECT_EQ(draft({9, 2, 3, 4, 1, 2, 3}, 3), (Tokens{4, 1, 2}));  // two tokens will do
  EXPECT_EQ(draft({7, 7, 7, 7}, 9), (Tokens{7}));
  EXPECT_TRUE(draft({1, 2, 3, 4}, 4).empty());
  EXPECT_TRUE(draft({1, 2, 1, 2}, 0).empty());
  EXPECT_TRUE(draft({}, 4).empty());
}

}  // namespace
}  // namespace weft
