// Requests for text from the engine to the client. I/O thread, but for the engine's sink.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "serve/answer_form.h"
#include "serve/http_server.h"
#include "serve/metrics.h"

namespace weft {

// Who has the engine: it may be away while ranks start again.
class EngineSource {
 public:
  virtual ~EngineSource() = default;
  // Null until the ranks were ready once. Any thread.
  virtual std::shared_ptr<Engine> engine() const = 0;
  // Ok, or why requests are not taken now. Any thread.
  virtual Status ready() const = 0;
};

struct GenerationOptions {
  std::chrono::milliseconds request_deadline{0};  // 0: none
  size_t max_unsent_bytes = 256 << 10;            // of an answer that its client does not take
};

class Generations {
 public:
  // All must outlive it, and the engine must be stopped before it is destroyed.
  Generations(HttpServer& server, EngineSource& source, Metrics& metrics, const GenerationOptions& options);
  ~Generations();

  // Submits `spec` and answers through `reply`: with an error (429, 503, 400) if the engine refuses it.
  void start(std::shared_ptr<const ServedModel> model, GenerationSpec spec, std::shared_ptr<HttpReply> reply,
             const std::string& id, Clock::time_point since);
  size_t num_open() const { return open_; }
  // Ends all that are open with this error.
  void fail_all(const ApiError& fault);

 private:
  class Generation;
  struct Target {
    std::shared_ptr<Generation> generation;
    int prompt = 0;
  };
  void deliver(const std::vector<TokenEvent>& events);

  HttpServer& server_;
  EngineSource& source_;
  Metrics& metrics_;
  const GenerationOptions options_;
  std::shared_ptr<const EventSink> sink_;
  std::unordered_map<RequestId, Target> targets_;
  RequestId next_id_ = 1;
  size_t open_ = 0;
};

// How the API answers an engine's refusal or failure.
ApiError api_error(const Status& status);

}  // namespace weft
