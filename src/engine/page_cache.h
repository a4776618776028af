// PageCache: who uses which page of the KV cache, and which pages hold beginnings that later sequences may share.
#pragma once
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/types.h"

namespace weft {

// A page is free, private (one user writes it) or cached: full, never written again, found by its tokens and those of
// all pages before it. Cached pages form a radix tree whose digits are whole pages; whoever uses a page uses its
// ancestors, too. Cached pages without users stay until their room is needed: the least recently used leaf goes first.
// Source: Zheng et al., SGLang: efficient execution of structured language model programs (RadixAttention), 2024; Kwon
// et al., Efficient memory management for large language model serving with PagedAttention, 2023.
class PageCache {
 public:
  static constexpr i32 kRoot = -1;
  PageCache(i64 pages, i64 page_tokens);

  i64 total() const { return i64(pages_.size()); }
  i64 page_tokens() const { return page_tokens_; }
  i64 used() const { return total() - available(); }
  i64 idle() const { return idle_; }                           // cached, without users
  i64 available() const { return i64(free_.size()) + idle_; }  // that allocate() can give
  bool cached(i32 page) const { return pages_[size_t(page)].cached; }
  i32 users(i32 page) const { return pages_[size_t(page)].users; }

  // A private page with one user, or nothing if all pages have users.
  std::optional<i32> allocate();
  // The cached child of `parent` (kRoot, or a page that the caller uses) with these tokens [page_tokens]; the caller
  // becomes a user.
  std::optional<i32> find(i32 parent, std::span<const i32> tokens);
  // Makes the caller's private `page`, which holds `tokens` after `parent`, a cached one. Returns the page to use from
  // now on: where another one holds the same already, that one, and `page` is free.
  i32 insert(i32 parent, i32 page, std::span<const i32> tokens);
  // The caller no longer uses the pages of a sequence, first to last.
  void release(std::span<const i32> sequence);

  // For tests: dies if the pages do not add up.
  void check() const;

 private:
  struct Page {
    i32 parent = kRoot;
    i32 users = 0;
    i32 children = 0;  // cached ones
    bool cached = false;
    u64 key = 0;                 // of the index, while cached
    i32 older = -1, newer = -1;  // neighbours among the idle pages
  };
  std::span<i32> tokens_of(i32 page);
  void use(i32 page);
  void release(i32 page);
  void forget(i32 page);  // an idle leaf: free again
  void link_newest(i32 page);
  void unlink(i32 page);

  const i64 page_tokens_;
  std::vector<Page> pages_;
  std::vector<i32> tokens_;                  // [pages, page_tokens] of cached pages
  std::vector<i32> free_;                    // a stack
  std::unordered_multimap<u64, i32> index_;  // hash of parent and tokens -> page
  i64 idle_ = 0;
  i32 oldest_ = -1, newest_ = -1;  // ends of the list of idle pages; a page comes before its parent
};

}  // namespace weft
