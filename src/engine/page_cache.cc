#include "engine/page_cache.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/mix.h"

namespace weft {
namespace {

u64 key_of(i32 parent, std::span<const i32> tokens) {
  u64 key = u64(u32(parent)) + 0x9e3779b97f4a7c15u;
  for (i32 token : tokens) key = mix64(key + u32(token));
  return key;
}

}  // namespace

PageCache::PageCache(i64 pages, i64 page_tokens)
    : page_tokens_(page_tokens), pages_(size_t(pages)), tokens_(size_t(pages * page_tokens)), free_(size_t(pages)) {
  std::iota(free_.rbegin(), free_.rend(), 0);  // page 0 first
}

std::span<i32> PageCache::tokens_of(i32 page) {
  return {tokens_.data() + page * page_tokens_, size_t(page_tokens_)};
}

void PageCache::link_newest(i32 page) {
  Page& p = pages_[size_t(page)];
  p.older = newest_;
  p.newer = -1;
  (newest_ < 0 ? oldest_ : pages_[size_t(newest_)].newer) = page;
  newest_ = page;
  ++idle_;
}

void PageCache::unlink(i32 page) {
  const Page& p = pages_[size_t(page)];
  (p.older < 0 ? oldest_ : pages_[size_t(p.older)].newer) = p.newer;
  (p.newer < 0 ? newest_ : pages_[size_t(p.newer)].older) = p.older;
  --idle_;
}

void PageCache::forget(i32 page) {
  Page& p = pages_[size_t(page)];
  WEFT_CHECK(p.cached && p.users == 0 && p.children == 0, page, p.users, p.children);
  unlink(page);
  if (p.parent != kRoot) --pages_[size_t(p.parent)].children;
  auto [at, end] = index_.equal_range(p.key);
  at = std::find_if(at, end, [&](const auto& entry) { return entry.second == page; });
  index_.erase(at);
  p = {};
  free_.push_back(page);
}

std::optional<i32> PageCache::allocate() {
  if (free_.empty()) {
    if (idle_ == 0) return std::nullopt;
    forget(oldest_);  // a leaf: children become idle before their parents
  }
  const i32 page = free_.back();
  free_.pop_back();
  pages_[size_t(page)].users = 1;
  return page;
}

void PageCache::use(i32 page) {
  if (pages_[size_t(page)].users++ == 0) unlink(page);
}

std::optional<i32> PageCache::find(i32 parent, std::span<const i32> tokens) {
  const auto [begin, end] = index_.equal_range(key_of(parent, tokens));
  for (auto at = begin; at != end; ++at) {
    const i32 page = at->second;
    if (pages_[size_t(page)].parent != parent || !std::ranges::equal(tokens_of(page), tokens)) continue;
    use(page);
    return page;
  }
  return std::nullopt;
}

i32 PageCache::insert(i32 parent, i32 page, std::span<const i32> tokens) {
  Page& p = pages_[size_t(page)];
  WEFT_CHECK(!p.cached && p.users == 1, page, p.users);
  WEFT_CHECK(parent == kRoot || (cached(parent) && users(parent) > 0), parent);
  if (const std::optional<i32> same = find(parent, tokens)) {
    release(page);
    return *same;
  }
  p.cached = true;
  p.parent = parent;
  p.key = key_of(parent, tokens);
  if (parent != kRoot) ++pages_[size_t(parent)].children;
  std::ranges::copy(tokens, tokens_of(page).begin());
  index_.emplace(p.key, page);
  return page;
}

void PageCache::release(i32 page) {
  Page& p = pages_[size_t(page)];
  WEFT_CHECK(p.users > 0, page);
  if (--p.users > 0) return;
  if (p.cached) {
    link_newest(page);
  } else {
    p = {};
    free_.push_back(page);
  }
}

void PageCache::release(std::span<const i32> sequence) {
  for (size_t i = sequence.size(); i-- > 0;) release(sequence[i]);  // children before parents
}

void PageCache::check() const {
  std::vector<i32> children(pages_.size());
  i64 idle = 0, with_users = 0, cached = 0;
  for (const Page& p : pages_) {
    with_users += p.users > 0;
    cached += p.cached;
    idle += p.cached && p.users == 0;
    WEFT_CHECK(p.users >= 0 && (p.cached || p.users <= 1), p.users);
    if (!p.cached || p.parent == kRoot) continue;
    ++children[size_t(p.parent)];
    const Page& parent = pages_[size_t(p.parent)];
    WEFT_CHECK(parent.cached && parent.users >= std::min(p.users, 1), p.parent);
  }
  for (size_t i = 0; i < pages_.size(); ++i) WEFT_CHECK(children[i] == pages_[i].children, i, children[i]);
  WEFT_CHECK(idle == idle_ && i64(index_.size()) == cached, idle, idle_, index_.size(), cached);
  WEFT_CHECK(i64(free_.size()) + idle + with_users == total(), free_.size(), idle, with_users);
}

}  // namespace weft
