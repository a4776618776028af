// The planning half of the scheduler.
#include <algorithm>
#include <limits>

#include "engine/ngram.h"
#include "engine/scheduler.h"

namespace weft {

// What is left of a step.
struct Scheduler::Budget {
  i64 tokens, logits, rows;
  i64 decodes = 0;  // running choices not looked at yet that need just one token: theirs is set aside
  bool preempted = false;
};

std::optional<StepPlan> Scheduler::plan(Clock::time_point now) {
  WEFT_CHECK(in_flight() < depth());
  Step step{.sequence = sequence_ + 1, .rows = {}, .samples = {}};
  Budget budget{.tokens = max_step_tokens_, .logits = info_.max_logits, .rows = max_running_};
  plan_running(budget, step);
  if (!budget.preempted) admit(budget, step, now);
  if (step.rows.empty()) return std::nullopt;
  ++sequence_;
  StepPlan plan = build(step);
  steps_.push_back(std::move(step));
  return plan;
}

StepPlan Scheduler::probe() {
  WEFT_CHECK(in_flight() == 0);
  StepPlan plan;
  plan.clear();
  plan.sequence = ++sequence_;
  const i32 token = 0, page = 0;
  plan.add_row({&token, 1}, 0, {&page, 1}, info_.page_tokens, 1);
  plan.slots[0] = -1;  // nobody's page
  steps_.push_back({.sequence = plan.sequence, .rows = {}, .samples = {}});
  return plan;
}

void Scheduler::plan_running(Budget& budget, Step& step) {
  const auto decodes = [&](const Sequence* s) { return s->todo() == 1 && wants_more(*s); };
  budget.decodes = std::ranges::count_if(running_, decodes);
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = *running_[i];
    if (!wants_more(s)) continue;
    budget.decodes -= s.todo() == 1;
    const i64 end = chunk_end(s, budget);
    if (end == s.computed) continue;
    if (!take_pages(s, end, budget)) return;  // s was the newest and gave way itself
    add_row(s, end, budget, step, draft_for(s, end, budget));
  }
}

// Tokens to try after a choice's last one, as far as they cost nobody else anything. Not where the choice's later
// tokens are drawn from what its earlier ones change.
std::span<const i32> Scheduler::draft_for(const Sequence& s, i64 end, const Budget& budget) const {
  if (options_.draft_tokens == 0 || end != s.total() || s.grammar || has_penalty(s.request->input.sampling)) return {};
  if (s.usage.completion_tokens == 0) return {};          // a prompt's end: let its first token be drawn first
  const i64 pages = cache_.available() - budget.decodes;  // every other choice may need one
  const i64 room = i64(s.pages.size()) * info_.page_tokens - end + std::max<i64>(pages, 0) * info_.page_tokens;
  const i64 most = std::min({options_.draft_tokens, room, budget.tokens - budget.decodes - (end - s.computed),
                             budget.logits - budget.decodes - 1,
                             s.request->input.max_tokens - s.request->answered(s) - 1, max_context_ - s.total() - 1});
  return draft_by_ngram(s.tokens, most);
}

// How far this step may compute a choice.
i64 Scheduler::chunk_end(const Sequence& s, const Budget& budget) const {
  const i64 tokens = budget.tokens - budget.decodes, logits = budget.logits - budget.decodes;
  if (budget.rows < 1 || tokens < 1 || logits < 1) return s.computed;
  i64 end = std::min(s.total(), s.computed + tokens);
  const i64 first_scored = s.scored - 1;  // the logits of a token score the next one
  if (s.scored < s.request->prompt_tokens) end = std::min(end, std::max(first_scored, s.computed) + logits);
  return end;
}

