#include "cli/bench_report.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "ops/gemm/weight.h"

namespace weft {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else
      out += c;
  }
  return out;
}

// The smallest of 1, 2, 5 times a power of ten that is at least x.
double round_step(double x) {
  const double power = std::pow(10.0, std::floor(std::log10(x)));
  for (const double digit : {1.0, 2.0, 5.0}) {
    if (digit * power >= x) return digit * power;
  }
  return 10 * power;
}

constexpr double kPlotLeft = 70, kPlotTop = 40, kPlotHeight = 260, kPlotSlot = 90, kPlotBar = 50;

// One plot, its upper edge at `offset`.
std::string panel_svg(const Plot& plot, double offset) {
  const double floor = offset + kPlotTop + kPlotHeight;
  const double right = kPlotLeft + kPlotSlot * double(std::max<size_t>(plot.bars.size(), 4));
  double top = 0;
  for (const Plot::Bar& bar : plot.bars) top = std::max({top, bar.value.high, bar.ceiling});
  const double step = round_step((top > 0 ? top : 1) / 5);
  const double limit = std::ceil((top > 0 ? top : 1) / step) * step;
  const auto y = [&](double value) { return floor - kPlotHeight * value / limit; };
  std::string out;
  const auto text = [&](double x, double baseline, const char* style, const std::string& words) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, baseline, style, escaped(words));
  };
  const auto line = [&](double x0, double y0, double x1, double y1, const char* style) {
    out += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x0, y0, x1, y1, style);
  };
  text(kPlotLeft, offset + 20, "font-size=\"14\"", plot.title);
  text(kPlotLeft - 8, offset + kPlotTop - 12, "text-anchor=\"end\"", plot.unit);
  for (double value = 0; value <= limit * 1.0001; value += step) {
    line(kPlotLeft, y(value), right, y(value), "stroke=\"#ddd\"");
    text(kPlotLeft - 8, y(value) + 4, "text-anchor=\"end\"", fmt::format("{:g}", value));
  }
  for (size_t i = 0; i < plot.bars.size(); ++i) {
    const Plot::Bar& bar = plot.bars[i];
    const double x = kPlotLeft + kPlotSlot * double(i) + (kPlotSlot - kPlotBar) / 2, middle = x + kPlotBar / 2;
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\" fill=\"#4a7ab5\"/>\n", x,
                       y(bar.value.median), kPlotBar, floor - y(bar.value.median));
    line(middle, y(bar.value.low), middle, y(bar.value.high), "stroke=\"black\" stroke-width=\"2\"");
    if (bar.ceiling > 0) {
      line(x - 8, y(bar.ceiling), x + kPlotBar + 8, y(bar.ceiling), "stroke=\"#b33\" stroke-dasharray=\"4 3\"");
    }
    text(middle, floor + 18, "text-anchor=\"middle\"", bar.label);
    text(middle, floor + 34, "text-anchor=\"middle\"", fmt::format("{:.4g}", bar.value.median));
  }
  return out;
}

}  // namespace

Json spread_json(const Spread& spread, double scale) {
  return {{"median", spread.median * scale}, {"min", spread.low * scale}, {"max", spread.high * scale}};
}

void add_bar(std::vector<Plot>& plots, const std::string& title, const std::string& variant, const Spread& us,
             double ceiling) {
  if (plots.empty() || plots.back().title != title) plots.push_back({title, "us", {}});
  plots.back().bars.push_back({variant, us, ceiling});
}

std::string plot_svg(std::span<const Plot> plots) {
  std::string panels;
  double width = 0, height = 0;
  for (const Plot& plot : plots) {
    width = std::max(width, kPlotLeft + kPlotSlot * double(std::max<size_t>(plot.bars.size(), 4)) + 20);
    panels += panel_svg(plot, height);
    height += kPlotTop + kPlotHeight + 40;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"white\"/>\n{2}</svg>\n",
      width, height, panels);
}

Status write_plots(const std::string& path, std::span<const Plot> plots) {
  std::ofstream file(path);
  file << plot_svg(plots);
  if (!file.flush()) return error(Code::kIo, "--plot {}: cannot write", path);
  return {};
}

void ReportFlags::declare(CLI::App& command) {
  command.add_flag("--json", json, "One JSON object on stdout");
  command.add_option("--plot", plot_path, "Write a picture of the figures to this SVG file");
}

Status report(const ReportFlags& flags, const Json& all, std::span<const Plot> plots,
              const std::function<void()>& print) {
  if (flags.json) {
    fmt::print("{}\n", all.dump());
  } else {
    print();
  }
  if (flags.plot_path.empty()) return {};
  return write_plots(flags.plot_path, plots);
}

Result<ModelWork> work_of(const Pretrained& model) {
  const ModelConfig& config = model.config;
  const auto bytes_of = [](const TensorView& view) { return double(dtype_bytes(view.dtype, view.shape.elements())); };
  WEFT_ASSIGN(const TensorView embedding, model.checkpoint->tensor("model.embed_tokens.weight"));
  ModelWork work;
  if (config.moe.experts > 0) work.expert_share = double(config.moe.per_token) / double(config.moe.experts);
  std::map<DType, double> by_format;
  double elements = 0;
  for (const auto& [name, view] : model.checkpoint->tensors()) {
    if (view.shape.rank() < 2) continue;
    // Of a layer's experts a token takes `per_token`: experts.N. of Hugging Face, one _exps tensor of llama.cpp.
    if (name.find(".experts.") != std::string::npos || name.find("_exps.") != std::string::npos) {
      work.expert_bytes += bytes_of(view);
      by_format[view.dtype] += bytes_of(view);
      elements += double(view.shape.elements()) * work.expert_share;
      continue;
    }
    work.weight_bytes += bytes_of(view);
    if (view.data == embedding.data) {
      if (!config.tied_embeddings) work.weight_bytes -= bytes_of(view);
      continue;
    }
    if (view.shape == embedding.shape) continue;  // the head
    by_format[view.dtype] += bytes_of(view);
    elements += double(view.shape.elements());
  }
  double most = 0;
  for (const auto& [format, bytes] : by_format) {
    if (bytes > most) most = bytes, work.format = format;
  }
  const bool halves = work.format == DType::kQ4_0 || work.format == DType::kQ4_1 || work.format == DType::kQ8_0;
  work.ops_per_token = elements * (halves ? 4 : 2);
  work.kv_bytes_token = double(2 * config.layers * config.kv_heads * config.head_dim * dtype_bytes(DType::kBF16, 1));
  return work;
}

Result<bool> LineReader::next(Worker& worker, std::string* line) {
  constexpr int kWaitMs = int(std::chrono::milliseconds(Worker::kIdleInterval).count() / 2);
  line->clear();
  for (;;) {
    if (const size_t end = pending_.find('\n'); end != std::string::npos) {
      *line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return true;
    }
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&input, 1, kWaitMs);
    if (ready == 0) {
      WEFT_TRY(worker.idle());
      continue;
    }
    char buffer[256];
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count <= 0) return false;
    pending_.append(buffer, size_t(count));
  }
}

}  // namespace weft
