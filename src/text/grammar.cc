#include "text/grammar.h"

#include "text/ffi/call.h"

namespace weft {

using text_ffi::call;

void Grammar::Free::operator()(weft_grammar* handle) const {
  weft_grammar_free(handle);
}

void GrammarCompiler::Free::operator()(weft_grammar_compiler* handle) const {
  weft_grammar_compiler_free(handle);
}

Grammar Grammar::copy() const {
  weft_grammar* handle = nullptr;
  const Status status = call(weft_grammar_clone, &handle, static_cast<const weft_grammar*>(handle_.get()));
  WEFT_CHECK(status.ok(), status.message());
  return Grammar(handle);
}

Result<i64> Grammar::mask(std::span<u32> allowed) {
  size_t count = 0;
  WEFT_TRY(call(weft_grammar_mask, &count, handle_.get(), allowed.data(), allowed.size()));
  return i64(count);
}

Result<bool> Grammar::push(i32 token) {
  bool ended = false;
  WEFT_TRY(call(weft_grammar_push, &ended, handle_.get(), token));
  return ended;
}

Result<std::shared_ptr<const GrammarCompiler>> GrammarCompiler::create(const Tokenizer& tokenizer, i64 vocab,
                                                                       std::span<const i32> eos_ids) {
  if (eos_ids.empty()) {
    return error(Code::kInvalidArgument, "grammar: the model has no end token, so no answer could end");
  }
  for (const i32 id : eos_ids) {
    if (id >= 0 && id < vocab) continue;
    return error(Code::kInvalidArgument, "grammar: end token {} is outside the vocabulary of {}", id, vocab);
  }
  return std::shared_ptr<const GrammarCompiler>(new GrammarCompiler(tokenizer, vocab, eos_ids));
}

Status GrammarCompiler::prepare() const {
  const std::lock_guard lock(mutex_);
  if (handle_) return {};
  weft_grammar_compiler* handle = nullptr;
  WEFT_TRY(call(weft_grammar_compiler_create, &handle, tokenizer_.handle_.get(), i32(vocab_), eos_ids_.data(),
                eos_ids_.size()));
  handle_.reset(handle);
  return {};
}

Result<Grammar> GrammarCompiler::compile(const GrammarSpec& spec) const {
  WEFT_TRY(prepare());
  weft_grammar* handle = nullptr;
  WEFT_TRY(call(weft_grammar_compile, &handle, static_cast<const weft_grammar_compiler*>(handle_.get()), i32(spec.kind),
                text_ffi::view(spec.text)));
  return Grammar(handle);
}

}  // namespace weft
