#include "serve/load/figures.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace weft {
namespace {

using nlohmann::ordered_json;

double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * double(sorted.size() - 1);
  const auto below = size_t(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - double(below)) * (sorted[above] - sorted[below]);
}

ordered_json spread_json(const Distribution& spread) {
  auto round3 = [](double value) { return std::round(value * 1000) / 1000; };
  return {{"count", spread.count},     {"mean", round3(spread.mean)}, {"min", round3(spread.min)},
          {"p50", round3(spread.p50)}, {"p90", round3(spread.p90)},   {"p99", round3(spread.p99)},
          {"max", round3(spread.max)}};
}

ordered_json dataset_json(const DatasetOptions& dataset) {
  const char* names[] = {"random", "sharegpt-like", "prefix-shared"};
  ordered_json json = {{"name", names[int(dataset.kind)]},
                       {"input_len", dataset.input_len},
                       {"output_len", dataset.output_len},
                       {"prompts", dataset.vocab > 0 ? "token ids" : "words"},
                       {"seed", dataset.seed}};
  if (dataset.kind == DatasetKind::kPrefixShared) {
    json["prefix_len"] = dataset.prefix_len;
    json["prefix_groups"] = dataset.groups;
  }
  return json;
}

}  // namespace

Distribution distribution_of(std::vector<double> sample) {
  if (sample.empty()) return {};
  std::sort(sample.begin(), sample.end());
  return {.count = i64(sample.size()),
          .mean = std::accumulate(sample.begin(), sample.end(), 0.0) / double(sample.size()),
          .min = sample.front(),
          .p50 = percentile(sample, 0.5),
          .p90 = percentile(sample, 0.9),
          .p99 = percentile(sample, 0.99),
          .max = sample.back()};
}

Result<Goodput> Goodput::parse(std::string_view text) {
  Goodput goodput;
  const std::pair<std::string_view, std::optional<double>*> known[] = {
      {"ttft", &goodput.ttft_ms}, {"tpot", &goodput.tpot_ms}, {"itl", &goodput.itl_ms}, {"e2e", &goodput.e2e_ms}};
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const size_t colon = part.find(':');
    const auto found = std::find_if(std::begin(known), std::end(known),
                                    [&](const auto& entry) { return entry.first == part.substr(0, colon); });
    double value = 0;
    const char* const end = part.data() + part.size();
    const bool has_value = colon != std::string_view::npos;
    const auto read = has_value ? std::from_chars(part.data() + colon + 1, end, value) : std::from_chars_result{};
    if (found == std::end(known) || !has_value || read.ec != std::errc() || read.ptr != end || !(value > 0)) {
      return error(Code::kInvalidArgument,
                   "goodput '{}': '{}' is not one of ttft, tpot, itl, e2e, a colon and milliseconds", text, part);
    }
    *found->second = value;
  }
  return goodput;
}

bool Goodput::met_by(const LoadRecord& record) const {
  auto keeps = [](const std::optional<double>& limit_ms, double seconds) {
    return !limit_ms || seconds * 1000 <= *limit_ms;
  };
  return record.ok && keeps(ttft_ms, record.ttft_s()) && keeps(itl_ms, record.longest_gap_s) &&
         keeps(e2e_ms, record.e2e_s()) && (record.output_tokens < 2 || keeps(tpot_ms, record.tpot_s()));
}

LatencySamples latencies_of(const LoadResult& result) {
  LatencySamples samples;
  for (const LoadRecord& record : result.records) {
    if (!record.ok) continue;
    samples.ttft.push_back(record.ttft_s() * 1000);
    samples.e2e.push_back(record.e2e_s() * 1000);
    if (record.output_tokens > 1) samples.tpot.push_back(record.tpot_s() * 1000);
  }
  for (const float gap : result.gaps_s) samples.itl.push_back(double(gap) * 1000);
  return samples;
}

LoadFigures figures_of(const LoadResult& result, const Goodput& goodput) {
  LoadFigures figures;
  std::vector<double> input, output;
  for (const LoadRecord& record : result.records) {
    if (!record.ok) {
      ++figures.failed;
      continue;
    }
    ++figures.completed;
    figures.good += goodput.met_by(record);
    figures.output_tokens += record.output_tokens;
    if (record.counted) {
      ++figures.counted;
      figures.prompt_tokens += record.prompt_tokens;
      figures.cached_tokens += record.cached_tokens;
      input.push_back(double(record.prompt_tokens));
    }
    output.push_back(double(record.output_tokens));
  }
  LatencySamples latencies = latencies_of(result);
  figures.ttft_ms = distribution_of(std::move(latencies.ttft));
  figures.tpot_ms = distribution_of(std::move(latencies.tpot));
  figures.itl_ms = distribution_of(std::move(latencies.itl));
  figures.e2e_ms = distribution_of(std::move(latencies.e2e));
  figures.input_len = distribution_of(std::move(input));
  figures.output_len = distribution_of(std::move(output));
  if (result.duration_s > 0) {
    figures.requests_per_s = double(figures.completed) / result.duration_s;
    figures.output_tokens_per_s = double(figures.output_tokens) / result.duration_s;
  }
  return figures;
}

