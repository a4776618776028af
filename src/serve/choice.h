// One answer as it grows: tokens in; text, thoughts and tool calls out.
#pragma once
#include <string>
#include <vector>

#include "serve/reasoning.h"
#include "serve/request.h"
#include "serve/stop_strings.h"

namespace weft {

// A token with its log-probability as answers show it.
struct TokenEntry {
  i32 id = -1;
  bool has_logprob = false;  // the first token of an echoed prompt has none
  float logprob = 0;
  std::vector<TokenLogprob> top;
  i64 text_offset = 0;  // code points from the beginning of the text
};

// What came since the last take().
struct AnswerDelta {
  std::string content, reasoning;
  std::vector<ToolCallPart> calls;
  std::vector<TokenEntry> tokens;  // if the request wants them
  size_t bytes() const;
  bool empty() const { return bytes() == 0; }
};

class Choice {
 public:
  Choice(const GenerationSpec& spec, const ServedModel& model, const Prompt& prompt);

  // Errors: the detokenizer's.
  Status push(const TokenEvent& event);
  AnswerDelta take() { return std::exchange(pending_, {}); }
  const AnswerDelta& pending() const { return pending_; }

  bool done() const { return !finish_reason_.empty(); }
  // "stop", "length" or "tool_calls".
  const std::string& finish_reason() const { return finish_reason_; }
  // The stop string or the id of the stop token that ended it, or null.
  const Json& stop_reason() const { return stop_reason_; }
  i64 completion_tokens() const { return completion_tokens_; }

 private:
  void add_text(std::string_view piece);
  void add_content(std::string_view text);
  void add_entry(const TokenEvent& event);
  void take_calls(ToolParser::Parts parts);
  Status finish(FinishReason reason);

  const GenerationSpec& spec_;
  const ServedModel& model_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  ReasoningSplitter reasoning_;
  std::optional<ToolParser> tools_;
  AnswerDelta pending_;
  std::string finish_reason_;
  Json stop_reason_;
  i64 completion_tokens_ = 0;
  i64 text_points_ = 0;
};

// The bytes of one token: of a byte-level vocabulary exactly, also where they are no whole character.
std::string token_bytes(const Tokenizer& tokenizer, i32 id);
// Number of code points.
i64 count_points(std::string_view text);

}  // namespace weft
