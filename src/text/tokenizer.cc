#include "text/tokenizer.h"

#include "base/check.h"
#include "text/ffi/call.h"

namespace weft {
namespace {

using text_ffi::call;
using text_ffi::call_for_text;
using text_ffi::view;

std::vector<weft_text_view> views(const std::vector<std::string_view>& texts) {
  std::vector<weft_text_view> out;
  out.reserve(texts.size());
  for (std::string_view text : texts) out.push_back(view(text));
  return out;
}

Status check_id(const char* name, std::optional<i32> id) {
  if (id && *id < 0) return error(Code::kDataLoss, "tokenizer.ggml.{}_token_id: {} is negative", name, *id);
  return Status();
}

}  // namespace

Tokenizer::Tokenizer(weft_tokenizer* handle)
    : handle_(handle, [](const weft_tokenizer* owned) { weft_tokenizer_free(const_cast<weft_tokenizer*>(owned)); }) {}

Result<Tokenizer> Tokenizer::from_json(std::span<const std::byte> bytes) {
  weft_tokenizer* handle = nullptr;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  WEFT_TRY(call(weft_tokenizer_from_json, &handle, view(text)));
  return Tokenizer(handle);
}

Result<Tokenizer> Tokenizer::from_gguf(const GgufVocab& vocab) {
  if (!vocab.token_types.empty() && vocab.token_types.size() != vocab.tokens.size()) {
    return error(Code::kDataLoss, "tokenizer.ggml.token_type: {} entries for {} tokens", vocab.token_types.size(),
                 vocab.tokens.size());
  }
  if (!vocab.scores.empty() && vocab.scores.size() != vocab.tokens.size()) {
    return error(Code::kDataLoss, "tokenizer.ggml.scores: {} entries for {} tokens", vocab.scores.size(),
                 vocab.tokens.size());
  }
  WEFT_TRY(check_id("bos", vocab.bos_id));
  WEFT_TRY(check_id("eos", vocab.eos_id));
  const std::vector<weft_text_view> tokens = views(vocab.tokens), merges = views(vocab.merges);
  const auto flag = [](std::optional<bool> value) { return value ? i32(*value) : -1; };
  const weft_gguf_vocab arrays{
      .model = view(vocab.model),
      .pre = view(vocab.pre),
      .tokens = tokens.data(),
      .token_types = vocab.token_types.empty() ? nullptr : vocab.token_types.data(),
      .scores = vocab.scores.empty() ? nullptr : vocab.scores.data(),
      .num_tokens = tokens.size(),
      .merges = merges.data(),
      .num_merges = merges.size(),
      .bos_id = vocab.bos_id.value_or(-1),
      .eos_id = vocab.eos_id.value_or(-1),
      .add_bos = flag(vocab.add_bos),
      .add_eos = flag(vocab.add_eos),
      .add_space_prefix = vocab.add_space_prefix,
  };
  weft_tokenizer* handle = nullptr;
  WEFT_TRY(call(weft_tokenizer_from_gguf, &handle, &arrays));
  return Tokenizer(handle);
}

Result<std::vector<i32>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  weft_text_ids ids{};
  WEFT_TRY(call(weft_tokenizer_encode, &ids, handle_.get(), view(text), options.add_special, options.parse_special));
  std::vector<i32> out(ids.data, ids.data + ids.size);
  weft_text_ids_free(ids);
  return out;
}

Result<std::string> Tokenizer::decode(std::span<const i32> ids, bool skip_special) const {
  return call_for_text(weft_tokenizer_decode, handle_.get(), ids.data(), ids.size(), skip_special);
}

Result<std::string> Tokenizer::token(i32 id) const {
  return call_for_text(weft_tokenizer_token, handle_.get(), id);
}

std::optional<i32> Tokenizer::id(std::string_view token) const {
  const i32 id = weft_tokenizer_id(handle_.get(), view(token));
  return id < 0 ? std::nullopt : std::optional(id);
}

i32 Tokenizer::vocab_size() const {
  return weft_tokenizer_vocab_size(handle_.get());
}

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(tokenizer) {
  weft_detokenizer* handle = nullptr;
  const Status status = call(weft_detokenizer_create, &handle, tokenizer_.handle_.get(), skip_special);
  WEFT_CHECK(status.ok(), status.message());
  handle_.reset(handle);
}

void Detokenizer::Free::operator()(weft_detokenizer* handle) const {
  weft_detokenizer_free(handle);
}

Result<std::string> Detokenizer::push(i32 id) {
  return call_for_text(weft_detokenizer_push, handle_.get(), id);
}

Result<std::string> Detokenizer::finish() {
  return call_for_text(weft_detokenizer_finish, handle_.get());
}

}  // namespace weft
