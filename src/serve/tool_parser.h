// Finds tool calls in what a model writes, as it writes it.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "serve/json_text.h"

namespace weft {

// The forms in which model families write a call.
enum class ToolFormat {
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>; Qwen, Hermes, and models that we tell so
  kLlama3,   // the whole answer is {"name": ..., "parameters": {...}}; several are separated by ';'
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  kArray,    // [{"name": ..., "arguments": {...}}, ...] and nothing else: a grammar saw to it (tool_choice "required")
  kNamed,    // the whole answer is the arguments of one function: a grammar saw to it (tool_choice with a name)
};

// "hermes", "qwen3", "llama3_json" or "mistral". Errors: kInvalidArgument.
Result<ToolFormat> parse_tool_format(std::string_view name);

// Part of a call: the first one of an index has its id and name; `arguments` of all parts, joined, is the JSON text.
struct ToolCallPart {
  int index = 0;
  std::string id, name, arguments;
};

class ToolParser {
 public:
  struct Parts {
    std::string content;
    std::vector<ToolCallPart> calls;
  };
  // `names`: the functions that there are; for kNamed the one. `single`: calls after the first are dropped.
  ToolParser(ToolFormat format, std::vector<std::string> names, bool single);
  ~ToolParser();
  ToolParser(ToolParser&&) noexcept;

  // Takes more text. What may begin a call is held back; text that turns out to be none comes as content.
  Parts push(std::string_view piece);
  // The text has ended. A call that broke off after its name stays a call, with the arguments that came.
  Parts finish();
  int num_calls() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace weft
