// Chat templates: a list of messages to the prompt that a model was trained on, by the model's own Jinja template.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/types.h"

struct weft_chat_template;

namespace weft {

struct ChatRequest {
  // Objects such as {"role": "user", "content": "..."}. ordered_json: templates print tools and arguments as JSON, with
  // the keys in the order in which the caller sent them (nlohmann::json converts, but sorts them).
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools = nullptr;                           // list of function schemas, or null
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();  // more variables, for instance enable_thinking
  bool add_generation_prompt = true;                                // end with the start of the assistant's answer
  std::optional<i64> now = {};  // seconds since 1970 for strftime_now; default: the clock
};

// Compiled once; immutable; copies share it; any number of threads may render at once.
//
// Semantics are those of transformers' apply_chat_template: trim_blocks and lstrip_blocks, break and continue, Python's
// string and dict methods, its str() of printed values and json.dumps in tojson, raise_exception, strftime_now (local
// time), {% generation %} blocks. More is allowed: None counts as an empty list.
//
// Templates come with models and are not trusted: steps, nesting, printed text, memory (256 MB and 32 times the JSON)
// and time (10 s) are limited. A template that was stopped for memory or time is not run again: its thread is left
// behind.
class ChatTemplate {
 public:
  // Errors: kDataLoss with the line of a syntax error.
  static Result<ChatTemplate> compile(std::string_view source, std::string_view bos_token, std::string_view eos_token);

  // Bytes in strings that are not UTF-8 become U+FFFD. Errors: kInvalidArgument with what the template raised, or the
  // line that failed; kResourceExhausted past a limit.
  Result<std::string> render(const ChatRequest& request) const;

 private:
  explicit ChatTemplate(weft_chat_template* handle);
  std::shared_ptr<const weft_chat_template> handle_;
};

}  // namespace weft
