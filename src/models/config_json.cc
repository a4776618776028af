#include <cmath>

#include "base/file.h"
#include "models/architecture.h"

namespace weft {
namespace {

using Json = nlohmann::json;

Result<Json> parse_object(const std::filesystem::path& path) {
  WEFT_ASSIGN(const std::string text, read_file(path));
  Json object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return error(Code::kDataLoss, "{}: not a JSON object", path.string());
  return object;
}

// The context that scaling starts from: a field of the scaling or, before it, of the file; else the model's own.
Result<float> original_context(const JsonFields& fields, const JsonFields& rope, const ModelConfig& config) {
  constexpr const char* kName = "original_max_position_embeddings";
  if (fields.has(kName)) return fields.positive(kName);
  return rope.positive_or(kName, float(config.context));
}

// Peng et al., YaRN, 2023, section 3.4; `mscale` as DeepSeek's configurations have it.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

Status read_scaling(const JsonFields& fields, const JsonFields& rope, const std::string& type, ModelConfig* config) {
  RopeScaling& scaling = config->rope_scaling;
  if (type == "default") return {};
  if (type == "linear") {
    scaling.type = RopeScalingType::kLinear;
    WEFT_ASSIGN(scaling.factor, rope.positive("factor"));
    return {};
  }
  if (type != "llama3" && type != "yarn") {
    return error(Code::kUnimplemented, "{}: RoPE scaling '{}' is not supported", fields.file(), type);
  }
  WEFT_ASSIGN(scaling.original_context, original_context(fields, rope, *config));
  if (type == "llama3") {
    scaling.type = RopeScalingType::kLlama3;
    WEFT_ASSIGN(scaling.factor, rope.positive("factor"));
    WEFT_ASSIGN(scaling.low_freq_factor, rope.positive("low_freq_factor"));
    WEFT_ASSIGN(scaling.high_freq_factor, rope.positive("high_freq_factor"));
    return {};
  }
  scaling.type = RopeScalingType::kYarn;
  WEFT_ASSIGN(scaling.factor, rope.positive_or("factor", float(config->context) / scaling.original_context));
  WEFT_ASSIGN(scaling.beta_fast, rope.positive_or("beta_fast", 32));
  WEFT_ASSIGN(scaling.beta_slow, rope.positive_or("beta_slow", 1));
  WEFT_ASSIGN(scaling.truncate, rope.flag_or("truncate", true));
  double natural = yarn_mscale(scaling.factor, 1);
  const auto given = [&](const char* name) { return rope.has(name) && rope.raw(name) != 0; };
  if (given("mscale") && given("mscale_all_dim")) {
    WEFT_ASSIGN(const float over, rope.positive("mscale"));
    WEFT_ASSIGN(const float under, rope.positive("mscale_all_dim"));
    natural = yarn_mscale(scaling.factor, over) / yarn_mscale(scaling.factor, under);
  }
  WEFT_ASSIGN(scaling.attention_factor, rope.positive_or("attention_factor", float(natural)));
  return {};
}

// rope_parameters (present form) or rope_theta beside rope_scaling (older one).
Status read_rope(const JsonFields& fields, ModelConfig* config) {
  const char* name = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json none = Json::object();
  const Json& object = fields.has(name) ? fields.raw(name) : none;
  if (!object.is_object()) return fields.bad(name, "an object");
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      return error(Code::kUnimplemented, "{}: {}: RoPE parameters by layer type ('{}') are not supported",
                   fields.file(), name, key);
    }
  }
  const JsonFields rope(fields.file() + ": " + name, object);
  WEFT_TRY(fields.refuse("partial_rotary_factor", 1.0));
  WEFT_TRY(rope.refuse("partial_rotary_factor", 1.0));
  WEFT_ASSIGN(config->rope_base, (rope.has("rope_theta") ? rope : fields).positive_or("rope_theta", 10000));
  WEFT_ASSIGN(const std::string older, rope.text_or("type", "default"));
  WEFT_ASSIGN(const std::string type, rope.text_or("rope_type", older));
  return read_scaling(fields, rope, type, config);
}

// One id or a list of them.
Status read_ids(const JsonFields& fields, const char* name, i64 vocab, std::vector<i32>* ids) {
  if (!fields.has(name)) return {};
  const Json list = fields.raw(name).is_array() ? fields.raw(name) : Json::array({fields.raw(name)});
  ids->clear();
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<i64>() < 0 || id.get<i64>() >= vocab) {
      return fields.bad(name, "token ids of the vocabulary");
    }
    ids->push_back(id.get<i32>());
  }
  return {};
}

Status read_common(const JsonFields& fields, ModelConfig* config) {
  if (!fields.has("hidden_act") || fields.raw("hidden_act") != "swish") {  // another name of the same function
    WEFT_TRY(fields.refuse("hidden_act", "silu"));
  }
  WEFT_TRY(fields.refuse("quantization_config", nullptr));
  WEFT_ASSIGN(config->layers, fields.extent("num_hidden_layers"));
  WEFT_ASSIGN(config->hidden, fields.extent("hidden_size"));
  WEFT_ASSIGN(config->ffn, fields.extent("intermediate_size"));
  WEFT_ASSIGN(config->vocab, fields.extent("vocab_size"));
  WEFT_ASSIGN(config->context, fields.extent("max_position_embeddings"));
  WEFT_ASSIGN(config->q_heads, fields.extent("num_attention_heads"));
  WEFT_ASSIGN(config->norm_epsilon, fields.positive_or("rms_norm_eps", 1e-6f));
  WEFT_ASSIGN(config->tied_embeddings, fields.flag_or("tie_word_embeddings", false));
  return read_rope(fields, config);
}

}  // namespace

Result<ModelConfig> config_from_folder(const std::filesystem::path& folder) {
  WEFT_ASSIGN(const Json object, parse_object(folder / "config.json"));
  const JsonFields fields((folder / "config.json").string(), object);
  ModelConfig config;
  WEFT_ASSIGN(config.architecture, fields.text_or("model_type", ""));
  const Architecture* architecture = find_model_type(config.architecture);
  if (architecture == nullptr) {
    return error(Code::kUnimplemented, "{}: model_type '{}' is not supported (supported: {})", fields.file(),
                 config.architecture, supported_model_types());
  }
  config.name = folder.filename().string();
  WEFT_TRY(read_common(fields, &config));
  WEFT_TRY(architecture->read_json(fields, &config));
  WEFT_TRY(check_config(fields.file(), config));
  std::vector<i32> bos;
  WEFT_TRY(read_ids(fields, "bos_token_id", config.vocab, &bos));
  if (!bos.empty()) config.bos_id = bos.front();
  WEFT_TRY(read_ids(fields, "eos_token_id", config.vocab, &config.eos_ids));
  if (std::filesystem::exists(folder / "generation_config.json")) {  // it knows of more end tokens
    WEFT_ASSIGN(const Json generation, parse_object(folder / "generation_config.json"));
    const JsonFields more((folder / "generation_config.json").string(), generation);
    WEFT_TRY(read_ids(more, "eos_token_id", config.vocab, &config.eos_ids));
  }
  return config;
}

}  // namespace weft
