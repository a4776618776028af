// `weft info`: what this machine offers, and what a model file says of itself.
#include <fmt/format.h>
#include <sys/sysinfo.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "device/cpu_features.h"
#include "device/thread_pool.h"
#include "models/pretrained.h"
#include "weights/registry.h"

namespace weft {
namespace {

struct InfoFlags {
  std::string model;
  bool json = false;
};

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

nlohmann::ordered_json host_info() {
  struct sysinfo memory{};
  ::sysinfo(&memory);
  return {{"cpu", cpu_model()},
          {"cpus_allowed", allowed_cpus().size()},
          {"cpus_usable", usable_cpu_count()},
          {"kernels", cpu_isa_name(cpu_isa())},
          {"memory_bytes", u64(memory.totalram) * memory.mem_unit},
          {"devices", nlohmann::json::array({"cpu"})}};
}

nlohmann::ordered_json model_info(const Pretrained& model) {
  const ModelConfig& config = model.config;
  std::map<std::string, int> types;
  i64 parameters = 0;
  for (const auto& [name, tensor] : model.checkpoint->tensors()) {
    ++types[dtype_name(tensor.dtype)];
    parameters += tensor.shape.elements();
  }
  return {{"path", model.path},
          {"name", config.name},
          {"architecture", config.architecture},
          {"parameters", parameters},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"query_heads", config.q_heads},
          {"kv_heads", config.kv_heads},
          {"head_size", config.head_dim},
          {"ffn", config.ffn},
          {"vocabulary", config.vocab},
          {"context", config.context},
          {"rope_base", config.rope_base},
          {"tied_embeddings", config.tied_embeddings},
          {"eos_ids", config.eos_ids},
          {"tensors", types}};
}

void print_section(const char* title, const nlohmann::ordered_json& section) {
  fmt::print("{}\n", title);
  for (const auto& [key, value] : section.items()) {
    fmt::print("  {:<16} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

Status run_info(const InfoFlags& flags) {
  const nlohmann::ordered_json host = host_info();
  nlohmann::ordered_json model;
  if (!flags.model.empty()) {
    WEFT_ASSIGN(const std::filesystem::path path, resolve_model(flags.model));
    WEFT_ASSIGN(const Pretrained pretrained, Pretrained::open(path));
    model = model_info(pretrained);
  }
  if (flags.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"host", host}, {"model", model}}.dump(2));
    return {};
  }
  print_section("host", host);
  if (!model.is_null()) print_section("model", model);
  return {};
}

}  // namespace

void add_info(CLI::App& app) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* info = app.add_subcommand("info", "Show this machine's features and a model's metadata");
  info->add_option("-m,--model", flags->model, "Name of a fetched model or path of a .gguf file");
  info->add_flag("--json", flags->json, "Print JSON");
  info->callback([flags] { finish(run_info(*flags)); });
}

}  // namespace weft
