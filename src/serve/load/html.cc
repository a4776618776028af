// The report of a load test as a web page.
#include <algorithm>
#include <cmath>

#include "serve/load/figures.h"

namespace weft {
namespace {

using nlohmann::ordered_json;

constexpr double kWidth = 460, kHeight = 240;                       // of a chart, px
constexpr double kLeft = 56, kRight = 12, kTop = 30, kBottom = 40;  // margins around the plot

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

struct Point {
  double x, y;
};

// The next of 1, 2, 5 times a power of ten that divides `range` into at most five steps.
double tick_step(double range) {
  const double rough = range / 5;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

struct Chart {
  std::string title, x_label, y_label;
  std::vector<Point> line;
  double max_y = 0;  // 0: the line's
};

std::string svg(const Chart& chart) {
  double max_x = 0, max_y = chart.max_y;
  for (const Point& point : chart.line) {
    max_x = std::max(max_x, point.x);
    if (chart.max_y == 0) max_y = std::max(max_y, point.y);
  }
  if (max_x <= 0) max_x = 1;
  if (max_y <= 0) max_y = 1;
  auto at_x = [&](double x) { return kLeft + x / max_x * (kWidth - kLeft - kRight); };
  auto at_y = [&](double y) { return kHeight - kBottom - y / max_y * (kHeight - kTop - kBottom); };
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><text class=\"title\" x=\"{}\" y=\"18\">{}</text>",
      kWidth, kHeight, escaped(chart.title), kLeft, escaped(chart.title));
  const double step_x = tick_step(max_x), step_y = tick_step(max_y);
  for (double y = 0; y <= max_y * 1.0001; y += step_y) {
    out += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text class=\"end\" x=\"{3}\" "
        "y=\"{4:.1f}\">{5:.6g}</text>",
        kLeft, kWidth - kRight, at_y(y), kLeft - 6, at_y(y) + 4, y);
  }
  for (double x = 0; x <= max_x * 1.0001; x += step_x) {
    out += fmt::format("<text class=\"mid\" x=\"{:.1f}\" y=\"{}\">{:.6g}</text>", at_x(x), kHeight - kBottom + 16, x);
  }
  out += fmt::format("<text class=\"mid\" x=\"{}\" y=\"{}\">{}</text>", (kLeft + kWidth - kRight) / 2, kHeight - 6,
                     escaped(chart.x_label));
  out += fmt::format("<text class=\"end\" x=\"{}\" y=\"18\">{}</text><polyline points=\"", kWidth - kRight,
                     escaped(chart.y_label));
  for (const Point& point : chart.line) out += fmt::format("{:.1f},{:.1f} ", at_x(point.x), at_y(point.y));
  return out + "\"/></svg>\n";
}

// The share of a sample at or below each value, in at most 200 points.
Chart share_below(std::string title, std::vector<double> sample) {
  std::sort(sample.begin(), sample.end());
  Chart chart{.title = std::move(title), .x_label = "ms", .y_label = "% of them at most", .line = {}, .max_y = 100};
  const size_t points = std::min<size_t>(sample.size(), 200);
  if (points > 0) chart.line.push_back({sample.front(), 0});
  for (size_t i = 0; i < points; ++i) {
    const size_t index = points == 1 ? 0 : i * (sample.size() - 1) / (points - 1);
    chart.line.push_back({sample[index], 100.0 * double(index + 1) / double(sample.size())});
  }
  return chart;
}

std::string latency_charts(const LoadResult& result) {
  LatencySamples latencies = latencies_of(result);
  return svg(share_below("Time to first token", std::move(latencies.ttft))) +
         svg(share_below("Time per output token", std::move(latencies.tpot))) +
         svg(share_below("Gap between texts", std::move(latencies.itl))) +
         svg(share_below("End to end", std::move(latencies.e2e)));
}

std::string time_charts(const LoadResult& result) {
  const size_t total = size_t(result.duration_s / LoadResult::kBinSeconds) + 1;
  const size_t bins_per_point = (total + 119) / 120;
  const double seconds = double(bins_per_point) * LoadResult::kBinSeconds;
  Chart texts{.title = "Events with text", .x_label = "s", .y_label = "per second", .line = {}};
  Chart running{.title = "Open requests", .x_label = "s", .y_label = "requests", .line = {}};
  for (size_t first = 0; first < total; first += bins_per_point) {
    i64 sum = 0;
    for (size_t bin = first; bin < std::min(first + bins_per_point, result.text_events.size()); ++bin) {
      sum += result.text_events[bin];
    }
    const double at = (double(first) + double(bins_per_point) / 2) * LoadResult::kBinSeconds;
    const auto open = std::count_if(result.records.begin(), result.records.end(), [&](const LoadRecord& record) {
      return record.arrival_s <= at && at < record.end_s;
    });
    texts.line.push_back({at, double(sum) / seconds});
    running.line.push_back({at, double(open)});
  }
  return svg(texts) + svg(running);
}

std::string table(const ordered_json& report) {
  std::string out =
      "<table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>mean</th><th>min</th><th>max</th></tr>\n";
  const std::pair<const char*, const char*> rows[] = {
      {"Time to first token, ms", "ttft_ms"}, {"Time per output token, ms", "tpot_ms"},
      {"Gap between texts, ms", "itl_ms"},    {"End to end, ms", "e2e_ms"},
      {"Prompt, tokens", "input_len"},        {"Answer, tokens", "output_len"}};
  for (const auto& [title, name] : rows) {
    out += fmt::format("<tr><th>{}</th>", title);
    for (const char* key : {"p50", "p90", "p99", "mean", "min", "max"}) {
      out += fmt::format("<td>{:.2f}</td>", report[name][key].get<double>());
    }
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

constexpr const char* kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>weft bench serve</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #6b7480; --grid: #d9dee4; --line: #2462c8; --back: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #98a2ae; --grid: #333a43; --line: #7fb0ff; --back: #14171b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } .soft { color: var(--soft); } .figures { display: flex; flex-wrap: wrap; gap: 2em; margin: 1em 0; }
.figures b { display: block; font-size: 1.6em; } .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 1em; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } svg .title { font-size: 13px; fill: var(--ink); }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; } .grid { stroke: var(--grid); } polyline { fill: none; stroke: var(--line); stroke-width: 1.8; }
table { border-collapse: collapse; margin: 1em 0; } td, th { padding: .2em .8em; text-align: right; font-variant-numeric: tabular-nums; }
tr th:first-child { text-align: left; font-weight: normal; } pre { overflow: auto; font-size: 12px; border: 1px solid var(--grid); padding: 1em; }
</style></head><body>
)";

}  // namespace

