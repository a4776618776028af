// Prometheus metrics, named as vLLM names them behind `weft_`. Any thread.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "engine/request.h"

namespace weft {

class Metrics {
 public:
  // `stats` is called at every scrape; `model` becomes the label model_name.
  Metrics(std::string model, std::function<EngineStats()> stats);
  ~Metrics();

  void observe_first_token(double seconds);
  void observe_token_gap(double seconds);
  void observe_end(double seconds, double queue_seconds);
  void count_success(const std::string& finished_reason);  // stop, length, tool_calls, abort, error
  void count_http(int status);
  void count_restart();
  void set_connections(double count);

  // Prometheus' text format, version 0.0.4.
  std::string text() const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace weft
