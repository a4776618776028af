#include "serve/generation.h"

#include <fmt/format.h>

#include <ctime>

#include "base/log.h"

namespace weft {

ApiError api_error(const Status& status) {
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kUnimplemented: return {.message = status.message(), .code = "invalid_request"};
    case Code::kResourceExhausted:
      return {.status = 429,
              .message = "The server is at its limit of open requests: " + status.message(),
              .code = "rate_limit_exceeded",
              .type = "rate_limit_error",
              .retry_after_s = 1};
    case Code::kUnavailable: return not_ready(status.message());
    case Code::kAborted: return {.status = 503, .message = status.message(), .code = "aborted", .type = "server_error"};
    case Code::kDeadlineExceeded:
      return {.status = 504, .message = status.message(), .code = "deadline_exceeded", .type = "timeout_error"};
    default: return internal_error(status.message());
  }
}

// One HTTP request: one engine request for each prompt, n choices each.
class Generations::Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(Generations& owner, std::shared_ptr<const ServedModel> model, GenerationSpec spec,
             std::shared_ptr<HttpReply> reply, const std::string& id, Clock::time_point since)
      : owner_(owner),
        model_(std::move(model)),
        spec_(std::move(spec)),
        reply_(std::move(reply)),
        form_(make_form(spec_, *model_, id, std::time(nullptr))),
        since_(since) {
    for (const Prompt& prompt : spec_.prompts) {
      usage_.prompt_tokens += i64(prompt.ids.size());
      for (int n = 0; n < spec_.request.n; ++n) {
        choices_.push_back(std::make_unique<Choice>(spec_, *model_, prompt));
        last_token_.push_back(since);
      }
    }
    finished_.resize(choices_.size());
  }

  void submit() {
    if (!reply_->open()) return;  // the client left while its prompt was made
    ++owner_.open_;
    counted_ = true;
    if (const Status ready = owner_.source_.ready(); !ready.ok()) return fail(not_ready(ready.message()));
    engine_ = owner_.source_.engine();
    reply_->on_end = [self = weak_from_this()](bool complete) {
      if (const auto generation = self.lock()) generation->reply_ended(complete);
    };
    for (size_t p = 0; p < spec_.prompts.size() && !ended_; ++p) {
      EngineRequest request = spec_.request;
      request.id = owner_.next_id_++;
      request.prompt = spec_.prompts[p].ids;
      request.max_tokens = std::max<i64>(1, request.max_tokens);  // an echo alone is made of no tokens
      if (owner_.options_.request_deadline.count() > 0) {
        request.deadline = Deadline::after(owner_.options_.request_deadline - (Clock::now() - since_));
      }
      owner_.targets_[request.id] = {shared_from_this(), int(p)};
      open_requests_.push_back(request.id);
      const RequestId id = request.id;
      if (const Status refused = engine_->submit(std::move(request), owner_.sink_); !refused.ok()) {
        owner_.targets_.erase(id);
        open_requests_.pop_back();
        fail(api_error(refused));
      }
    }
  }

  void take(int prompt, const TokenEvent& event) {
    if (event.last_of_request) {
      std::erase(open_requests_, event.request);
      owner_.targets_.erase(event.request);
    }
    if (ended_) return;
    if (event.finish == FinishReason::kError) return fail(api_error(event.error));
    const size_t index = size_t(prompt) * size_t(spec_.request.n) + size_t(event.choice);
    Choice& choice = *choices_.at(index);
    if (event.finish != FinishReason::kNone) {
      if (event.choice == 0) usage_.cached_tokens += event.usage.cached_tokens;
      queue_s_ = std::max(queue_s_, event.usage.queue_s);
    }
    if (choice.done()) return close_if_done();
    if (event.finish == FinishReason::kAborted)
      return fail(api_error(error(Code::kAborted, "the request was aborted")));
    if (event.token >= 0 && event.prompt_position < 0) observe_token(index);
    const i64 before = choice.completion_tokens();
    if (const Status status = choice.push(event); !status.ok()) return fail(internal_error(status.message()));
    usage_.completion_tokens += choice.completion_tokens() - before;
    if (choice.done()) {
      ++num_done_;
      owner_.metrics_.count_success(choice.finish_reason());
      if (event.finish == FinishReason::kNone) {  // a stop string: the engine does not know
        engine_->end_choice(event.request, event.choice);
      }
    }
    close_if_done();
  }

  // Sends what has come, unless the client still has something to read.
  void flush() {
    if (ended_ || !spec_.stream) return;
    if (reply_->unsent() > 0 && reply_->status()) {
      size_t waiting = 0;
      for (const auto& choice : choices_) waiting += choice->pending().bytes();
      if (waiting > owner_.options_.max_unsent_bytes) {
        spdlog::info("a client that reads too slowly is cut off");
        return reply_->cut();
      }
      reply_->on_drained = [self = weak_from_this()] {
        if (const auto generation = self.lock()) generation->flush();
      };
      return;
    }
    std::string out;
    append_pending(out);
    if (!out.empty()) write(out);
  }

  void fail(const ApiError& fault) {
    if (ended_) return;
    owner_.metrics_.count_success("error");
    if (reply_->status() == 0) {
      HttpResponse response{.status = fault.status, .headers = {{"content-type", "application/json"}}};
      if (fault.retry_after_s > 0) response.headers.emplace_back("retry-after", std::to_string(fault.retry_after_s));
      response.body = dump_json(fault.body());
      end();
      return reply_->respond(std::move(response));
    }
    std::string out;
    append_pending(out);
    form_->fail(fault, out);
    end();
    reply_->write(out);
    reply_->end();
  }

 private:
  void observe_token(size_t index) {
    const auto now = Clock::now();
    const double gap = std::chrono::duration<double>(now - last_token_[index]).count();
    if (choices_[index]->completion_tokens() == 0) {
      owner_.metrics_.observe_first_token(gap);
    } else {
      owner_.metrics_.observe_token_gap(gap);
    }
    last_token_[index] = now;
  }

  void append_pending(std::string& out) {
    for (size_t i = 0; i < choices_.size(); ++i) {
      Choice& choice = *choices_[i];
      if (!choice.pending().empty()) {
        open_form(out);
        form_->delta(int(i), choice.take(), usage_, out);
      }
      if (choice.done() && !finished_[i]) {
        open_form(out);
        finished_[i] = true;
        form_->finish(int(i), choice.finish_reason(), choice.stop_reason(), usage_, out);
      }
    }
  }
  void open_form(std::string& out) {
    if (!std::exchange(form_open_, true)) form_->open(out);
  }

  void write(std::string_view bytes) {
    if (reply_->status() == 0) {
      reply_->start_stream({{"content-type", "text/event-stream; charset=utf-8"}, {"cache-control", "no-cache"}});
    }
    reply_->write(bytes);
  }

  // The answer ends when all choices have, and the engine has said what they took.
  void close_if_done() {
    if (ended_ || num_done_ < choices_.size() || !open_requests_.empty()) return;
    owner_.metrics_.observe_end(seconds_since(since_), queue_s_);
    if (spec_.stream) {
      std::string out;
      append_pending(out);
      form_->close(usage_, out);
      end();
      write(out);
      return reply_->end();
    }
    std::vector<EndedChoice> all;
    for (const auto& choice : choices_) all.push_back({choice->take(), choice->finish_reason(), choice->stop_reason()});
    HttpResponse response{.headers = {{"content-type", "application/json"}}};
    response.body = dump_json(form_->whole(std::move(all), usage_));
    end();
    reply_->respond(std::move(response));
  }

  void reply_ended(bool complete) {
    if (ended_) return;
    if (!complete) owner_.metrics_.count_success("abort");
    end();
  }

  void end() {
    ended_ = true;
    if (std::exchange(counted_, false)) --owner_.open_;
    reply_->on_drained = nullptr;
    for (const RequestId id : open_requests_) {
      engine_->abort(id);
      owner_.targets_.erase(id);
    }
    open_requests_.clear();
  }

  Generations& owner_;
  const std::shared_ptr<const ServedModel> model_;
  const GenerationSpec spec_;
  const std::shared_ptr<HttpReply> reply_;
  const std::unique_ptr<AnswerForm> form_;
  const Clock::time_point since_;
  std::shared_ptr<Engine> engine_;
  std::vector<RequestId> open_requests_;
  std::vector<std::unique_ptr<Choice>> choices_;
  std::vector<Clock::time_point> last_token_;
  std::vector<bool> finished_;
  size_t num_done_ = 0;
  UsageTotals usage_;
  double queue_s_ = 0;
  bool ended_ = false, counted_ = false, form_open_ = false;
};

