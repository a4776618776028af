#include "models/presets.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace weft {
namespace {

// The numbers of each model's published config.json.
struct Preset {
  const char* name;
  const char* architecture;
  i64 layers, hidden, q_heads, kv_heads, head_dim, ffn, vocab, context;
  float epsilon, rope_base;
  bool tied = false;
  i64 experts = 0, experts_per_token = 0, expert_ffn = 0;
};

constexpr i64 kQwen3Vocab = 151936, kQwen3Context = 40960;
constexpr Preset kPresets[] = {
    {"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e-5f, 1e5f, true},
    {"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 1e-5f, 5e5f},
    {"llama-3.1-70b", "llama", 80, 8192, 64, 8, 128, 28672, 128256, 131072, 1e-5f, 5e5f},
    {"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32000, 32768, 1e-5f, 1e4f},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1e-6f, 1e6f},
    {"qwen2.5-72b", "qwen2", 80, 8192, 64, 8, 128, 29568, 152064, 32768, 1e-6f, 1e6f},
    {"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f, true},
    {"qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f, true},
    {"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f, true},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f},
    {"qwen3-14b", "qwen3", 40, 5120, 40, 8, 128, 17408, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f},
    {"qwen3-32b", "qwen3", 64, 5120, 64, 8, 128, 25600, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f},
    {"qwen3-30b-a3b", "qwen3_moe", 48, 2048, 32, 4, 128, 6144, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f, false, 128, 8,
     768},
    {"qwen3-235b-a22b", "qwen3_moe", 94, 4096, 64, 4, 128, 12288, kQwen3Vocab, kQwen3Context, 1e-6f, 1e6f, false, 128,
     8, 1536},
    {"seed-oss-36b", "seed_oss", 64, 5120, 80, 8, 128, 27648, 155136, 524288, 1e-6f, 1e7f},
};

const Preset* find_preset(std::string_view name) {
  const auto found = std::ranges::find(kPresets, name, &Preset::name);
  return found == std::end(kPresets) ? nullptr : found;
}

}  // namespace

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

bool is_preset(std::string_view name) {
  return find_preset(name) != nullptr;
}

Result<ModelConfig> preset_config(std::string_view name, i64 layers) {
  const Preset* preset = find_preset(name);
  if (preset == nullptr) {
    return error(Code::kInvalidArgument, "no preset '{}': expected one of {}", name, fmt::join(preset_names(), ", "));
  }
  if (layers > preset->layers) {
    return error(Code::kInvalidArgument, "{} has {} layers, not {}", name, preset->layers, layers);
  }
  const std::string_view family = preset->architecture;
  ModelConfig config;
  config.architecture = family;
  config.name = name;
  config.layers = layers > 0 ? layers : preset->layers;
  config.hidden = preset->hidden;
  config.q_heads = preset->q_heads;
  config.kv_heads = preset->kv_heads;
  config.head_dim = preset->head_dim;
  config.ffn = preset->ffn;
  config.vocab = preset->vocab;
  config.context = preset->context;
  config.norm_epsilon = preset->epsilon;
  config.rope_base = preset->rope_base;
  config.tied_embeddings = preset->tied;
  config.qkv_bias = family == "qwen2" || family == "seed_oss";
  config.qk_norm = family == "qwen3" || family == "qwen3_moe";
  if (family == "mistral") config.windows.assign(size_t(config.layers), 4096);
  if (name.starts_with("llama-3.1")) {
    config.rope_scaling = {.type = RopeScalingType::kLlama3, .factor = 8, .original_context = 8192};
  }
  if (preset->experts > 0) {
    config.moe = {.experts = preset->experts,
                  .per_token = preset->experts_per_token,
                  .ffn = preset->expert_ffn,
                  .normalise = true};
    config.sparse.assign(size_t(config.layers), true);
  }
  return config;
}

}  // namespace weft
