// A load test of a server: requests by a schedule, and when each token came.
#pragma once
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "serve/completion_client.h"
#include "serve/load/dataset.h"

namespace weft {

struct LoadOptions {
  ApiAccess access;
  bool chat = false;  // /v1/chat/completions, else /v1/completions
  std::string model;  // "": the first that the server names
  DatasetOptions dataset;
  double rate = 0;        // requests per second, Poisson arrivals; 0: a closed loop
  i64 concurrency = 0;    // most requests at once; 0: no bound (then a rate is needed)
  i64 requests = 100;     // how many to send; 0: no bound (then a duration is needed)
  double duration_s = 0;  // no request starts later; 0: no bound
  double ramp_s = 0;      // a closed loop's clients start spread over this time
  double temperature = 0;
  bool ignore_eos = true;             // every answer has the wanted length, where the server can do that
  nlohmann::ordered_json extra = {};  // fields added to each request
};

// Times are seconds since the start of the run. An arrival is when the schedule wanted the request: a request that
// waited in the client for a free place has waited all the same.
struct LoadRecord {
  double arrival_s = 0;
  double first_s = 0;  // first text
  double last_s = 0;   // last text
  double end_s = 0;
  double longest_gap_s = 0;  // between texts
  i64 prompt_tokens = -1;    // -1: unknown
  i64 output_tokens = 0;     // counted by the server, else events with text
  i64 cached_tokens = 0;
  bool counted = false;  // by the server
  bool ok = false;

  double ttft_s() const { return first_s - arrival_s; }
  double e2e_s() const { return end_s - arrival_s; }
  double tpot_s() const { return (last_s - first_s) / double(output_tokens - 1); }  // from two tokens on
};

struct LoadResult {
  std::string model;
  bool ignore_eos = false;         // was sent
  bool asked_for_usage = false;    // stream_options.include_usage was sent
  std::vector<std::string> notes;  // what the server did not take
  double duration_s = 0;           // until the last answer ended
  std::vector<LoadRecord> records;
  std::vector<float> gaps_s;          // between texts, of all requests that succeeded or not
  std::vector<i64> text_events;       // how many came in each interval of kBinSeconds
  std::map<std::string, i64> errors;  // message -> how often
  static constexpr double kBinSeconds = 0.25;
};

struct LoadProgress {
  double elapsed_s;
  i64 sent, completed, failed, running, text_events;
};

// Asks the server what it takes with one short request, then runs the test. `on_progress` is called every second.
// Errors: of the options, naming them; of the first request. Failures of later requests are in the result.
Result<LoadResult> run_load(HttpClient& client, const LoadOptions& options,
                            const std::function<void(const LoadProgress&)>& on_progress);

}  // namespace weft