Generations::Generations(HttpServer& server, EngineSource& source, Metrics& metrics, const GenerationOptions& options)
    : server_(server), source_(source), metrics_(metrics), options_(options) {
  sink_ = std::make_shared<const EventSink>([this](std::vector<TokenEvent> events) {
    server_.post([this, events = std::move(events)] { deliver(events); });
  });
}
Generations::~Generations() = default;

void Generations::start(std::shared_ptr<const ServedModel> model, GenerationSpec spec, std::shared_ptr<HttpReply> reply,
                        const std::string& id, Clock::time_point since) {
  std::make_shared<Generation>(*this, std::move(model), std::move(spec), std::move(reply), id, since)->submit();
}

void Generations::deliver(const std::vector<TokenEvent>& events) {
  std::vector<std::shared_ptr<Generation>> touched;
  for (const TokenEvent& event : events) {
    const auto target = targets_.find(event.request);
    if (target == targets_.end()) continue;
    const Target to = target->second;  // take() may remove it
    to.generation->take(to.prompt, event);
    if (touched.empty() || touched.back() != to.generation) touched.push_back(to.generation);
  }
  for (const auto& generation : touched) generation->flush();
}

void Generations::fail_all(const ApiError& fault) {
  std::vector<std::shared_ptr<Generation>> all;
  for (const auto& [id, target] : targets_) all.push_back(target.generation);
  for (const auto& generation : all) generation->fail(fault);
}

}  // namespace weft
