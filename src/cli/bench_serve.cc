// `weft bench serve`: the latencies and the throughput of a running server, weft's or another.
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "base/file.h"
#include "cli/commands.h"
#include "serve/load/figures.h"

namespace weft {
namespace {

struct ServeFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string endpoint = "completions";
  std::string goodput, extra, report;
  LoadOptions load;
  double timeout_s = 300;
  bool json = false, quiet = false, keep_eos = false;
};

void show(const LoadProgress& progress, bool terminal) {
  // A log gets a line now and then, a terminal one line that is written over.
  if (!terminal && i64(progress.elapsed_s + 0.5) % 10 != 0) return;
  fmt::print(stderr, "{}{:.0f} s: {} sent, {} completed, {} failed, {} running, {} events with text{}",
             terminal ? "\r\x1b[K" : "", progress.elapsed_s, progress.sent, progress.completed, progress.failed,
             progress.running, progress.text_events, terminal ? "" : "\n");
  std::fflush(stderr);
}

Status write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return error(Code::kIo, "{}: cannot write: {}", path, errno_text());
  return {};
}

Status run_bench_serve(ServeFlags& flags) {
  LoadOptions& load = flags.load;
  load.chat = flags.endpoint == "chat";
  load.ignore_eos = !flags.keep_eos;
  load.access.timeout = std::chrono::milliseconds(i64(flags.timeout_s * 1000));
  if (load.rate <= 0 && load.concurrency <= 0) load.concurrency = 8;
  if (load.requests < 0) load.requests = load.duration_s > 0 ? 0 : 100;
  if (!flags.extra.empty()) {
    load.extra = nlohmann::ordered_json::parse(flags.extra, nullptr, false);
    if (!load.extra.is_object()) return error(Code::kInvalidArgument, "--extra: '{}' is no JSON object", flags.extra);
  }
  WEFT_ASSIGN(const Goodput goodput, Goodput::parse(flags.goodput));
  WEFT_ASSIGN(const Url url, parse_api_url(flags.url));
  WEFT_ASSIGN(const std::unique_ptr<HttpClient> client, HttpClient::create(url));
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  WEFT_ASSIGN(const LoadResult result, run_load(*client, load, [&](const LoadProgress& progress) {
                if (!flags.quiet) show(progress, terminal);
              }));
  if (terminal && !flags.quiet) fmt::print(stderr, "\r\x1b[K");
  const nlohmann::ordered_json report = load_json(url.text(), load, result, goodput);
  if (!flags.report.empty()) WEFT_TRY(write_file(flags.report, load_html(report, result)));
  fmt::print("{}", flags.json ? report.dump() + "\n" : load_table(report));
  if (report["completed"].get<i64>() > 0) return {};
  return error(Code::kUnavailable, "no request succeeded; the first fault: {}",
               result.errors.empty() ? "none was sent" : result.errors.begin()->first);
}

void declare_load(CLI::App& bench, LoadOptions& load) {
  bench.add_option("--rate", load.rate, "Requests per second, arriving by chance (Poisson)")
      ->check(CLI::PositiveNumber);
  bench
      .add_option("--concurrency", load.concurrency,
                  "Requests at once: without --rate each answer starts the next, with it the rest wait [8]")
      ->check(CLI::Range(1, 1000000));
  load.requests = -1;
  bench.add_option("--requests", load.requests, "Requests to send [100, or unlimited with --duration]")
      ->check(CLI::Range(1, 1000000000));
  bench.add_option("--duration", load.duration_s, "Seconds in which requests are started")->check(CLI::PositiveNumber);
  bench.add_option("--ramp", load.ramp_s, "Seconds over which the first --concurrency requests start")
      ->check(CLI::NonNegativeNumber);
  bench.add_option("--temperature", load.temperature, "Of the sampling")->check(CLI::Range(0.0, 100.0));
}

void declare_dataset(CLI::App& bench, DatasetOptions& dataset) {
  const std::map<std::string, DatasetKind> kinds = {{"random", DatasetKind::kRandom},
                                                    {"sharegpt-like", DatasetKind::kShareGptLike},
                                                    {"prefix-shared", DatasetKind::kPrefixShared}};
  bench.add_option("--dataset", dataset.kind, "random, sharegpt-like or prefix-shared")
      ->transform(CLI::CheckedTransformer(kinds).description(""))
      ->default_str("random");
  bench.add_option("--input-len", dataset.input_len, "Tokens of a prompt; the mean for sharegpt-like")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench.add_option("--output-len", dataset.output_len, "Tokens of an answer; the mean for sharegpt-like")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench.add_option("--max-len", dataset.max_len, "Longest prompt or answer that sharegpt-like draws")
      ->check(CLI::Range(4, 1 << 24))
      ->capture_default_str();
  bench.add_option("--prefix-len", dataset.prefix_len, "Tokens that prompts of prefix-shared begin with in common")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  bench.add_option("--prefix-groups", dataset.groups, "How many such beginnings there are")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench
      .add_option("--vocab", dataset.vocab, "Prompts of random token ids below this, of exact length, instead of words")
      ->check(CLI::Range(1, 1 << 24));
  bench.add_option("--seed", dataset.seed, "The same seed sends the same requests")->capture_default_str();
}

}  // namespace

void add_bench_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* bench =
      app.add_subcommand("serve", "Load a running server (weft, vLLM, llama-server ...) and time its answers");
  bench->add_option("--url", flags->url, "Of the server, with or without /v1")->capture_default_str();
  bench->add_option("--endpoint", flags->endpoint, "completions or chat")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  bench->add_option("-m,--model", flags->load.model, "As the server names it [its first]");
  bench->add_option("--api-key", flags->load.access.key, "Sent as a bearer token")->envname("WEFT_API_KEY");
  declare_load(*bench, flags->load);
  declare_dataset(*bench, flags->load.dataset);
  bench->add_flag("--keep-eos", flags->keep_eos, "Let answers end early: ignore_eos is not sent");
  bench->add_option("--extra", flags->extra, "JSON object whose fields are added to each request");
  bench->add_option("--goodput", flags->goodput,
                    "Also count requests within these ms, for instance ttft:200,tpot:50,itl:100,e2e:5000");
  bench->add_option("--timeout", flags->timeout_s, "Longest wait for the next bytes, in seconds")
      ->check(CLI::Range(0.1, 1e6))
      ->capture_default_str();
  bench->add_flag("--json", flags->json, "Print one JSON object");
  bench->add_option("--report", flags->report, "Write a web page with charts to this file");
  bench->add_flag("--quiet", flags->quiet, "No progress on stderr");
  bench->callback([flags] { finish(run_bench_serve(*flags)); });
}

}  // namespace weft
