#include "engine/scheduler.h"

#include <algorithm>

namespace weft {
namespace {

std::vector<TokenCount> count_prompt(std::vector<i32> tokens) {
  std::ranges::sort(tokens);
  const auto rest = std::ranges::unique(tokens);
  std::vector<TokenCount> counts;
  for (auto token = tokens.begin(); token != rest.begin(); ++token) counts.push_back({*token, 0});
  return counts;
}

}  // namespace

Scheduler::Scheduler(const ExecutorInfo& info, const EngineOptions& options)
    : info_(info),
      options_(options),
      max_context_(max_context(info, options)),
      max_running_(std::min({options.max_running, info.max_rows, info.max_logits, info.max_step_tokens})),
      max_step_tokens_(std::min(std::max(options.max_step_tokens, max_running_), info.max_step_tokens)),
      cache_(info.pages, info.page_tokens),
      expected_answer_(double(options.expected_answer)) {}

i64 Scheduler::max_context(const ExecutorInfo& info, const EngineOptions& options) {
  const i64 room = std::min(info.context, info.pages * info.page_tokens);
  return options.max_context > 0 ? std::min(room, options.max_context) : room;
}

Status Scheduler::check(const EngineRequest& r, const ExecutorInfo& info, const EngineOptions& options) {
  auto invalid = [](const char* field, const std::string& found) {
    return error(Code::kInvalidArgument, "{}: {}", field, found);
  };
  auto check_ids = [&](const char* field, std::span<const i32> ids) -> Status {
    for (i32 id : ids) {
      if (id >= 0 && id < info.vocab) continue;
      return invalid(field, fmt::format("token id {} is outside the vocabulary of {}", id, info.vocab));
    }
    return {};
  };
  const i64 context = max_context(info, options), prompt = i64(r.prompt.size());
  if (prompt == 0) return error(Code::kInvalidArgument, "the prompt is empty");
  if (prompt >= context) {
    return error(Code::kInvalidArgument,
                 "the prompt has {} tokens, the context holds {} with at least one for the answer", prompt, context);
  }
  WEFT_TRY(check_ids("prompt", r.prompt));
  WEFT_TRY(check_ids("stop_ids", r.stop_ids));
  for (const LogitBias& bias : r.logit_bias) WEFT_TRY(check_ids("logit_bias", {&bias.token, 1}));
  WEFT_TRY(check_sampling_params(r.sampling));
  if (r.max_tokens < 1) return invalid("max_tokens", fmt::format("expected at least 1, found {}", r.max_tokens));
  if (r.min_tokens < 0 || r.min_tokens > r.max_tokens) {
    return invalid("min_tokens", fmt::format("expected 0 to max_tokens ({}), found {}", r.max_tokens, r.min_tokens));
  }
  const i64 most = options.max_running + options.max_queued;
  if (r.n < 1 || r.n > most) return invalid("n", fmt::format("expected 1 to {}, found {}", most, r.n));
  for (const auto& [field, k] : {std::pair{"top_logprobs", r.top_logprobs}, {"prompt_logprobs", r.prompt_logprobs}}) {
    if (k < -1 || k > info.vocab) return invalid(field, fmt::format("expected -1 to {}, found {}", info.vocab, k));
  }
  if (r.grammar && !options.grammars) return error(Code::kUnimplemented, "grammar: this engine has no grammars");
  return {};
}

void Scheduler::add(EngineRequest input, std::shared_ptr<const EventSink> sink, Clock::time_point submitted,
                    std::optional<Grammar> grammar) {
  auto request = std::make_shared<Request>();
  Request& r = *request;
  r.sink = std::move(sink);
  r.prompt_tokens = i64(input.prompt.size());
  r.arrival = ++arrivals_;
  r.submitted = submitted;
  r.choices.resize(size_t(input.n));
  r.open_choices = input.n;
  for (i32 c = 0; c < input.n; ++c) {
    Sequence& s = r.choices[size_t(c)];
    s.request = &r;
    s.choice = c;
    s.tokens = input.prompt;
    s.usage.prompt_tokens = r.prompt_tokens;
    if (grammar) s.grammar = grammar->copy();
    if (has_penalty(input.sampling)) s.counts = count_prompt(input.prompt);
    if (c > 0 || input.prompt_logprobs < 0) s.scored = r.prompt_tokens;
  }
  if (input.deadline) deadlines_.emplace(Clock::now() + input.deadline->left(), input.id);
  input.prompt = {};
  r.input = std::move(input);
  held_ += r.input.n;
  queued_prompt_tokens_ += r.prompt_tokens;
  const bool fresh = requests_.emplace(r.input.id, request).second;
  WEFT_CHECK(fresh, r.input.id);
  wait(r.choices[0]);  // the others wait for its prompt, to share it
}

// Puts a held or preempted choice into the queue.
void Scheduler::wait(Sequence& s) {
  if (s.state == Sequence::State::kHeld) --held_;
  s.state = Sequence::State::kWaiting;
  waiting_.insert(&s);
}

void Scheduler::release_choices(Request& r) {
  for (Sequence& s : r.choices) {
    if (s.state == Sequence::State::kHeld) wait(s);
  }
}

void Scheduler::end(RequestId id, FinishReason reason, const Status& status) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  const std::shared_ptr<Request> request = found->second;
  for (Sequence& s : request->choices) {
    if (s.state != Sequence::State::kDone) finish(s, reason, status);
  }
}

