// `weft check`: logits against a golden file.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/model_flags.h"
#include "engine/check.h"

namespace weft {
namespace {

struct CheckFlags {
  ModelFlags model;
  std::string golden;
  bool json = false;
};

nlohmann::json to_json(const LogitError& error) {
  return {{"positions", error.positions},
          {"rms", error.rms},
          {"largest", error.largest},
          {"mean_kl", error.mean_kl},
          {"top1_agreement", error.top1_agreement}};
}

void print_json(const CheckReport& report, const Leader& leader) {
  nlohmann::json passes = nlohmann::json::array();
  for (const CheckPass& pass : report.passes) {
    nlohmann::json entry = to_json(pass.error);
    entry["name"] = pass.name;
    entry["hash"] = fmt::format("{:016x}", pass.hash);
    entry["passed"] = pass.passed;
    passes.push_back(std::move(entry));
  }
  const nlohmann::json all = {{"tp", leader.tp},
                              {"ep", leader.ep},
                              {"threads", leader.threads},
                              {"bf16", to_json(report.bf16)},
                              {"rms_ratio", kCheckRmsRatio},
                              {"passes", passes},
                              {"passed", report.passed}};
  fmt::print("{}\n", all.dump(2));
}

void print_table(const CheckReport& report) {
  fmt::print("{:<22} {:>9} {:>10} {:>10} {:>11} {:>6}  {:<16} {}\n", "pass", "positions", "rms", "largest", "mean KL",
             "top-1", "hash", "");
  auto line = [](const std::string& name, const LogitError& e, const std::string& hash, const char* verdict) {
    fmt::print("{:<22} {:>9} {:>10.5f} {:>10.5f} {:>11.3e} {:>5.1f}%  {:<16} {}\n", name, e.positions, e.rms, e.largest,
               e.mean_kl, 100 * e.top1_agreement, hash, verdict);
  };
  line("Hugging Face in bf16", report.bf16, "", "");
  for (const CheckPass& pass : report.passes) {
    line(pass.name, pass.error, fmt::format("{:016x}", pass.hash), pass.passed ? "ok" : "FAILED");
  }
  fmt::print("{}: every pass must have at most {} times the RMS error of Hugging Face in bf16 ({:.5f})\n",
             report.passed ? "passed" : "FAILED", kCheckRmsRatio, kCheckRmsRatio * report.bf16.rms);
}

Status run_check(const CheckFlags& flags) {
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  WEFT_ASSIGN(const Golden golden, Golden::open(flags.golden));
  options.shape = check_shape(golden);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    WEFT_ASSIGN(const CheckReport report, check_logits(leader.worker, golden));
    flags.json ? print_json(report, leader) : print_table(report);
    if (report.passed) return {};
    return error(Code::kDataLoss, "the logits differ from {} by more than allowed", flags.golden);
  });
}

}  // namespace

void add_check(CLI::App& app) {
  auto flags = std::make_shared<CheckFlags>();
  CLI::App* check = app.add_subcommand("check", "Compare a model's logits with those of Hugging Face transformers");
  flags->model.declare(*check);
  check
      ->add_option("--golden", flags->golden,
                   "Safetensors file with input_ids, logits, logits_bf16 and optionally positions")
      ->required();
  check->add_flag("--json", flags->json, "Print JSON instead of a table");
  check->callback([flags, check] {
    if (check->get_subcommands().empty()) finish(run_check(*flags));
  });
  add_check_gpu_layers(*check);
}

}  // namespace weft
