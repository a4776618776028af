// Grammars that an answer must follow: JSON, JSON schemas, regular expressions, Lark grammars (ffi/ wraps llguidance).
#pragma once
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "text/tokenizer.h"

struct weft_grammar;
struct weft_grammar_compiler;

namespace weft {

// A language that an answer must be a sentence of. JSON has no free whitespace: it is written as {"a": 1, "b": [2, 3]}.
struct GrammarSpec {
  enum class Kind : u8 { kJsonObject, kJsonSchema, kRegex, kLark };
  Kind kind = Kind::kJsonObject;
  std::string text;  // the schema (JSON), regular expression (the whole answer must match; syntax of Rust's regex
                     // crate) or grammar (llguidance's dialect of Lark); unused for kJsonObject
};

// How far one answer has come in its grammar. Used by one thread at a time.
class Grammar {
 public:
  // The same state, to go on independently.
  Grammar copy() const;
  // The tokens that may come next: bit t % 32 of allowed[t / 32], [(vocab + 31) / 32]; end tokens where the answer may
  // end. Returns how many there are. Errors: kResourceExhausted for a grammar that grows beyond all bounds.
  Result<i64> mask(std::span<u32> allowed);
  // The answer goes on with a token that the mask allows. True when only an end token may follow. Errors:
  // kResourceExhausted; also for a token that is not allowed.
  Result<bool> push(i32 token);

 private:
  friend class GrammarCompiler;
  struct Free {
    void operator()(weft_grammar* handle) const;
  };
  explicit Grammar(weft_grammar* handle) : handle_(handle) {}
  std::unique_ptr<weft_grammar, Free> handle_;
};

// A vocabulary for grammars. Any number of threads may use it at once.
class GrammarCompiler {
 public:
  // `vocab` is the model's, which may hold more than the tokenizer knows; those tokens never come. Errors:
  // kInvalidArgument without end tokens, or for one outside the vocabulary.
  static Result<std::shared_ptr<const GrammarCompiler>> create(const Tokenizer& tokenizer, i64 vocab,
                                                               std::span<const i32> eos_ids);
  // From microseconds to seconds, by the grammar. The first call prepares the vocabulary: some 100 ms, and tables that
  // whoever never has a grammar need not hold (25 MB for 49,152 tokens). Errors: kInvalidArgument with what is wrong in
  // the text.
  Result<Grammar> compile(const GrammarSpec& spec) const;

 private:
  struct Free {
    void operator()(weft_grammar_compiler* handle) const;
  };
  GrammarCompiler(const Tokenizer& tokenizer, i64 vocab, std::span<const i32> eos_ids)
      : tokenizer_(tokenizer), vocab_(vocab), eos_ids_(eos_ids.begin(), eos_ids.end()) {}
  Status prepare() const;

  const Tokenizer tokenizer_;
  const i64 vocab_;
  const std::vector<i32> eos_ids_;
  mutable std::mutex mutex_;                                     // of prepare()
  mutable std::unique_ptr<weft_grammar_compiler, Free> handle_;  // immutable once prepared
};

}  // namespace weft