void Scheduler::end_choice(RequestId id, i32 choice) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  const std::shared_ptr<Request> request = found->second;
  Sequence& s = request->choices.at(size_t(choice));
  if (s.state != Sequence::State::kDone) finish(s, FinishReason::kStop, {});
}

void Scheduler::end_all(FinishReason reason, const Status& status) {
  while (!requests_.empty()) end(requests_.begin()->first, reason, status);
}

void Scheduler::expire(Clock::time_point now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const RequestId id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    const auto found = requests_.find(id);
    if (found == requests_.end()) continue;
    end(id, FinishReason::kError,
        error(Code::kDeadlineExceeded, "the request's deadline passed after {:.1f} s",
              std::chrono::duration<double>(now - found->second->submitted).count()));
  }
}

std::optional<Clock::time_point> Scheduler::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

bool Scheduler::ends_answer(const Request& r, i32 token) const {
  const auto among = [&](const std::vector<i32>& ids) { return std::ranges::find(ids, token) != ids.end(); };
  return among(r.input.stop_ids) || ((!r.input.ignore_eos || r.input.grammar) && among(info_.eos_ids));
}

// Whether the answer goes on after the tokens that are known or in flight, unless one of them ends it.
bool Scheduler::wants_more(const Sequence& s) const {
  return s.request->answered(s) < s.request->input.max_tokens && s.total() < max_context_;
}

// Tokens that a choice will probably still take.
i64 Scheduler::expected_rest(const Sequence& s) const {
  const i64 answered = s.request->answered(s);
  const i64 most = std::min(s.request->input.max_tokens - answered, max_context_ - s.total());
  return std::clamp(i64(expected_answer_) - answered, std::min(info_.page_tokens, most), std::max<i64>(most, 0));
}

std::optional<MasksOfStep> Scheduler::masks() {
  if (steps_.empty() || !steps_.front().wants_masks) return std::nullopt;
  Step& step = steps_.front();
  step.wants_masks = false;
  MasksOfStep out{.sequence = step.sequence, .masks = {}};
  for (size_t i = 0; i < step.samples.size(); ++i) {
    Sequence& s = *step.rows[step.samples[i].row].sequence;
    if (step.samples[i].scores >= 0 || !s.grammar) continue;
    SampleMask mask{.sample = i32(i), .allowed = {}};
    // All earlier steps are done, so the grammar is where this sample needs it. The token of a choice that ended
    // meanwhile is of no consequence.
    if (s.state != Sequence::State::kDone) {
      mask.allowed.resize(size_t(info_.vocab + 31) / 32);
      const auto count = s.grammar->mask(mask.allowed);
      if (!count.ok()) {
        finish(s, FinishReason::kError, count.status());
        mask.allowed.clear();
      }
    }
    out.masks.push_back(std::move(mask));
  }
  return out;
}

