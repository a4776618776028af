#include "serve/load/load_run.h"

#include <algorithm>
#include <deque>

namespace weft {
namespace {

using nlohmann::ordered_json;

Status check(const LoadOptions& options) {
  if (options.rate <= 0 && options.concurrency <= 0) {
    return error(Code::kInvalidArgument, "neither rate nor concurrency is given");
  }
  if (options.requests <= 0 && options.duration_s <= 0) {
    return error(Code::kInvalidArgument, "neither requests nor duration is given");
  }
  if (options.chat && options.dataset.vocab > 0) {
    return error(Code::kInvalidArgument, "prompts of token ids need the completions endpoint");
  }
  return {};
}

class LoadRun {
 public:
  LoadRun(HttpClient& client, const LoadOptions& options, const Dataset& dataset,
          const std::function<void(const LoadProgress&)>& on_progress)
      : client_(client), options_(options), dataset_(dataset), on_progress_(on_progress) {}

  Result<LoadResult> run() {
    WEFT_TRY(probe());
    start_ = Clock::now();
    if (options_.rate > 0) {
      arrivals_.seed(options_.dataset.seed + 1);
      next_arrival();
    } else {
      for (i64 i = 0; i < options_.concurrency; ++i) {
        const double at = options_.ramp_s * double(i) / double(options_.concurrency);
        client_.after(nanoseconds(at), [this] { arrive(now()); });
      }
    }
    tick();
    client_.run();
    return std::move(result_);
  }

 private:
  static std::chrono::nanoseconds nanoseconds(double seconds) { return std::chrono::nanoseconds(i64(seconds * 1e9)); }
  double now() const { return seconds_since(start_); }

  // Finds model and fields that the server takes, with a request of one token.
  Status probe() {
    result_.model = options_.model;
    if (result_.model.empty()) {
      WEFT_ASSIGN(const std::vector<std::string> models, list_models(client_, options_.access));
      result_.model = models.front();
    }
    result_.asked_for_usage = true;
    result_.ignore_eos = options_.ignore_eos;
    Status status = try_once();
    if (status.code() == Code::kInvalidArgument && result_.ignore_eos) {
      result_.ignore_eos = false;
      const Status without = try_once();
      if (without.ok()) result_.notes.push_back("the server refuses ignore_eos: answers may end early");
      result_.ignore_eos = !without.ok();
      if (without.ok()) return {};
    }
    if (status.code() == Code::kInvalidArgument) {
      result_.asked_for_usage = false;
      const bool ignore_eos = std::exchange(result_.ignore_eos, false);
      if (!try_once().ok()) return status;  // the first refusal says most
      result_.notes.push_back("the server refuses stream_options: tokens are counted by events with text");
      if (ignore_eos) result_.notes.push_back("ignore_eos is not sent: answers may end early");
      return {};
    }
    return status;
  }

  Status try_once() {
    LoadPrompt prompt{.text = "Hello", .ids = {}, .input_len = 1, .output_len = 1};
    if (options_.dataset.vocab > 0) prompt = {.text = "", .ids = {0}, .input_len = 1, .output_len = 1};
    Status status;
    CompletionCall call{.chat = options_.chat, .body = body_of(prompt)};
    call.on_end = [&](const Status& end, const CompletionEnd& answer) {
      status = end;
      if (end.ok() && result_.asked_for_usage && !answer.usage) {
        result_.notes.push_back("the server sends no usage: tokens are counted by events with text");
      }
    };
    start_completion(client_, options_.access, std::move(call));
    client_.run();
    return status;
  }

  ordered_json body_of(const LoadPrompt& prompt) const {
    ordered_json body = {{"model", result_.model}};
    if (options_.chat) {
      body["messages"] = {{{"role", "user"}, {"content", prompt.text}}};
    } else if (prompt.ids.empty()) {
      body["prompt"] = prompt.text;
    } else {
      body["prompt"] = prompt.ids;
    }
    body["max_tokens"] = prompt.output_len;
    body["temperature"] = options_.temperature;
    if (result_.asked_for_usage) body["stream_options"] = {{"include_usage", true}};
    if (result_.ignore_eos) body["ignore_eos"] = true;
    if (options_.extra.is_object()) body.update(options_.extra);
    return body;
  }

