#include <nlohmann/json.hpp>

#include "base/file.h"
#include "models/config.h"

namespace weft {
namespace {

using Json = nlohmann::json;

// Reads fields of one JSON file; errors name the file and the field.
class Fields {
 public:
  Fields(std::string file, const Json& object) : file_(std::move(file)), object_(object) {}

  bool has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }
  const Json& raw(const char* name) const { return object_[name]; }
  Status bad(const char* name, const char* expected) const {
    return error(Code::kDataLoss, "{}: field '{}': expected {}, found {}", file_, name, expected,
                 has(name) ? object_[name].dump().substr(0, 80) : "nothing");
  }
  Result<i64> extent(const char* name) const {
    if (!has(name) || !object_[name].is_number_integer()) return bad(name, "a positive integer");
    const i64 value = object_[name].get<i64>();
    if (value < 1 || value > i64(1) << 24) return bad(name, "an integer from 1 to 2^24");
    return value;
  }
  Result<i64> extent_or(const char* name, i64 absent) const { return has(name) ? extent(name) : Result<i64>(absent); }
  Result<float> positive(const char* name) const {
    if (!has(name) || !object_[name].is_number()) return bad(name, "a positive number");
    const float value = object_[name].get<float>();
    return value > 0 ? Result<float>(value) : bad(name, "a positive number");
  }
  Result<std::string> text_or(const char* name, const std::string& absent) const {
    if (!has(name)) return absent;
    if (!object_[name].is_string()) return bad(name, "a string");
    return object_[name].get<std::string>();
  }
  // An error unless the field is absent, null, or one of the values that leave the arithmetic as it is.
  Status refuse(const char* name, const Json& harmless) const {
    if (!has(name) || object_[name] == harmless) return {};
    return error(Code::kUnimplemented, "{}: {} = {} is not supported", file_, name, object_[name].dump().substr(0, 80));
  }
  const std::string& file() const { return file_; }

 private:
  const std::string file_;
  const Json& object_;
};

Result<Json> parse_object(const std::filesystem::path& path) {
  WEFT_ASSIGN(const std::string text, read_file(path));
  Json object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return error(Code::kDataLoss, "{}: not a JSON object", path.string());
  return object;
}

// rope_parameters (present form) or rope_theta beside rope_scaling (older one).
Status read_rope(const Fields& fields, ModelConfig* config) {
  const char* name = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json none = Json::object();
  const Json& object = fields.has(name) ? fields.raw(name) : none;
  if (!object.is_object()) return fields.bad(name, "an object");
  const Fields rope(fields.file() + ": " + name, object);
  config->rope_base = 10000;
  if (rope.has("rope_theta") || fields.has("rope_theta")) {
    WEFT_ASSIGN(config->rope_base, (rope.has("rope_theta") ? rope : fields).positive("rope_theta"));
  }
  WEFT_ASSIGN(const std::string older, rope.text_or("type", "default"));
  WEFT_ASSIGN(const std::string type, rope.text_or("rope_type", older));
  if (type == "default") return {};
  if (type != "llama3") {
    return error(Code::kUnimplemented, "{}: RoPE scaling '{}' is not supported", fields.file(), type);
  }
  WEFT_ASSIGN(config->rope_scaling.factor, rope.positive("factor"));
  WEFT_ASSIGN(config->rope_scaling.low_freq_factor, rope.positive("low_freq_factor"));
  WEFT_ASSIGN(config->rope_scaling.high_freq_factor, rope.positive("high_freq_factor"));
  WEFT_ASSIGN(config->rope_scaling.original_context, rope.positive("original_max_position_embeddings"));
  return {};
}

// One id or a list of them.
Status read_ids(const Fields& fields, const char* name, i64 vocab, std::vector<i32>* ids) {
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

}  // namespace

Result<ModelConfig> config_from_folder(const std::filesystem::path& folder) {
  WEFT_ASSIGN(const Json object, parse_object(folder / "config.json"));
  const Fields fields((folder / "config.json").string(), object);
  ModelConfig config;
  WEFT_ASSIGN(config.architecture, fields.text_or("model_type", ""));
  if (config.architecture != "llama") {
    return error(Code::kUnimplemented, "{}: model_type '{}' is not supported (supported: llama)", fields.file(),
                 config.architecture);
  }
  WEFT_TRY(fields.refuse("attention_bias", false));
  WEFT_TRY(fields.refuse("mlp_bias", false));
  WEFT_TRY(fields.refuse("hidden_act", "silu"));
  WEFT_TRY(fields.refuse("quantization_config", nullptr));
  config.name = folder.filename().string();
  WEFT_ASSIGN(config.layers, fields.extent("num_hidden_layers"));
  WEFT_ASSIGN(config.hidden, fields.extent("hidden_size"));
  WEFT_ASSIGN(config.ffn, fields.extent("intermediate_size"));
  WEFT_ASSIGN(config.vocab, fields.extent("vocab_size"));
  WEFT_ASSIGN(config.context, fields.extent("max_position_embeddings"));
  WEFT_ASSIGN(config.q_heads, fields.extent("num_attention_heads"));
  WEFT_ASSIGN(config.kv_heads, fields.extent_or("num_key_value_heads", config.q_heads));
  WEFT_ASSIGN(config.head_dim, fields.extent_or("head_dim", config.hidden / config.q_heads));
  if (config.q_heads % config.kv_heads != 0 || config.head_dim % 2 != 0) {
    return error(Code::kDataLoss, "{}: {} query heads, {} KV heads of size {} do not fit together", fields.file(),
                 config.q_heads, config.kv_heads, config.head_dim);
  }
  WEFT_ASSIGN(config.norm_epsilon, fields.positive("rms_norm_eps"));
  WEFT_TRY(read_rope(fields, &config));
  if (fields.has("tie_word_embeddings")) {
    if (!fields.raw("tie_word_embeddings").is_boolean()) return fields.bad("tie_word_embeddings", "true or false");
    config.tied_embeddings = fields.raw("tie_word_embeddings").get<bool>();
  }
  std::vector<i32> bos;
  WEFT_TRY(read_ids(fields, "bos_token_id", config.vocab, &bos));
  if (!bos.empty()) config.bos_id = bos.front();
  WEFT_TRY(read_ids(fields, "eos_token_id", config.vocab, &config.eos_ids));
  if (std::filesystem::exists(folder / "generation_config.json")) {  // it knows of more end tokens
    WEFT_ASSIGN(const Json generation, parse_object(folder / "generation_config.json"));
    const Fields more((folder / "generation_config.json").string(), generation);
    WEFT_TRY(read_ids(more, "eos_token_id", config.vocab, &config.eos_ids));
  }
  return config;
}

}  // namespace weft
