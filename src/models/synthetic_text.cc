#include "models/synthetic_text.h"

#include <fmt/format.h>

namespace weft {
namespace {

// One code point below U+0800 in UTF-8.
std::string utf8(u32 code) {
  if (code < 0x80) return {char(code)};
  return {char(0xc0 | code >> 6), char(0x80 | (code & 0x3f))};
}

// How byte-level vocabularies write a byte: printable Latin-1 as itself, the others from U+0100 on.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  u32 next = 0x100;
  for (u32 byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    tokens.push_back(utf8(printable ? byte : next++));
  }
  return tokens;
}

constexpr const char* kChatMl =
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

}  // namespace

Result<Tokenizer> make_synthetic_tokenizer(i64 vocab) {
  constexpr i32 kNormal = 1, kControl = 3;
  std::vector<std::string> tokens = byte_tokens();
  std::vector<i32> types(256, kNormal);
  for (const char* mark : {"<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(mark);
    types.push_back(kControl);
  }
  while (i64(tokens.size()) < vocab) tokens.push_back(fmt::format("\u0120w{}", tokens.size()));
  types.resize(tokens.size(), kNormal);
  GgufVocab synthetic;
  synthetic.model = "gpt2";
  synthetic.pre = "qwen2";
  synthetic.tokens.assign(tokens.begin(), tokens.end());
  synthetic.token_types = types;
  return Tokenizer::from_gguf(synthetic);
}

Result<ChatTemplate> make_synthetic_template() {
  return ChatTemplate::compile(kChatMl, "", "<|im_end|>");
}

}  // namespace weft