Status Scheduler::retire(StepResult result) {
  if (steps_.empty() || steps_.front().sequence != result.sequence) {
    return error(Code::kDataLoss, "result of step {}, expected {}", result.sequence,
                 steps_.empty() ? "none" : fmt::to_string(steps_.front().sequence));
  }
  Step step = std::move(steps_.front());
  steps_.pop_front();
  if (result.samples.size() != step.samples.size()) {
    return error(Code::kDataLoss, "result of step {}: {} samples, expected {}", result.sequence, result.samples.size(),
                 step.samples.size());
  }
  if (step.rows.empty()) return {};  // a probe
  ++stats_.steps;
  stats_.step_rows += step.rows.size();
  stats_.step_s += result.seconds;
  stats_.last_step_s = result.seconds;
  stats_.rank_step_s = std::move(result.rank_seconds);
  for (const Row& row : step.rows) {
    stats_.step_tokens += u64(row.end - row.begin);
    Sequence& s = *row.sequence;
    if (s.state == Sequence::State::kDone || s.epoch != row.epoch) continue;
    s.written = row.end - i64(row.draft.size());
    if (s.choice == 0 && s.written >= row.request->prompt_tokens) release_choices(*row.request);
  }
  for (size_t i = 0; i < step.samples.size(); ++i) {
    const Draw& draw = step.samples[i];
    Row& row = step.rows[draw.row];
    Sequence& s = *row.sequence;
    if (s.state == Sequence::State::kDone) continue;
    if (draw.scores >= 0) {
      score(s, draw.scores, result.samples[i]);
    } else if (draw.ahead == 0) {
      --s.pending;
      accept(s, result.samples[i]);
    } else if (s.tokens.back() == row.draft[size_t(draw.ahead - 1)] && row.drafts_hold) {
      ++s.written;  // the draft was right: its keys and values are the token's, and what follows it counts
      ++stats_.accepted_tokens;
      accept(s, result.samples[i]);
    } else {
      row.drafts_hold = false;
    }
  }
  for (const Row& row : step.rows) {
    Sequence& s = *row.sequence;
    if (s.state != Sequence::State::kRunning) continue;
    if (!row.draft.empty()) s.computed = s.written;  // the rest was computed from wrong drafts
    publish_pages(s);
  }
  return {};
}

// Lets later sequences find the full pages.
void Scheduler::publish_pages(Sequence& s) {
  if (!options_.prefix_cache) return;
  for (i64 p = s.cached_pages; (p + 1) * info_.page_tokens <= std::min(s.written, i64(s.tokens.size())); ++p) {
    const std::span<const i32> tokens(s.tokens.data() + p * info_.page_tokens, size_t(info_.page_tokens));
    const i32 parent = p == 0 ? PageCache::kRoot : s.pages[size_t(p - 1)];
    s.pages[size_t(p)] = cache_.insert(parent, s.pages[size_t(p)], tokens);
    ++s.cached_pages;
  }
}

void Scheduler::score(Sequence& s, i64 position, SampleOutcome& outcome) {
  if (position < s.scored) return;  // computed again after a preemption
  if (!outcome.fault.ok()) return finish(s, FinishReason::kError, outcome.fault);
  s.scored = position + 1;
  TokenEvent event;
  event.token = outcome.token;
  event.prompt_position = position;
  event.logprob = outcome.logprob;
  event.top = std::move(outcome.top);
  emit(*s.request, std::move(event));
}

