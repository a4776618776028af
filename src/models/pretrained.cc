#include "models/pretrained.h"

#include "models/architecture.h"
#include "models/presets.h"
#include "models/synthetic_text.h"

namespace weft {
namespace {

template <class T>
Result<std::optional<T>> maybe(const GgufFile& file, const char* key) {
  if (file.find(key) == nullptr) return std::optional<T>();
  WEFT_ASSIGN(const T value, file.get<T>(key));
  return std::optional<T>(value);
}

Result<Tokenizer> tokenizer_from_gguf(const GgufFile& file) {
  GgufVocab vocab;
  WEFT_ASSIGN(vocab.model, file.get<std::string_view>("tokenizer.ggml.model"));
  WEFT_ASSIGN(vocab.pre, file.get_or<std::string_view>("tokenizer.ggml.pre", "default"));
  WEFT_ASSIGN(vocab.tokens, file.get<std::vector<std::string_view>>("tokenizer.ggml.tokens"));
  WEFT_ASSIGN(const auto types, file.get_or<std::vector<i32>>("tokenizer.ggml.token_type", {}));
  vocab.token_types = types;
  WEFT_ASSIGN(const auto scores, file.get_or<std::vector<float>>("tokenizer.ggml.scores", {}));
  if (vocab.model == "llama") {
    vocab.scores = scores;
    WEFT_ASSIGN(vocab.add_space_prefix, file.get_or<bool>("tokenizer.ggml.add_space_prefix", true));
  }
  WEFT_ASSIGN(vocab.merges, file.get_or<std::vector<std::string_view>>("tokenizer.ggml.merges", {}));
  WEFT_ASSIGN(vocab.bos_id, maybe<i32>(file, "tokenizer.ggml.bos_token_id"));
  WEFT_ASSIGN(vocab.eos_id, maybe<i32>(file, "tokenizer.ggml.eos_token_id"));
  WEFT_ASSIGN(vocab.add_bos, maybe<bool>(file, "tokenizer.ggml.add_bos_token"));
  WEFT_ASSIGN(vocab.add_eos, maybe<bool>(file, "tokenizer.ggml.add_eos_token"));
  return Tokenizer::from_gguf(vocab);
}

Result<Tokenizer> tokenizer_from_folder(const std::filesystem::path& folder) {
  WEFT_ASSIGN(const MappedFile file, MappedFile::open(folder / "tokenizer.json"));
  return Tokenizer::from_json(file.bytes());
}

// The template of a Hugging Face folder: a file of its own, or a field of tokenizer_config.json.
Result<std::string> template_from_folder(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "chat_template.jinja")) return read_file(folder / "chat_template.jinja");
  const std::filesystem::path path = folder / "tokenizer_config.json";
  if (std::filesystem::exists(path)) {
    WEFT_ASSIGN(const std::string text, read_file(path));
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return error(Code::kDataLoss, "{}: not a JSON object", path.string());
    if (json.contains("chat_template") && json["chat_template"].is_string()) {
      return json["chat_template"].get<std::string>();
    }
  }
  return error(Code::kNotFound, "{}: the model has no chat template; use --raw", folder.string());
}

}  // namespace

Result<Pretrained> Pretrained::open(const std::filesystem::path& path) {
  Pretrained model;
  model.path = path.string();
  if (std::filesystem::is_directory(path)) {
    WEFT_ASSIGN(model.config, config_from_folder(path));
    WEFT_ASSIGN(model.checkpoint, open_safetensors_checkpoint(path));
    return model;
  }
  WEFT_ASSIGN(GgufFile file, GgufFile::open(path));
  model.gguf = std::make_shared<const GgufFile>(std::move(file));
  WEFT_ASSIGN(model.config, config_from_gguf(*model.gguf));
  model.checkpoint = make_gguf_checkpoint(model.gguf, model.config.head_dim,
                                          find_model_type(model.config.architecture)->gguf_interleaved);
  return model;
}

Result<Pretrained> Pretrained::random(const std::string& preset, i64 layers) {
  Pretrained model;
  model.path = preset;
  model.synthetic = true;
  WEFT_ASSIGN(model.config, preset_config(preset, layers));
  model.checkpoint = make_random_checkpoint(model.config);
  return model;
}

Result<Tokenizer> Pretrained::load_tokenizer() const {
  if (synthetic) return make_synthetic_tokenizer(config.vocab);
  auto tokenizer = gguf ? tokenizer_from_gguf(*gguf) : tokenizer_from_folder(path);
  if (!tokenizer.ok() && gguf) return tokenizer.status().with_context(path);
  return tokenizer;
}

Result<ChatTemplate> Pretrained::load_chat_template(const Tokenizer& tokenizer) const {
  if (synthetic) return make_synthetic_template();
  std::string source;
  if (gguf == nullptr) {
    WEFT_ASSIGN(source, template_from_folder(path));
  } else if (gguf->find("tokenizer.chat_template") == nullptr) {
    return error(Code::kNotFound, "{}: the model has no chat template; use --raw", path);
  } else {
    WEFT_ASSIGN(source, gguf->get<std::string>("tokenizer.chat_template"));
  }
  auto spelling = [&](i32 id) -> Result<std::string> { return id < 0 ? Result<std::string>("") : tokenizer.token(id); };
  WEFT_ASSIGN(const std::string bos, spelling(config.bos_id));
  WEFT_ASSIGN(const std::string eos, spelling(config.eos_ids.empty() ? -1 : config.eos_ids.front()));
  auto chat = ChatTemplate::compile(source, bos, eos);
  if (!chat.ok()) return chat.status().with_context(path);
  return chat;
}

}  // namespace weft
