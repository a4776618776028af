// What the benchmarks print: text, one JSON object, one picture.
#pragma once
#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/commands.h"
#include "engine/worker.h"
#include "models/pretrained.h"
#include "ops/gemm/bench.h"

namespace weft {

using Json = nlohmann::ordered_json;

// {"median", "min", "max"}, each times `scale`.
Json spread_json(const Spread& spread, double scale);

// A bar from 0 to the median for every measurement, with a line from its smallest to its largest sample.
struct Plot {
  struct Bar {
    std::string label;
    Spread value;
    double ceiling = 0;  // drawn as a dashed line; 0 = none
  };
  std::string title, unit;
  std::vector<Bar> bars;
};
// A bar in the last plot if it has this title, else in a new one; in microseconds.
void add_bar(std::vector<Plot>& plots, const std::string& title, const std::string& variant, const Spread& us,
             double ceiling = 0);
// A variant at m rows beside the one that its ratio is to: members m, regime, variant, us, ratio and their quartiles.
template <class Row>
Json variant_json(const Row& row) {
  return {{"m", row.m},
          {"regime", row.regime},
          {"variant", row.variant},
          {"us", row.us},
          {"quartiles_us", {row.us_lower, row.us_upper}},
          {"ratio", row.ratio},
          {"ratio_quartiles", {row.ratio_lower, row.ratio_upper}}};
}
// One below the other.
std::string plot_svg(std::span<const Plot> plots);
Status write_plots(const std::string& path, std::span<const Plot> plots);  // errors: kIo naming --plot

struct ReportFlags {
  bool json = false;
  std::string plot_path;
  void declare(CLI::App& command);
};
// Prints `all` as one line of JSON if asked to, else calls `print`; writes the picture if asked to. Errors: kIo.
Status report(const ReportFlags& flags, const Json& all, std::span<const Plot> plots,
              const std::function<void()>& print);
inline Status report(const ReportFlags& flags, const Json& all, const Plot& plot, const std::function<void()>& print) {
  return report(flags, all, std::span(&plot, 1), print);
}

// What one step of a model must at least do, from the matrices in its files.
struct ModelWork {
  DType format = DType::kF32;  // of the layers' matrices: that of most of their bytes
  // Operations per prefilled token: two per element of the layers' matrices, four where 8-bit instructions multiply
  // 16-bit activations in two halves. Attention and the head are not counted.
  double ops_per_token = 0;
  double weight_bytes = 0;    // of layers and head, less the experts
  double expert_bytes = 0;    // of all experts
  double expert_share = 1;    // of them for one token
  double kv_bytes_token = 0;  // of one position
  // Bytes read by a decode step; experts as if no two sequences chose the same one.
  double bytes_per_step(i64 batch, i64 context) const {
    return weight_bytes + std::min(1.0, double(batch) * expert_share) * expert_bytes +
           double(batch * (context + 1)) * kv_bytes_token;
  }
};
Result<ModelWork> work_of(const Pretrained& model);

// Lines of standard input; while it waits the other ranks are told that the leader lives.
class LineReader {
 public:
  // False at the end of the input. Errors: a lost rank's reason.
  Result<bool> next(Worker& worker, std::string* line);

 private:
  std::string pending_;
};

}  // namespace weft
