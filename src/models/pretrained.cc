#include "models/pretrained.h"

namespace weft {
namespace {

// A view of an array of strings or numbers under `key`; empty when the key is absent.
template <class T>
Result<std::vector<T>> list(const GgufFile& file, const char* key) {
  return file.get_or<std::vector<T>>(key, {});
}

template <class T>
Result<std::optional<T>> maybe(const GgufFile& file, const char* key) {
  if (file.find(key) == nullptr) return std::optional<T>();
  WEFT_ASSIGN(const T value, file.get<T>(key));
  return std::optional<T>(value);
}

}  // namespace

Result<Pretrained> Pretrained::open(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    return error(Code::kUnimplemented, "{}: model folders are not supported yet; give a .gguf file", path.string());
  }
  WEFT_ASSIGN(GgufFile file, GgufFile::open(path));
  Pretrained model;
  model.path = path.string();
  model.file = std::make_shared<const GgufFile>(std::move(file));
  WEFT_ASSIGN(model.config, config_from_gguf(*model.file));
  model.checkpoint = make_gguf_checkpoint(model.file, model.config.head_dim, model.config.architecture == "llama");
  return model;
}

Result<Tokenizer> Pretrained::load_tokenizer() const {
  GgufVocab vocab;
  WEFT_ASSIGN(vocab.model, file->get<std::string_view>("tokenizer.ggml.model"));
  WEFT_ASSIGN(vocab.pre, file->get_or<std::string_view>("tokenizer.ggml.pre", "default"));
  WEFT_ASSIGN(vocab.tokens, file->get<std::vector<std::string_view>>("tokenizer.ggml.tokens"));
  WEFT_ASSIGN(const std::vector<i32> types, list<i32>(*file, "tokenizer.ggml.token_type"));
  vocab.token_types = types;
  WEFT_ASSIGN(vocab.merges, list<std::string_view>(*file, "tokenizer.ggml.merges"));
  WEFT_ASSIGN(vocab.bos_id, maybe<i32>(*file, "tokenizer.ggml.bos_token_id"));
  WEFT_ASSIGN(vocab.eos_id, maybe<i32>(*file, "tokenizer.ggml.eos_token_id"));
  WEFT_ASSIGN(vocab.add_bos, maybe<bool>(*file, "tokenizer.ggml.add_bos_token"));
  WEFT_ASSIGN(vocab.add_eos, maybe<bool>(*file, "tokenizer.ggml.add_eos_token"));
  auto tokenizer = Tokenizer::from_gguf(vocab);
  if (!tokenizer.ok()) return tokenizer.status().with_context(path);
  return tokenizer;
}

Result<ChatTemplate> Pretrained::load_chat_template(const Tokenizer& tokenizer) const {
  if (file->find("tokenizer.chat_template") == nullptr) {
    return error(Code::kNotFound, "{}: the model has no chat template; use --raw", path);
  }
  WEFT_ASSIGN(const std::string_view source, file->get<std::string_view>("tokenizer.chat_template"));
  auto spelling = [&](i32 id) -> Result<std::string> { return id < 0 ? Result<std::string>("") : tokenizer.token(id); };
  WEFT_ASSIGN(const std::string bos, spelling(config.bos_id));
  WEFT_ASSIGN(const std::string eos, spelling(config.eos_ids.empty() ? -1 : config.eos_ids.front()));
  auto chat = ChatTemplate::compile(source, bos, eos);
  if (!chat.ok()) return chat.status().with_context(path);
  return chat;
}

}  // namespace weft
