// `weft bench comm`: the operators of many ranks on this host.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/format_option.h"
#include "dist/bench.h"

namespace weft {
namespace {

void print_json(const CommBenchGemm& gemm, const CommBenchResult& result) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const CommBenchRow& row : result.rows) {
    nlohmann::ordered_json entry = {{"op", row.op}, {"algorithm", row.algorithm}};
    if (row.m > 0) entry.update({{"m", row.m}, {"n", gemm.n}, {"k", gemm.k}, {"format", dtype_name(gemm.format)}});
    if (row.m == 0) entry["bytes"] = row.bytes;
    entry["us"] = {{"median", row.median_us}, {"min", row.low_us}, {"max", row.high_us}};
    row.m > 0 ? entry["gops"] = row.giga_ops : entry["gb_per_s"] = row.gb_per_s;
    rows.push_back(std::move(entry));
  }
  const nlohmann::ordered_json out = {{"bench", "comm"},           {"device", "cpu"},         {"dtype", "f32"},
                                      {"ranks", result.ranks},     {"pinned", result.pinned}, {"cache", "warm"},
                                      {"samples", result.samples}, {"rows", std::move(rows)}};
  fmt::print("{}\n", out.dump());
}

void print_row(const CommBenchRow& row, i64 size, double rate) {
  fmt::print("  {:<16}{:<10}{:>10}{:>12.2f}{:>26}{:>10.2f}\n", row.op, row.algorithm, size, row.median_us,
             fmt::format("({:.2f} - {:.2f})", row.low_us, row.high_us), rate);
}

void print_table(const CommBenchGemm& gemm, const CommBenchResult& result) {
  fmt::print("{} ranks (threads, {}), f32, warm; outputs checked; slowest rank, median (min - max) of {} samples\n",
             result.ranks, result.pinned ? "pinned" : "more ranks than CPUs, not pinned", result.samples);
  const auto head = [](const char* size, const char* rate) {
    fmt::print("  {:<16}{:<10}{:>10}{:>12}{:>26}{:>10}\n", "operator", "algorithm", size, "us", "", rate);
  };
  const auto is_gemm = [](const CommBenchRow& row) { return row.m > 0; };
  if (!std::all_of(result.rows.begin(), result.rows.end(), is_gemm)) head("bytes", "GB/s");
  for (const CommBenchRow& row : result.rows) {
    if (!is_gemm(row)) print_row(row, row.bytes, row.gb_per_s);
  }
  if (std::none_of(result.rows.begin(), result.rows.end(), is_gemm)) return;
  fmt::print("y [m, {}] = x [m, {}] w^T over all ranks, w {}; `gemm` is a rank's product alone\n", gemm.n, gemm.k,
             dtype_name(gemm.format));
  head("m", "GOP/s");
  for (const CommBenchRow& row : result.rows) {
    if (is_gemm(row)) print_row(row, row.m, row.giga_ops);
  }
}

}  // namespace

void add_bench_comm(CLI::App& bench) {
  CLI::App* comm = bench.add_subcommand(
      "comm", "Operators of many ranks: collectives by size and algorithm, GEMMs with communication");
  auto options = std::make_shared<CommBenchOptions>();
  auto json = std::make_shared<bool>(false);
  const CLI::Range size(i64(1), i64(1) << 16);
  comm->add_option("--ranks", options->ranks, "Ranks, as threads of this process")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  comm->add_option("--bytes", options->bytes, "Sizes of the whole tensor, multiples of 4")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(i64(4), i64(64) << 20));
  comm->add_option("--op", options->ops, "Operators; default all")
      ->delimiter(',')
      ->check(CLI::IsMember(comm_bench_ops()));
  comm->add_option("--m", options->m, "Rows of GEMMs")->delimiter(',')->capture_default_str()->check(size);
  comm->add_option("--n", options->gemm.n, "Columns of their output")->capture_default_str()->check(size);
  comm->add_option("--k", options->gemm.k, "Columns of their input; whole blocks of 32 for quantised weights")
      ->capture_default_str()
      ->check(size);
  add_format_option(*comm, options->gemm.format);
  comm->add_option("--samples", options->samples, "Samples of each row")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  comm->add_flag("--json", *json, "One JSON object on stdout");
  comm->callback([options, json] {
    const auto result = run_comm_bench(*options);
    finish(result.status());
    *json ? print_json(options->gemm, *result) : print_table(options->gemm, *result);
  });
}

}  // namespace weft