void Scheduler::accept(Sequence& s, SampleOutcome& outcome) {
  if (!outcome.fault.ok()) return finish(s, FinishReason::kError, outcome.fault);
  const Request& r = *s.request;
  s.tokens.push_back(outcome.token);
  if (has_penalty(r.input.sampling)) count_token(s.counts, outcome.token, 1);
  ++s.usage.completion_tokens;
  ++stats_.generation_tokens;
  const bool ends = ends_answer(r, outcome.token);
  if (s.grammar && !ends) {
    const auto pushed = s.grammar->push(outcome.token);
    if (!pushed.ok()) return finish(s, FinishReason::kError, pushed.status());
  }
  TokenEvent event;
  event.choice = s.choice;
  event.token = outcome.token;
  event.logprob = outcome.logprob;
  event.top = std::move(outcome.top);
  if (ends) {
    finish(s, FinishReason::kStop, {}, std::move(event));
  } else if (s.usage.completion_tokens >= r.input.max_tokens || i64(s.tokens.size()) >= max_context_) {
    finish(s, FinishReason::kLength, {}, std::move(event));
  } else {
    emit(r, std::move(event));
  }
}

void Scheduler::finish(Sequence& s, FinishReason reason, const Status& status, TokenEvent event) {
  Request& r = *s.request;
  if (s.state == Sequence::State::kHeld) --held_;
  if (s.state == Sequence::State::kWaiting) waiting_.erase(&s);
  if (s.state == Sequence::State::kRunning) {
    publish_pages(s);
    running_.erase(std::ranges::lower_bound(running_, &s, RunsBefore()));
  }
  if (!s.ran && s.choice == 0) queued_prompt_tokens_ -= r.prompt_tokens;
  release(s);
  s.state = Sequence::State::kDone;
  if (reason == FinishReason::kStop || reason == FinishReason::kLength) {
    expected_answer_ += (double(s.usage.completion_tokens) - expected_answer_) / 16;
  }
  switch (reason) {
    case FinishReason::kStop: ++stats_.finished_stop; break;
    case FinishReason::kLength: ++stats_.finished_length; break;
    case FinishReason::kAborted: ++stats_.finished_aborted; break;
    default: ++stats_.finished_error;
  }
  event.choice = s.choice;
  event.finish = reason;
  event.error = status;
  event.usage = s.usage;
  event.last_of_request = --r.open_choices == 0;
  emit(r, std::move(event));
  if (s.choice == 0) release_choices(r);
  if (r.open_choices == 0) requests_.erase(r.input.id);  // may free r, unless a step in flight has a row of it
}

void Scheduler::emit(const Request& r, TokenEvent event) {
  event.request = r.input.id;
  const auto [at, fresh] = delivery_of_.try_emplace(r.sink.get(), deliveries_.size());
  if (fresh) deliveries_.push_back({r.sink, {}});
  deliveries_[at->second].events.push_back(std::move(event));
}

std::vector<Scheduler::Delivery> Scheduler::take_events() {
  delivery_of_.clear();
  return std::exchange(deliveries_, {});
}

void Scheduler::fill(EngineStats* stats) const {
  *stats = stats_;
  stats->requests_open = open_requests();
  stats->running = i64(running_.size());
  stats->waiting = i64(waiting_.size()) + held_;
  stats->queued_prompt_tokens = queued_prompt_tokens_;
  stats->kv_pages_total = cache_.total();
  stats->kv_pages_used = cache_.used();
  stats->kv_pages_cached = cache_.idle();
  stats->page_tokens = info_.page_tokens;
}

void Scheduler::check_invariants() const {
  cache_.check();
  std::unordered_map<i32, i32> users;
  for (const Sequence* s : running_) {
    WEFT_CHECK(s->state == Sequence::State::kRunning && s->cached_pages <= i64(s->pages.size()));
    for (size_t p = 0; p < s->pages.size(); ++p) {
      ++users[s->pages[p]];
      WEFT_CHECK(cache_.cached(s->pages[p]) == (i64(p) < s->cached_pages), p, s->cached_pages);
    }
  }
  for (const Sequence* s : waiting_) WEFT_CHECK(s->pages.empty() && s->state == Sequence::State::kWaiting);
  WEFT_CHECK(i64(users.size()) == cache_.used(), users.size(), cache_.used());
  for (auto [page, count] : users) WEFT_CHECK(cache_.users(page) == count, page, count, cache_.users(page));
  WEFT_CHECK(std::ranges::is_sorted(running_, RunsBefore()));
}

}  // namespace weft
