// `weft models`: the presets, and what each needs.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "models/presets.h"
#include "weights/registry.h"

namespace weft {
namespace {

struct ModelsFlags {
  int tp = 1, ep = 1;
  bool json = false;
};

Result<nlohmann::ordered_json> describe(std::string_view name, int tp, int ep) {
  WEFT_ASSIGN(const ModelConfig config, preset_config(name, 0));
  const auto memory = rank_memory(config, tp, ep);
  nlohmann::ordered_json entry = {{"name", name},
                                  {"architecture", config.architecture},
                                  {"parameters", count_parameters(config)},
                                  {"layers", config.layers},
                                  {"context", config.context},
                                  {"kv_bytes_per_token", kv_bytes_per_token(config)},
                                  {"tp", tp},
                                  {"ep", ep}};
  // A size that the model cannot be cut into is no fault of the list.
  entry["weight_bytes_per_rank"] = memory.ok() ? nlohmann::ordered_json(memory->weight_bytes) : nullptr;
  entry["kv_bytes_per_token_per_rank"] = memory.ok() ? nlohmann::ordered_json(memory->kv_bytes_per_token) : nullptr;
  entry["fetchable"] = find_model(name) != nullptr;
  return entry;
}

Status run_models(const ModelsFlags& flags) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string_view name : preset_names()) {
    WEFT_ASSIGN(nlohmann::ordered_json entry, describe(name, flags.tp, flags.ep));
    all.push_back(std::move(entry));
  }
  if (flags.json) {
    fmt::print("{}\n", all.dump(2));
    return {};
  }
  fmt::print("{:<16} {:<10} {:>10} {:>7} {:>14} {:>16} {:>14}\n", "name", "family", "parameters", "layers",
             "KV B/token", fmt::format("GB/rank (of {})", flags.tp * flags.ep), "KV B/token/rank");
  for (const auto& entry : all) {
    const bool fits = !entry["weight_bytes_per_rank"].is_null();
    fmt::print("{:<16} {:<10} {:>9.2f}B {:>7} {:>14} {:>16} {:>14}{}\n", entry["name"].get<std::string>(),
               entry["architecture"].get<std::string>(), entry["parameters"].get<double>() / 1e9,
               entry["layers"].get<i64>(), entry["kv_bytes_per_token"].get<i64>(),
               fits ? fmt::format("{:.2f}", entry["weight_bytes_per_rank"].get<double>() / 1e9) : "-",
               fits ? std::to_string(entry["kv_bytes_per_token_per_rank"].get<i64>()) : "-",
               entry["fetchable"].get<bool>() ? "  (weft fetch)" : "");
  }
  fmt::print("Weights in bf16. Names run with --random-weights; --layers N takes the first N layers.\n");
  return {};
}

}  // namespace

void add_models(CLI::App& app) {
  auto flags = std::make_shared<ModelsFlags>();
  CLI::App* models = app.add_subcommand("models", "List the models known by name, and what they need");
  models->add_option("--tp", flags->tp, "Ranks to cut each model into")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  models->add_option("--ep", flags->ep, "Groups of --tp ranks to spread a mixture's experts over")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  models->add_flag("--json", flags->json, "Print JSON");
  models->callback([flags] { finish(run_models(*flags)); });
}

}  // namespace weft
