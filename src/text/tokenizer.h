// Tokenizers: text to token ids and back, as Hugging Face's tokenizers library does it (ffi/ wraps the library itself).
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"

struct weft_tokenizer;
struct weft_detokenizer;

namespace weft {

// A vocabulary as GGUF files store it under tokenizer.ggml. The views must live until from_gguf returns.
struct GgufVocab {
  std::string_view model = {};                // "gpt2": byte-level BPE; "llama": SentencePiece BPE
  std::string_view pre = {};                  // of gpt2: "smollm", "llama-bpe", "qwen2", "tekken" or "seed-coder"
  std::vector<std::string_view> tokens = {};  // [vocab]
  std::span<const i32> token_types = {};      // [vocab] of llama.cpp's LLAMA_TOKEN_TYPE, or empty: all normal
  std::span<const float> scores = {};         // [vocab] of llama: the higher, the earlier a piece is merged
  std::vector<std::string_view> merges = {};  // "left right", best first
  std::optional<i32> bos_id = {}, eos_id = {};
  std::optional<bool> add_bos = {}, add_eos = {};  // without a value: llama, llama-bpe and tekken add BOS, nobody EOS
  bool add_space_prefix = true;                    // of llama: a text begins with a space that is not there
};

struct EncodeOptions {
  bool add_special = false;  // add BOS and EOS as the vocabulary asks
  bool parse_special =
      false;  // "<|im_end|>" in the text is the special token; otherwise plain text, as untrusted text needs
};

// Immutable; copies share the vocabulary; any number of threads may use it at once.
class Tokenizer {
 public:
  // Parses Hugging Face's tokenizer.json. Errors: kDataLoss with what the parser found.
  static Result<Tokenizer> from_json(std::span<const std::byte> bytes);

  // Errors: kUnimplemented names a model or pre-tokenizer other than those above; kDataLoss names key and entry.
  static Result<Tokenizer> from_gguf(const GgufVocab& vocab);

  // Errors: kInvalidArgument for text that is not UTF-8 (with the byte offset of the fault) or that has more than
  // 500,000 whitespace characters in a row.
  Result<std::vector<i32>> encode(std::string_view text, EncodeOptions options = {}) const;

  // The text of ids; bytes that are not UTF-8 become U+FFFD. An id that the vocabulary does not use (models pad theirs)
  // decodes to nothing. Errors: negative id.
  Result<std::string> decode(std::span<const i32> ids, bool skip_special = true) const;

  // The vocabulary's own spelling, for instance "Ġthe" for " the". Errors: no such id.
  Result<std::string> token(i32 id) const;

  // The id of a token by its spelling, or nothing.
  std::optional<i32> id(std::string_view token) const;

  // The largest id, also of padding entries that the file lists, plus one.
  i32 vocab_size() const;

 private:
  friend class Detokenizer;
  friend class GrammarCompiler;
  explicit Tokenizer(weft_tokenizer* handle);
  std::shared_ptr<const weft_tokenizer> handle_;
};

// Turns tokens into text as they come. What push() and finish() return, joined, is decode() of all ids. (One exception:
// where a byte-fallback vocabulary's bytes break off inside a run, characters already returned stay as they were.)
// Used by one thread at a time.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);

  // Whole code points, or an empty string while a character is incomplete. Errors: negative id.
  Result<std::string> push(i32 id);

  // The text that was held back; an unfinished character becomes U+FFFD. Afterwards a new text may start.
  Result<std::string> finish();

 private:
  struct Free {
    void operator()(weft_detokenizer* handle) const;
  };
  Tokenizer tokenizer_;  // kept alive: the handle points into it
  std::unique_ptr<weft_detokenizer, Free> handle_;
};

}  // namespace weft
