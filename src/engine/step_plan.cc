#include "engine/step_plan.h"

#include <algorithm>

#include "base/check.h"

namespace weft {
namespace {

u64 body_words(u64 tokens, u64 rows, u64 max_pages, u64 wanted) {
  return 3 * tokens + (rows + 1) + rows + rows * max_pages + wanted;
}

}  // namespace

void StepPlan::clear() {
  kind = PlanKind::kStep;
  for (auto* list : {&token_ids, &positions, &slots, &kv_lens, &page_table, &logits_at}) list->clear();
  row_starts.assign(1, 0);
  samples.clear();
}

i32 StepPlan::add_row(std::span<const i32> tokens, i64 start, std::span<const i32> pages, i64 page_tokens,
                      i64 max_pages) {
  const i32 first = i32(token_ids.size());
  const i64 end = start + i64(tokens.size());
  WEFT_CHECK(end <= i64(pages.size()) * page_tokens && i64(pages.size()) <= max_pages, end, pages.size(), max_pages);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const i64 position = start + i64(i);
    token_ids.push_back(tokens[i]);
    positions.push_back(i32(position));
    slots.push_back(i32(pages[size_t(position / page_tokens)] * page_tokens + position % page_tokens));
  }
  row_starts.push_back(i32(token_ids.size()));
  kv_lens.push_back(i32(end));
  page_table.insert(page_table.end(), pages.begin(), pages.end());
  page_table.resize(kv_lens.size() * size_t(max_pages), 0);
  return first;
}

PlanHeader encode_header(const StepPlan& plan) {
  PlanHeader header;
  header.kind = plan.kind;
  header.sequence = plan.sequence;
  header.tokens = u32(plan.tokens());
  header.rows = u32(plan.rows());
  header.max_pages = plan.rows() ? u32(plan.page_table.size() / plan.kv_lens.size()) : 0;
  header.wanted = u32(plan.logits_at.size());
  header.body_words = u32(body_words(header.tokens, header.rows, header.max_pages, header.wanted));
  return header;
}

void encode_body(const StepPlan& plan, std::span<i32> body) {
  auto out = body.begin();
  for (const auto* list : {&plan.token_ids, &plan.positions, &plan.slots, &plan.row_starts, &plan.kv_lens,
                           &plan.page_table, &plan.logits_at}) {
    WEFT_CHECK(size_t(body.end() - out) >= list->size());
    out = std::copy(list->begin(), list->end(), out);
  }
}

Status decode_plan(const PlanHeader& header, std::span<const i32> body, StepPlan* plan) {
  if (header.magic != PlanHeader::kMagic) return error(Code::kDataLoss, "step plan: bad magic {:#x}", header.magic);
  if (header.version != PlanHeader::kVersion) {
    return error(Code::kDataLoss, "step plan: version {}, expected {}", header.version, PlanHeader::kVersion);
  }
  if (header.kind > PlanKind::kStop) return error(Code::kDataLoss, "step plan: unknown kind {}", u32(header.kind));
  if (body_words(header.tokens, header.rows, header.max_pages, header.wanted) != header.body_words ||
      header.body_words != body.size()) {
    return error(Code::kDataLoss, "step plan: {} words do not hold {} tokens, {} rows of {} pages, {} logits",
                 body.size(), header.tokens, header.rows, header.max_pages, header.wanted);
  }
  plan->kind = header.kind;
  plan->sequence = header.sequence;
  auto in = body.begin();
  auto take = [&](std::vector<i32>& list, size_t count) {
    list.assign(in, in + std::ptrdiff_t(count));
    in += std::ptrdiff_t(count);
  };
  take(plan->token_ids, header.tokens);
  take(plan->positions, header.tokens);
  take(plan->slots, header.tokens);
  take(plan->row_starts, header.rows + 1);
  take(plan->kv_lens, header.rows);
  take(plan->page_table, size_t(header.rows) * header.max_pages);
  take(plan->logits_at, header.wanted);
  return {};
}

}  // namespace weft
