// The JSON of answers: one class for each API. Pure text making; I/O thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "serve/choice.h"

namespace weft {

struct UsageTotals {
  i64 prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
};
Json usage_json(const UsageTotals& usage);

// One ended answer, for the form of a whole response.
struct EndedChoice {
  AnswerDelta answer;
  std::string finish_reason;
  Json stop_reason;
};

class AnswerForm {
 public:
  virtual ~AnswerForm() = default;
  // The whole answer.
  virtual Json whole(std::vector<EndedChoice> choices, const UsageTotals& usage) = 0;

  // The same as server-sent events, appended to `out`: open, then for every choice any number of delta() and one
  // finish(), then close(). Or fail() at any time, which ends it.
  virtual void open(std::string& out) = 0;
  virtual void delta(int choice, AnswerDelta delta, const UsageTotals& so_far, std::string& out) = 0;
  virtual void finish(int choice, const std::string& reason, const Json& stop_reason, const UsageTotals& so_far,
                      std::string& out) = 0;
  virtual void close(const UsageTotals& usage, std::string& out) = 0;
  virtual void fail(const ApiError& fault, std::string& out) = 0;
};

// `spec` and `model` must outlive it.
std::unique_ptr<AnswerForm> make_form(const GenerationSpec& spec, const ServedModel& model, const std::string& id,
                                      i64 created);
std::unique_ptr<AnswerForm> make_chat_form(const GenerationSpec& spec, const ServedModel& model, const std::string& id,
                                           i64 created);
std::unique_ptr<AnswerForm> make_completion_form(const GenerationSpec& spec, const ServedModel& model,
                                                 const std::string& id, i64 created);
std::unique_ptr<AnswerForm> make_responses_form(const GenerationSpec& spec, const std::string& id, i64 created);

// {"token": ..., "bytes": [...]} of a token.
Json token_json(const Tokenizer& tokenizer, i32 id);
std::string token_text(const Tokenizer& tokenizer, i32 id);

inline void append_event(const Json& data, std::string& out) {
  out += "data: ";
  out += dump_json(data);
  out += "\n\n";
}

}  // namespace weft
