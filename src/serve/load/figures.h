// What a load test showed.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/load/load_run.h"

namespace weft {

// Of a sample, in the sample's unit; percentiles interpolate between neighbours. All 0 for an empty sample.
struct Distribution {
  i64 count = 0;
  double mean = 0, min = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};
Distribution distribution_of(std::vector<double> sample);

// What a request must keep to count as good; in ms, unset ones do not matter.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, itl_ms, e2e_ms;  // itl: its longest gap
  // Reads "ttft:200,tpot:50". Errors: kInvalidArgument quoting what is wrong.
  static Result<Goodput> parse(std::string_view text);
  bool any() const { return ttft_ms || tpot_ms || itl_ms || e2e_ms; }
  bool met_by(const LoadRecord& record) const;
};

struct LoadFigures {
  i64 completed = 0, failed = 0;
  i64 counted = 0;        // completed requests whose tokens the server counted
  i64 prompt_tokens = 0;  // of counted requests, as the rest is unknown
  i64 cached_tokens = 0;
  i64 output_tokens = 0;  // of completed requests
  double requests_per_s = 0, output_tokens_per_s = 0;
  Distribution ttft_ms, tpot_ms, itl_ms, e2e_ms;  // of completed requests; itl of all gaps between texts
  Distribution input_len, output_len;             // tokens, of completed requests
  i64 good = 0;                                   // completed requests that meet the goodput target
};
// In ms, of completed requests: times to the first token, per further token (of answers with more than one), between
// texts, and from end to end.
struct LatencySamples {
  std::vector<double> ttft, tpot, itl, e2e;
};
LatencySamples latencies_of(const LoadResult& result);

LoadFigures figures_of(const LoadResult& result, const Goodput& goodput);

// Options, figures and faults as one JSON object; times in ms unless the name ends in _s.
nlohmann::ordered_json load_json(const std::string& url, const LoadOptions& options, const LoadResult& result,
                                 const Goodput& goodput);

// A table for a terminal.
std::string load_table(const nlohmann::ordered_json& report);

// One HTML file without outside references, charts as SVG: distributions of the latencies, tokens and requests over
// time.
std::string load_html(const nlohmann::ordered_json& report, const LoadResult& result);

}  // namespace weft