// Pages for positions [0, end). False if `s` itself was preempted.
bool Scheduler::take_pages(Sequence& s, i64 end, Budget& budget) {
  while (i64(s.pages.size()) * info_.page_tokens < end) {
    if (const std::optional<i32> page = cache_.allocate()) {
      s.pages.push_back(*page);
      continue;
    }
    Sequence& newest = *running_.back();
    if (&newest != &s) budget.decodes -= newest.todo() == 1 && wants_more(newest);
    budget.preempted = true;
    preempt(newest);
    if (&newest == &s) return false;
  }
  return true;
}

void Scheduler::preempt(Sequence& s) {
  WEFT_CHECK(running_.back() == &s);
  running_.pop_back();
  release(s);
  ++s.epoch;
  ++stats_.preemptions;
  wait(s);
}

void Scheduler::release(Sequence& s) {
  cache_.release(s.pages);
  s.pages.clear();
  s.cached_pages = s.computed = s.written = 0;
}

void Scheduler::admit(Budget& budget, Step& step, Clock::time_point now) {
  if (waiting_.empty()) return;
  i64 promised = 0;
  for (const Sequence* s : running_) promised += expected_pages(*s);
  while (!waiting_.empty() && i64(running_.size()) < max_running_) {
    Sequence& s = **waiting_.begin();
    if (!wants_more(s)) return;  // its last token is in flight
    if (budget.tokens < 1 || budget.logits < 1 || budget.rows < 1 || !try_admit(s, promised, now)) return;
    const i64 end = chunk_end(s, budget);
    if (end > s.computed && take_pages(s, end, budget)) add_row(s, end, budget, step, {});
    if (budget.preempted) return;
    promised += expected_pages(s);
  }
}

// Pages that a choice will probably still ask for.
i64 Scheduler::expected_pages(const Sequence& s) const {
  return std::max<i64>(pages_for(s.total() + expected_rest(s)) - i64(s.pages.size()), 0);
}

// Moves the first waiting choice to the running ones, if its pages fit beside those `promised` to the others.
bool Scheduler::try_admit(Sequence& s, i64 promised, Clock::time_point now) {
  // The last token's logits are wanted, and those from the first unscored one on.
  i64 most = s.total() - 1;
  if (s.scored < s.request->prompt_tokens) most = std::min(most, s.scored - 1);
  const i64 known = std::min(most, i64(s.tokens.size())) / info_.page_tokens;
  if (options_.prefix_cache) {
    for (i64 p = 0; p < known; ++p) {
      const std::span<const i32> tokens(s.tokens.data() + p * info_.page_tokens, size_t(info_.page_tokens));
      const std::optional<i32> page = cache_.find(s.pages.empty() ? PageCache::kRoot : s.pages.back(), tokens);
      if (!page) break;
      s.pages.push_back(*page);
    }
  }
  if (!running_.empty() && promised + expected_pages(s) > cache_.available()) {
    release(s);
    return false;
  }
  s.cached_pages = i64(s.pages.size());
  s.computed = s.written = s.cached_pages * info_.page_tokens;
  if (!s.ran) {
    s.ran = true;
    s.usage.cached_tokens = s.computed;
    s.usage.queue_s = std::chrono::duration<double>(now - s.request->submitted).count();
    stats_.prefix_queries += u64(s.request->prompt_tokens);
    stats_.prefix_hits += u64(s.computed);
    stats_.prompt_tokens += s.choice == 0 ? u64(s.request->prompt_tokens) : 0;
    if (s.choice == 0) queued_prompt_tokens_ -= s.request->prompt_tokens;
  }
  waiting_.erase(&s);
  s.state = Sequence::State::kRunning;
  running_.insert(std::ranges::upper_bound(running_, &s, RunsBefore()), &s);
  return true;
}