std::string load_html(const ordered_json& report, const LoadResult& result) {
  auto text = [&](const char* name) { return escaped(report[name].get<std::string>()); };
  auto figure = [](const std::string& value, const char* what) {
    return fmt::format("<div><b>{}</b><span class=\"soft\">{}</span></div>", value, what);
  };
  std::string out = kHead;
  out += fmt::format("<h1>{}</h1><p class=\"soft\">{} at {}, dataset {}</p>\n<div class=\"figures\">", text("model"),
                     text("endpoint"), text("url"), escaped(report["dataset"]["name"].get<std::string>()));
  out += figure(fmt::format("{:.1f}", report["output_tokens_per_s"].get<double>()), "output tokens/s");
  out += figure(fmt::format("{:.2f}", report["requests_per_s"].get<double>()), "requests/s");
  out += figure(fmt::format("{}", report["completed"].get<i64>()), "completed");
  out += figure(fmt::format("{}", report["failed"].get<i64>()), "failed");
  if (report.contains("goodput")) {
    out += figure(fmt::format("{:.1f} %", 100 * report["goodput"]["share"].get<double>()), "within the target");
  }
  out += "</div>\n";
  for (const ordered_json& note : report["notes"]) out += fmt::format("<p>{}</p>\n", escaped(note.get<std::string>()));
  for (const auto& [message, count] : report["errors"].items()) {
    out += fmt::format("<p>{} x {}</p>\n", count.get<i64>(), escaped(message));
  }
  out += table(report) + "<div class=\"charts\">\n" + latency_charts(result) + time_charts(result) + "</div>\n";
  return out + "<h2>Options and figures</h2><pre>" + escaped(report.dump(2)) + "</pre></body></html>\n";
}

}  // namespace weft