  bool may_send() const {
    return (options_.requests <= 0 || i64(result_.records.size()) < options_.requests) &&
           (options_.duration_s <= 0 || now() < options_.duration_s);
  }

  // Open loop: the arrival after the last one, however late the client is.
  void next_arrival() {
    due_ += std::exponential_distribution<double>(options_.rate)(arrivals_);
    scheduled_ = true;
    client_.after(nanoseconds(std::max(0.0, due_ - now())), [this] {
      scheduled_ = false;
      if (!may_send()) return;
      arrive(due_);
      if (may_send()) next_arrival();
    });
  }

  void arrive(double at) {
    if (!may_send()) return;
    const size_t index = result_.records.size();
    result_.records.push_back({.arrival_s = at});
    if (options_.concurrency > 0 && running_ >= options_.concurrency) {
      waiting_.push_back(index);
    } else {
      send(index);
    }
  }

  void send(size_t index) {
    ++running_;
    ++sent_;
    CompletionCall call{.chat = options_.chat, .body = body_of(dataset_.next())};
    call.on_delta = [this, index](const CompletionDelta&) { on_text(result_.records[index]); };
    call.on_end = [this, index](const Status& status, const CompletionEnd& end) {
      on_end(result_.records[index], status, end);
    };
    start_completion(client_, options_.access, std::move(call));
  }

  void on_text(LoadRecord& record) {
    const double at = now();
    if (record.output_tokens++ == 0) {
      record.first_s = at;
    } else {
      const double gap = at - record.last_s;
      record.longest_gap_s = std::max(record.longest_gap_s, gap);
      result_.gaps_s.push_back(float(gap));
    }
    record.last_s = at;
    const auto bin = size_t(at / LoadResult::kBinSeconds);
    if (bin >= result_.text_events.size()) result_.text_events.resize(bin + 1);
    ++result_.text_events[bin];
    ++text_events_;
  }

  void on_end(LoadRecord& record, const Status& status, const CompletionEnd& end) {
    record.end_s = now();
    result_.duration_s = record.end_s;
    record.ok = status.ok() && record.output_tokens > 0;
    if (end.usage) {
      record.prompt_tokens = end.usage->prompt_tokens;
      record.cached_tokens = end.usage->cached_tokens;
      if (record.ok) record.output_tokens = end.usage->completion_tokens;
      record.counted = true;
    }
    if (!record.ok) ++result_.errors[status.ok() ? "the answer has no text" : status.message()];
    --running_;
    ++(record.ok ? completed_ : failed_);
    if (!waiting_.empty()) {
      send(waiting_.front());
      waiting_.pop_front();
    } else if (options_.rate <= 0) {
      come_back(record.ok);
    }
    if (finished()) client_.stop();  // drops the timer of the progress
  }

  // A client of the closed loop sends its next request; after a failure it rests, so that a dead server is not
  // hammered.
  void come_back(bool at_once) {
    if (at_once) return arrive(now());
    client_.after(std::chrono::milliseconds(100), [this] { arrive(now()); });
  }

  bool finished() const { return running_ == 0 && waiting_.empty() && !scheduled_ && !may_send(); }

  void tick() {
    client_.after(std::chrono::seconds(1), [this] {
      on_progress_({.elapsed_s = now(),
                    .sent = sent_,
                    .completed = completed_,
                    .failed = failed_,
                    .running = running_,
                    .text_events = text_events_});
      if (!finished()) tick();
    });
  }

  HttpClient& client_;
  const LoadOptions& options_;
  Dataset dataset_;
  const std::function<void(const LoadProgress&)>& on_progress_;
  LoadResult result_;
  Clock::time_point start_;
  std::mt19937_64 arrivals_;
  double due_ = 0;              // of the next arrival
  bool scheduled_ = false;      // an arrival's timer is set
  std::deque<size_t> waiting_;  // records that arrived and wait for a free place
  i64 running_ = 0, sent_ = 0, completed_ = 0, failed_ = 0, text_events_ = 0;
};

}  // namespace

Result<LoadResult> run_load(HttpClient& client, const LoadOptions& options,
                            const std::function<void(const LoadProgress&)>& on_progress) {
  WEFT_TRY(check(options));
  WEFT_ASSIGN(const Dataset dataset, Dataset::create(options.dataset));
  return LoadRun(client, options, dataset, on_progress).run();
}

}  // namespace weft
