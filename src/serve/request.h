// A request's JSON to what is to be generated: checked, templated, tokenized. Pure but for the seed; any thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "serve/api_error.h"
#include "serve/schema.h"
#include "serve/tool_parser.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft {

// What requests are checked against. Shared, immutable.
struct ServedModel {
  ServedLimits limits;
  ApiSchema schema;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;  // without one only completions work
  bool template_has_tools = false;            // else tools are described in a system message
  ToolFormat tool_format = ToolFormat::kHermes;
  bool reasoning = false;  // split <think> off
};

enum class ApiForm { kChat, kCompletion, kResponses };

struct Prompt {
  std::vector<i32> ids;
  std::string text;  // as rendered or sent; decoded for token-id prompts
};

struct GenerationSpec {
  ApiForm form = ApiForm::kChat;
  std::string model;            // as the client named it
  std::vector<Prompt> prompts;  // one but for completions
  EngineRequest request;        // all but id, prompt and deadline
  bool stream = false;
  bool include_usage = false, continuous_usage = false;
  std::vector<std::string> stop;
  bool include_stop = false;
  bool skip_special = true;
  bool echo = false;
  bool return_token_ids = false;
  int logprobs = -1;                               // -1: none; else the number of likeliest tokens
  bool reasoning = false, reasoning_open = false;  // split thoughts off; the prompt ends inside one
  bool include_reasoning = true;
  std::optional<ToolFormat> tools;  // read calls in this form
  std::vector<std::string> tool_names;
  bool single_call = false;
  Json extra;  // fields that the answer repeats (responses)
};

// Checks a body against the schema, the model's name first (404). `schema`: "ChatCompletionRequest" and so on.
ApiFault check_request(const ServedModel& model, const std::string& schema, const Json& body);

// Errors as the API answers them, 400 with `param` for what the schema cannot say.
ApiFault make_chat(const ServedModel& model, const Json& body, GenerationSpec* spec);
ApiFault make_completion(const ServedModel& model, const Json& body, GenerationSpec* spec);
ApiFault make_responses(const ServedModel& model, const Json& body, GenerationSpec* spec);

// The prompt of a conversation: `body` has messages and, optionally, tools, add_generation_prompt,
// continue_final_message, chat_template_kwargs.
ApiFault render_conversation(const ServedModel& model, const Json& body, bool with_tools, std::string* text);

// Whether the template writes tools itself: a rendering with a tool differs from one without.
bool template_writes_tools(const ChatTemplate& chat_template);

}  // namespace weft