ordered_json load_json(const std::string& url, const LoadOptions& options, const LoadResult& result,
                       const Goodput& goodput) {
  const LoadFigures figures = figures_of(result, goodput);
  ordered_json json = {{"url", url},
                       {"endpoint", options.chat ? "/v1/chat/completions" : "/v1/completions"},
                       {"model", result.model},
                       {"dataset", dataset_json(options.dataset)}};
  json["load"] = {{"rate", options.rate > 0 ? ordered_json(options.rate) : ordered_json()},
                  {"concurrency", options.concurrency > 0 ? ordered_json(options.concurrency) : ordered_json()},
                  {"ramp_s", options.ramp_s},
                  {"temperature", options.temperature},
                  {"ignore_eos", result.ignore_eos}};
  json["notes"] = result.notes;
  json["completed"] = figures.completed;
  json["failed"] = figures.failed;
  json["errors"] = result.errors;
  json["duration_s"] = result.duration_s;
  json["requests_per_s"] = figures.requests_per_s;
  json["output_tokens_per_s"] = figures.output_tokens_per_s;
  json["tokens_counted_by"] = figures.counted == figures.completed ? "server"
                              : figures.counted == 0               ? "events with text"
                                                                   : "server, and events with text where it did not";
  json["prompt_tokens"] = figures.counted > 0 ? ordered_json(figures.prompt_tokens) : ordered_json();
  json["cached_tokens"] = figures.cached_tokens;
  json["output_tokens"] = figures.output_tokens;
  json["text_events"] = std::accumulate(result.text_events.begin(), result.text_events.end(), i64(0));
  json["input_len"] = spread_json(figures.input_len);
  json["output_len"] = spread_json(figures.output_len);
  json["ttft_ms"] = spread_json(figures.ttft_ms);
  json["tpot_ms"] = spread_json(figures.tpot_ms);
  json["itl_ms"] = spread_json(figures.itl_ms);
  json["e2e_ms"] = spread_json(figures.e2e_ms);
  if (!goodput.any()) return json;
  ordered_json target;
  if (goodput.ttft_ms) target["ttft_ms"] = *goodput.ttft_ms;
  if (goodput.tpot_ms) target["tpot_ms"] = *goodput.tpot_ms;
  if (goodput.itl_ms) target["itl_ms"] = *goodput.itl_ms;
  if (goodput.e2e_ms) target["e2e_ms"] = *goodput.e2e_ms;
  json["goodput"] = {{"target", target},
                     {"good", figures.good},
                     {"share", result.records.empty() ? 0.0 : double(figures.good) / double(result.records.size())},
                     {"requests_per_s", result.duration_s > 0 ? double(figures.good) / result.duration_s : 0.0}};
  return json;
}

std::string load_table(const ordered_json& report) {
  auto number = [&](const char* name) { return report[name].get<double>(); };
  std::string out = fmt::format("{} {} at {}\n", report["model"].get<std::string>(),
                                report["endpoint"].get<std::string>(), report["url"].get<std::string>());
  for (const ordered_json& note : report["notes"]) out += fmt::format("note: {}\n", note.get<std::string>());
  out += fmt::format("requests   {} completed, {} failed in {:.2f} s: {:.2f}/s\n", report["completed"].get<i64>(),
                     report["failed"].get<i64>(), number("duration_s"), number("requests_per_s"));
  for (const auto& [message, count] : report["errors"].items()) {
    out += fmt::format("  {} x {}\n", count.get<i64>(), message);
  }
  const std::string prompts =
      report["prompt_tokens"].is_null() ? "unknown" : fmt::format("{}", report["prompt_tokens"].get<i64>());
  out += fmt::format("tokens     {} in ({} from cache), {} out: {:.1f} out/s (counted by {})\n", prompts,
                     report["cached_tokens"].get<i64>(), report["output_tokens"].get<i64>(),
                     number("output_tokens_per_s"), report["tokens_counted_by"].get<std::string>());
  out += fmt::format("{:<10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "ms", "p50", "p90", "p99", "mean", "max");
  const std::pair<const char*, const char*> rows[] = {
      {"TTFT", "ttft_ms"}, {"TPOT", "tpot_ms"}, {"gap", "itl_ms"}, {"end to end", "e2e_ms"}};
  for (const auto& [title, name] : rows) {
    const ordered_json& row = report[name];
    auto at = [&](const char* key) { return row[key].get<double>(); };
    out += fmt::format("{:<10} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f}\n", title, at("p50"), at("p90"),
                       at("p99"), at("mean"), at("max"));
  }
  if (report.contains("goodput")) {
    const ordered_json& goodput = report["goodput"];
    out += fmt::format("goodput    {} requests ({:.1f} %), {:.2f}/s keep {}\n", goodput["good"].get<i64>(),
                       100 * goodput["share"].get<double>(), goodput["requests_per_s"].get<double>(),
                       goodput["target"].dump());
  }
  return out;
}

}  // namespace weft
