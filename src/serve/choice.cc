#include "serve/choice.h"

#include <algorithm>
#include <array>
#include <unordered_map>

namespace weft {
namespace {

// The inverse of GPT-2's table: bytes that print as themselves, and the others from U+0100 on.
const std::unordered_map<u32, char>& byte_of_point() {
  static const std::unordered_map<u32, char> table = [] {
    std::unordered_map<u32, char> all;
    u32 next = 256;
    for (u32 b = 0; b < 256; ++b) {
      const bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      all.emplace(prints ? b : next++, char(b));
    }
    return all;
  }();
  return table;
}

// Takes a code point off valid UTF-8.
u32 next_point(std::string_view& text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  u32 point = length == 1 ? lead : lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < std::min(length, text.size()); ++i) point = point << 6 | (text[i] & 0x3F);
  text.remove_prefix(std::min(length, text.size()));
  return point;
}

}  // namespace

std::string token_bytes(const Tokenizer& tokenizer, i32 id) {
  const auto spelling = tokenizer.token(id);
  if (!spelling.ok()) return {};
  std::string bytes;
  for (std::string_view rest = *spelling; !rest.empty();) {
    const auto found = byte_of_point().find(next_point(rest));
    if (found == byte_of_point().end()) {  // no byte-level vocabulary
      const auto text = tokenizer.decode({&id, 1}, /*skip_special=*/false);
      return text.ok() ? *text : std::string();
    }
    bytes += found->second;
  }
  return bytes;
}

i64 count_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

size_t AnswerDelta::bytes() const {
  size_t sum = content.size() + reasoning.size();
  for (const ToolCallPart& call : calls) sum += call.id.size() + call.name.size() + call.arguments.size() + 1;
  for (const TokenEntry& token : tokens) sum += 64 + 64 * token.top.size();
  return sum;
}

Choice::Choice(const GenerationSpec& spec, const ServedModel& model, const Prompt& prompt)
    : spec_(spec),
      model_(model),
      detokenizer_(model.tokenizer, spec.skip_special),
      stops_(spec.stop, spec.include_stop),
      reasoning_(spec.reasoning_open) {
  if (spec.tools) tools_.emplace(*spec.tools, spec.tool_names, spec.single_call);
  if (spec.echo) {
    pending_.content = prompt.text;
    if (spec.request.prompt_logprobs < 0) text_points_ = count_points(prompt.text);
    if (spec.request.prompt_logprobs >= 0) {
      TokenEvent first;
      first.token = prompt.ids.at(0);
      add_entry(first);
      pending_.tokens.back().has_logprob = false;
    }
  }
}

void Choice::add_entry(const TokenEvent& event) {
  if (spec_.logprobs < 0 && !spec_.return_token_ids) return;
  TokenEntry entry{.id = event.token,
                   .has_logprob = spec_.logprobs >= 0,
                   .logprob = event.logprob,
                   .top = event.top,
                   .text_offset = text_points_};
  if (spec_.form == ApiForm::kCompletion && spec_.logprobs >= 0) {
    text_points_ += count_points(token_bytes(model_.tokenizer, event.token));
  }
  pending_.tokens.push_back(std::move(entry));
}

Status Choice::push(const TokenEvent& event) {
  if (done()) return {};
  if (event.prompt_position >= 0) {
    if (spec_.echo) add_entry(event);
    return {};
  }
  if (event.token >= 0) ++completion_tokens_;
  if (event.token >= 0 && event.finish != FinishReason::kStop) {
    if (completion_tokens_ > spec_.request.max_tokens) {  // an echo alone: the token was not asked for
      --completion_tokens_;
    } else {
      add_entry(event);
      WEFT_ASSIGN(const std::string piece, detokenizer_.push(event.token));
      add_text(stops_.push(piece));
      if (stops_.stopped() && completion_tokens_ >= spec_.request.min_tokens) {
        stop_reason_ = stops_.found();
        return finish(FinishReason::kStop);
      }
    }
  }
  if (event.finish == FinishReason::kNone) return {};
  if (event.finish == FinishReason::kStop && std::find(spec_.request.stop_ids.begin(), spec_.request.stop_ids.end(),
                                                       event.token) != spec_.request.stop_ids.end()) {
    stop_reason_ = event.token;
  }
  return finish(event.finish);
}

Status Choice::finish(FinishReason reason) {
  if (!stops_.stopped()) {
    WEFT_ASSIGN(const std::string rest, detokenizer_.finish());
    add_text(stops_.push(rest));
    add_text(stops_.finish());
  }
  if (spec_.reasoning) {
    ReasoningSplitter::Parts parts = reasoning_.finish();
    if (spec_.include_reasoning) pending_.reasoning += parts.reasoning;
    add_content(parts.content);
  }
  if (tools_) take_calls(tools_->finish());
  finish_reason_ = reason == FinishReason::kLength ? "length" : "stop";
  if (finish_reason_ == "stop" && tools_ && tools_->num_calls() > 0) finish_reason_ = "tool_calls";
  return {};
}

void Choice::add_text(std::string_view piece) {
  if (piece.empty()) return;
  if (!spec_.reasoning) return add_content(piece);
  const ReasoningSplitter::Parts parts = reasoning_.push(piece);
  if (spec_.include_reasoning) pending_.reasoning += parts.reasoning;
  add_content(parts.content);
}

void Choice::add_content(std::string_view text) {
  if (text.empty()) return;
  if (tools_) return take_calls(tools_->push(text));
  pending_.content += text;
}

void Choice::take_calls(ToolParser::Parts parts) {
  pending_.content += parts.content;
  for (ToolCallPart& part : parts.calls) {
    auto& calls = pending_.calls;
    if (!calls.empty() && calls.back().index == part.index) {
      calls.back().arguments += part.arguments;
    } else {
      calls.push_back(std::move(part));
    }
  }
}

}  // namespace weft
