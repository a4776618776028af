// `weft bench comm`: the operators of many ranks on this host.
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "dist/bench.h"

namespace weft {
namespace {

void print_json(const CommBenchResult& result) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const CommBenchRow& row : result.rows) {
    rows.push_back({{"op", row.op},
                    {"algorithm", row.algorithm},
                    {"bytes", row.bytes},
                    {"us", {{"median", row.median_us}, {"min", row.low_us}, {"max", row.high_us}}},
                    {"gb_per_s", row.gb_per_s}});
  }
  const nlohmann::ordered_json out = {{"bench", "comm"},           {"device", "cpu"},         {"dtype", "f32"},
                                      {"ranks", result.ranks},     {"pinned", result.pinned}, {"cache", "warm"},
                                      {"samples", result.samples}, {"rows", std::move(rows)}};
  fmt::print("{}\n", out.dump());
}

void print_table(const CommBenchResult& result) {
  fmt::print("{} ranks (threads, {}), f32, warm; outputs checked; slowest rank, median (min - max) of {} samples\n",
             result.ranks, result.pinned ? "pinned" : "more ranks than CPUs, not pinned", result.samples);
  fmt::print("  {:<16}{:<10}{:>10}{:>12}{:>26}{:>10}\n", "operator", "algorithm", "bytes", "us", "", "GB/s");
  for (const CommBenchRow& row : result.rows) {
    fmt::print("  {:<16}{:<10}{:>10}{:>12.2f}{:>26}{:>10.2f}\n", row.op, row.algorithm, row.bytes, row.median_us,
               fmt::format("({:.2f} - {:.2f})", row.low_us, row.high_us), row.gb_per_s);
  }
}

}  // namespace

void add_bench_comm(CLI::App& bench) {
  CLI::App* comm = bench.add_subcommand("comm", "Latency and bandwidth of collectives by size and algorithm");
  auto options = std::make_shared<CommBenchOptions>();
  auto json = std::make_shared<bool>(false);
  comm->add_option("--ranks", options->ranks, "Ranks, as threads of this process")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  comm->add_option("--bytes", options->bytes, "Sizes of the whole tensor, multiples of 4")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(i64(4), i64(64) << 20));
  comm->add_option("--op", options->ops, "Operators; default all")
      ->delimiter(',')
      ->check(CLI::IsMember({"barrier", "broadcast", "all_reduce", "all_gather", "reduce_scatter", "all_to_all"}));
  comm->add_option("--samples", options->samples, "Samples of each row")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  comm->add_flag("--json", *json, "One JSON object on stdout");
  comm->callback([options, json] {
    const auto result = run_comm_bench(*options);
    finish(result.status());
    *json ? print_json(*result) : print_table(*result);
  });
}

}  // namespace weft
