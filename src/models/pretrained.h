// Pretrained: a model's files opened: configuration, parameters, vocabulary, chat template.
#pragma once
#include <filesystem>
#include <memory>

#include "models/config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "weights/checkpoint.h"

namespace weft {

struct Pretrained {
  std::string path;
  ModelConfig config;
  std::shared_ptr<const GgufFile> gguf;  // null for a folder
  bool synthetic = false;                // random weights, without files
  std::shared_ptr<const Checkpoint> checkpoint;

  // Opens a .gguf file, or a Hugging Face folder with config.json, safetensors, tokenizer.json and
  // tokenizer_config.json or chat_template.jinja. Errors name the file and the key; kUnimplemented names what is not
  // supported.
  static Result<Pretrained> open(const std::filesystem::path& path);
  // A preset's shapes (models/presets.h) with random weights, a synthetic vocabulary and ChatML; layers 0 = all.
  // Errors: kInvalidArgument naming the choices.
  static Result<Pretrained> random(const std::string& preset, i64 layers);
  Result<Tokenizer> load_tokenizer() const;
  // kNotFound when the file carries none.
  Result<ChatTemplate> load_chat_template(const Tokenizer& tokenizer) const;
};

}  // namespace weft