void Scheduler::add_row(Sequence& s, i64 end, Budget& budget, Step& step, std::span<const i32> draft) {
  const size_t row = step.rows.size();
  const i64 begin = s.computed;
  const i64 last = end + i64(draft.size());
  const u64 before_draft = stats_.preemptions;
  const bool taken = take_pages(s, last, budget);
  WEFT_CHECK(taken && stats_.preemptions == before_draft, draft.size());  // draft_for() saw to it
  stats_.drafted_tokens += draft.size();
  step.rows.push_back({s.request->shared_from_this(), &s, s.epoch, begin, last, {draft.begin(), draft.end()}});
  const size_t before = step.samples.size();
  for (i64 p = std::max(begin, s.scored - 1); p < end && p + 1 < s.request->prompt_tokens; ++p) {
    step.samples.push_back({row, p + 1});
  }
  for (i64 ahead = 0; end == s.total() && ahead <= i64(draft.size()); ++ahead) step.samples.push_back({row, -1, ahead});
  budget.logits -= i64(step.samples.size() - before);
  budget.tokens -= last - begin;
  --budget.rows;
}

// The plan of a step whose rows are chosen; marks them as submitted.
StepPlan Scheduler::build(Step& step) {
  StepPlan plan;
  plan.clear();
  plan.sequence = step.sequence;
  i64 max_pages = 1;
  for (const Row& row : step.rows) max_pages = std::max(max_pages, pages_for(row.end));
  std::vector<i32> tokens, first(step.rows.size());
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const Row& row = step.rows[i];
    Sequence& s = *row.sequence;
    const i64 known = std::min(row.end, i64(s.tokens.size()));
    tokens.assign(s.tokens.begin() + row.begin, s.tokens.begin() + known);
    if (known + i64(row.draft.size()) < row.end) tokens.push_back(-1 - s.pending_sample);
    tokens.insert(tokens.end(), row.draft.begin(), row.draft.end());
    first[i] =
        plan.add_row(tokens, row.begin, {s.pages.data(), size_t(pages_for(row.end))}, info_.page_tokens, max_pages);
  }
  for (size_t i = 0; i < step.samples.size(); ++i) {
    const auto [r, scores, ahead] = step.samples[i];
    const Row& row = step.rows[r];
    Sequence& s = *row.sequence;
    const i64 position = scores >= 0 ? scores - 1 : row.end - i64(row.draft.size()) - 1 + ahead;
    plan.logits_at.push_back(first[r] + i32(position - row.begin));
    if (scores >= 0) {
      plan.samples.push_back({.params = {},
                              .position = u64(scores),
                              .target = s.tokens[size_t(scores)],
                              .top_logprobs = s.request->input.prompt_logprobs,
                              .bias = {},
                              .counts = {}});
    } else {
      plan.samples.push_back(sample_row(s, ahead));
    }
  }
  for (const Row& row : step.rows) row.sequence->computed = row.end;
  for (size_t i = 0; i < step.samples.size(); ++i) {
    if (step.samples[i].scores >= 0 || step.samples[i].ahead > 0) continue;
    Sequence& s = *step.rows[step.samples[i].row].sequence;
    step.wants_masks |= s.grammar.has_value();
    ++s.pending;
    s.pending_sample = i32(i);
  }
  return plan;
}

// For the token `ahead` of the next one.
SampleRow Scheduler::sample_row(const Sequence& s, i64 ahead) const {
  const EngineRequest& input = s.request->input;
  SampleRow row{.params = input.sampling,
                .position = u64(s.total() + ahead),
                .top_logprobs = input.top_logprobs,
                .bias = input.logit_bias,
                .counts = s.counts};
  row.params.choice = s.choice;
  if (s.pending > 0) row.pending = s.pending_sample;
  row.masked = s.grammar.has_value();
  if (s.request->answered(s) + ahead < input.min_tokens && !s.grammar) {
    const auto forbid = [&](const std::vector<i32>& ids) {
      for (i32 id : ids) {
        std::erase_if(row.bias, [&](const LogitBias& bias) { return bias.token == id; });
        row.bias.push_back({id, -std::numeric_limits<float>::infinity()});
      }
    };
    forbid(input.stop_ids);
    if (!input.ignore_eos) forbid(info_.eos_ids);
  }
  return row;
}

}  // namespace weft
