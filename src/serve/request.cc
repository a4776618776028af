#include "serve/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>

namespace weft {
namespace {

constexpr const char* kChat = "ChatCompletionRequest";
constexpr const char* kCompletion = "CompletionRequest";
constexpr const char* kResponses = "ResponsesRequest";

ApiError invalid(std::string param, std::string message, std::string code = "invalid_value") {
  return {.message = std::move(message), .param = std::move(param), .code = std::move(code)};
}

u64 random_seed() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return random();
}

// Fields of a request by their declared defaults.
struct Fields {
  const ApiSchema& schema;
  const char* name;
  const Json& body;

  Json get(const char* key) const { return schema.field(name, body, key); }
  bool has(const char* key) const {
    const auto found = body.find(key);
    return found != body.end() && !found->is_null();
  }
  bool flag(const char* key) const { return get(key) == true; }
  i64 integer(const char* key) const { return get(key).get<i64>(); }
  float real(const char* key) const { return get(key).get<float>(); }
};

void read_sampling(const Fields& fields, SamplingParams* sampling) {
  sampling->temperature = fields.real("temperature");
  sampling->top_p = std::max(fields.real("top_p"), std::numeric_limits<float>::min());
  sampling->top_k = std::max<i32>(0, i32(fields.integer("top_k")));
  sampling->min_p = fields.real("min_p");
  sampling->repetition_penalty = fields.real("repetition_penalty");
  sampling->frequency_penalty = fields.real("frequency_penalty");
  sampling->presence_penalty = fields.real("presence_penalty");
  sampling->seed = fields.has("seed") ? u64(fields.integer("seed")) : random_seed();
}

std::string lark_of_choices(const Json& choices) {
  std::string grammar = "start: ";
  for (size_t i = 0; i < choices.size(); ++i) grammar += (i ? " | " : "") + dump_json(choices[i]);
  return grammar;
}

// The structured output that a request asks for, in any of the ways there are; at most one.
ApiFault read_grammar(const Fields& fields, EngineRequest* request) {
  struct Asked {
    std::string param;
    GrammarSpec grammar;
  };
  std::vector<Asked> asked;
  auto ask = [&](std::string param, GrammarSpec::Kind kind, std::string text) {
    asked.push_back({std::move(param), {kind, std::move(text)}});
  };
  auto schema_text = [](const Json& schema) {
    return schema.is_string() ? schema.get<std::string>() : dump_json(schema);
  };
  using Kind = GrammarSpec::Kind;
  const Json format = fields.get("response_format");
  if (format.is_object() && format["type"] == "json_object") ask("response_format", Kind::kJsonObject, "");
  if (format.is_object() && format["type"] == "json_schema") {
    ask("response_format", Kind::kJsonSchema, dump_json(format["json_schema"]["schema"]));
  }
  if (fields.has("guided_json")) ask("guided_json", Kind::kJsonSchema, schema_text(fields.get("guided_json")));
  if (fields.has("guided_regex")) ask("guided_regex", Kind::kRegex, fields.get("guided_regex"));
  if (fields.has("guided_choice")) ask("guided_choice", Kind::kLark, lark_of_choices(fields.get("guided_choice")));
  if (fields.has("guided_grammar")) ask("guided_grammar", Kind::kLark, fields.get("guided_grammar"));
  if (const Json outputs = fields.get("structured_outputs"); outputs.is_object()) {
    for (const auto& [key, value] : outputs.items()) {
      if (value.is_null()) continue;
      const std::string param = "structured_outputs." + key;
      if (key == "json") ask(param, Kind::kJsonSchema, schema_text(value));
      if (key == "json_object" && value == true) ask(param, Kind::kJsonObject, "");
      if (key == "regex") ask(param, Kind::kRegex, value);
      if (key == "choice") ask(param, Kind::kLark, lark_of_choices(value));
      if (key == "grammar") ask(param, Kind::kLark, value);
    }
  }
  if (asked.size() > 1) {
    return invalid(asked[1].param, fmt::format("'{}' and '{}' exclude each other.", asked[0].param, asked[1].param));
  }
  if (!asked.empty()) request->grammar = asked[0].grammar;
  return {};
}

// What chat and plain completions share.
ApiFault read_common(const ServedModel& model, const Fields& fields, GenerationSpec* spec) {
  EngineRequest& request = spec->request;
  read_sampling(fields, &request.sampling);
  spec->model = fields.body["model"].get<std::string>();
  request.n = i32(fields.integer("n"));
  request.min_tokens = fields.integer("min_tokens");
  request.ignore_eos = fields.flag("ignore_eos");
  request.priority = i32(fields.integer("priority"));
  spec->stream = fields.flag("stream");
  spec->include_stop = fields.flag("include_stop_str_in_output");
  spec->skip_special = fields.flag("skip_special_tokens");
  spec->return_token_ids = fields.flag("return_token_ids");
  if (const Json options = fields.get("stream_options"); options.is_object()) {
    spec->include_usage = options.value("include_usage", Json()) == true;
    spec->continuous_usage = options.value("continuous_usage_stats", Json()) == true;
  }
  if (const Json stop = fields.get("stop"); stop.is_string()) {
    spec->stop.push_back(stop);
  } else if (stop.is_array()) {
    spec->stop = stop.get<std::vector<std::string>>();
  }
  if (fields.has("stop_token_ids")) request.stop_ids = fields.get("stop_token_ids").get<std::vector<i32>>();
  if (const Json bias = fields.get("logit_bias"); bias.is_object()) {
    for (const auto& [key, value] : bias.items()) {
      const i64 token = std::stoll(key);  // the schema allows nine digits
      if (token >= model.limits.vocab) {
        return invalid("logit_bias", fmt::format("Invalid 'logit_bias': the vocabulary has no token {}.", token));
      }
      request.logit_bias.push_back({i32(token), value.get<float>()});
    }
  }
  return read_grammar(fields, &request);
}

ApiFault tokenize(const ServedModel& model, const std::string& text, bool add_special, const std::string& param,
                  std::vector<i32>* ids) {
  auto encoded = model.tokenizer.encode(text, {.add_special = add_special, .parse_special = true});
  if (!encoded.ok()) return invalid(param, fmt::format("Invalid '{}': {}.", param, encoded.status().message()));
  *ids = std::move(*encoded);
  return {};
}

// A prompt and its answer must fit the context. `asked`: tokens asked for, or -1: as many as there is room for.
ApiFault fit_context(const ServedModel& model, i64 asked, const std::string& param, const std::string& max_param,
                     GenerationSpec* spec) {
  i64 longest = 0;
  for (const Prompt& prompt : spec->prompts) {
    if (prompt.ids.empty()) return invalid(param, fmt::format("Invalid '{}': it has no tokens.", param));
    longest = std::max(longest, i64(prompt.ids.size()));
  }
  const i64 room = model.limits.context - longest;
  if (room < std::max<i64>(asked, 1)) {
    const bool prompt_alone = room < 1;
    return invalid(prompt_alone ? param : max_param,
                   fmt::format("This model's maximum context length is {} tokens. However, you requested {} tokens ({} "
                               "in the {}, {} in the completion). Please reduce the length of the {}.",
                               model.limits.context, longest + std::max<i64>(asked, 1), longest, param,
                               std::max<i64>(asked, 1), prompt_alone ? param : "completion"),
                   "context_length_exceeded");
  }
  spec->request.max_tokens = asked < 0 ? room : asked;
  if (spec->request.min_tokens > spec->request.max_tokens) {
    return invalid("min_tokens", fmt::format("Invalid 'min_tokens': {} is more than the {} tokens of the answer.",
                                             spec->request.min_tokens, spec->request.max_tokens));
  }
  return {};
}

// The JSON schema of one call, and of a list of them, for a grammar that allows nothing else.
Json call_schema(const Json& tools) {
  Json any = Json::array();
  for (const Json& tool : tools) {
    Json parameters = tool["function"].value("parameters", Json());
    if (!parameters.is_object()) parameters = {{"type", "object"}};
    any.push_back({{"type", "object"},
                   {"properties", {{"name", {{"const", tool["function"]["name"]}}}, {"arguments", parameters}}},
                   {"required", {"name", "arguments"}},
                   {"additionalProperties", false}});
  }
  return {{"anyOf", any}};
}

ApiFault read_tools(const ServedModel& model, const Fields& fields, GenerationSpec* spec, bool* in_prompt) {
  const Json tools = fields.get("tools");
  const Json choice = fields.get("tool_choice");
  const bool any = tools.is_array() && !tools.empty();
  *in_prompt = any && choice != "none";
  if (!any) {
    if (!choice.is_null() && choice != "none" && choice != "auto") {
      return invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified.");
    }
    return {};
  }
  for (const Json& tool : tools) spec->tool_names.push_back(tool["function"]["name"]);
  spec->single_call = !fields.flag("parallel_tool_calls");
  if (choice == "none") return {};
  if (choice.is_null() || choice == "auto") {
    spec->tools = model.tool_format;
    return {};
  }
  if (spec->request.grammar) {
    return invalid("tool_choice", "A forced tool call and structured output exclude each other.");
  }
  GrammarSpec grammar{GrammarSpec::Kind::kJsonSchema, {}};
  if (choice == "required") {
    Json list = {{"type", "array"}, {"minItems", 1}, {"items", call_schema(tools)}};
    if (spec->single_call) list["maxItems"] = 1;
    grammar.text = dump_json(list);
    spec->tools = ToolFormat::kArray;
  } else {
    const Json& name = choice["function"]["name"];
    const auto found =
        std::find_if(tools.begin(), tools.end(), [&](const Json& tool) { return tool["function"]["name"] == name; });
    if (found == tools.end()) {
      return invalid("tool_choice", fmt::format("Tool choice '{}' not found in 'tools'.", name.get<std::string>()));
    }
    Json parameters = (*found)["function"].value("parameters", Json());
    if (!parameters.is_object()) parameters = {{"type", "object"}};
    grammar.text = dump_json(parameters);
    spec->tools = ToolFormat::kNamed;
    spec->tool_names = {name.get<std::string>()};
  }
  spec->request.grammar = std::move(grammar);
  return {};
}

void set_reasoning(const ServedModel& model, const std::string& prompt, GenerationSpec* spec) {
  spec->reasoning = model.reasoning && !spec->request.grammar;
  std::string_view end = prompt;
  while (!end.empty() && std::string_view(" \t\r\n").find(end.back()) != std::string_view::npos) end.remove_suffix(1);
  spec->reasoning_open = end.ends_with("<think>");
}

}  // namespace

ApiFault check_request(const ServedModel& model, const std::string& schema, const Json& body) {
  if (body.is_object()) {
    const auto name = body.find("model");
    if (name != body.end() && name->is_string()) {
      const auto& known = model.limits.models;
      if (std::find(known.begin(), known.end(), name->get_ref<const std::string&>()) == known.end()) {
        return ApiError{.status = 404,
                        .message = fmt::format("The model `{}` does not exist.", name->get<std::string>()),
                        .param = "model",
                        .code = "model_not_found"};
      }
    }
  }
  return model.schema.check(schema, body);
}

ApiFault make_chat(const ServedModel& model, const Json& body, GenerationSpec* spec) {
  WEFT_API_TRY(check_request(model, kChat, body));
  const Fields fields{model.schema, kChat, body};
  spec->form = ApiForm::kChat;
  WEFT_API_TRY(read_common(model, fields, spec));
  bool tools_in_prompt = false;
  WEFT_API_TRY(read_tools(model, fields, spec, &tools_in_prompt));
  // Mistral's and Llama's marks of a call are special tokens.
  if (spec->tools == ToolFormat::kMistral || spec->tools == ToolFormat::kLlama3) spec->skip_special = false;
  spec->include_reasoning = fields.flag("include_reasoning");
  if (fields.flag("logprobs")) {
    spec->logprobs = int(fields.integer("top_logprobs"));
    spec->request.top_logprobs = spec->logprobs;
  }
  Prompt prompt;
  WEFT_API_TRY(render_conversation(model, body, tools_in_prompt, &prompt.text));
  WEFT_API_TRY(tokenize(model, prompt.text, false, "messages", &prompt.ids));
  set_reasoning(model, prompt.text, spec);
  spec->prompts.push_back(std::move(prompt));
  const bool newer = fields.has("max_completion_tokens");
  const char* key = newer ? "max_completion_tokens" : "max_tokens";
  return fit_context(model, fields.has(key) ? fields.integer(key) : -1, "messages", key, spec);
}

ApiFault make_completion(const ServedModel& model, const Json& body, GenerationSpec* spec) {
  WEFT_API_TRY(check_request(model, kCompletion, body));
  const Fields fields{model.schema, kCompletion, body};
  spec->form = ApiForm::kCompletion;
  WEFT_API_TRY(read_common(model, fields, spec));
  spec->echo = fields.flag("echo");
  if (fields.has("best_of") && fields.integer("best_of") != spec->request.n) {
    return invalid("best_of", "Invalid 'best_of': only the value of 'n' is supported.");
  }
  if (fields.has("logprobs")) {
    spec->logprobs = int(fields.integer("logprobs"));
    spec->request.top_logprobs = spec->logprobs;
    if (spec->echo) spec->request.prompt_logprobs = spec->logprobs;
  }
  const Json& sent = body["prompt"];
  const bool one = sent.is_string() || sent[0].is_number();
  const Json list = one ? Json::array({sent}) : sent;
  const i64 choices = i64(list.size()) * spec->request.n;
  if (choices > 2048) return invalid("prompt", fmt::format("Invalid 'prompt': {} choices are too many.", choices));
  for (const Json& each : list) {
    Prompt prompt;
    if (each.is_string()) {
      prompt.text = each;
      WEFT_API_TRY(tokenize(model, prompt.text, fields.flag("add_special_tokens"), "prompt", &prompt.ids));
    } else {
      prompt.ids = each.get<std::vector<i32>>();
      const auto text = model.tokenizer.decode(prompt.ids, spec->skip_special);
      if (!text.ok()) return invalid("prompt", "Invalid 'prompt': " + text.status().message());
      prompt.text = *text;
    }
    spec->prompts.push_back(std::move(prompt));
  }
  const i64 asked = fields.integer("max_tokens");
  return fit_context(model, asked, "prompt", "max_tokens", spec);
}

ApiFault make_responses(const ServedModel& model, const Json& body, GenerationSpec* spec) {
  WEFT_API_TRY(check_request(model, kResponses, body));
  const Fields fields{model.schema, kResponses, body};
  spec->form = ApiForm::kResponses;
  spec->model = body["model"].get<std::string>();
  spec->stream = fields.flag("stream");
  spec->request.sampling.temperature = fields.real("temperature");
  spec->request.sampling.top_p = std::max(fields.real("top_p"), std::numeric_limits<float>::min());
  spec->request.sampling.seed = random_seed();
  Json chat = {{"messages", Json::array()}};
  if (fields.has("instructions")) {
    chat["messages"].push_back({{"role", "system"}, {"content", body["instructions"]}});
  }
  if (body["input"].is_string()) {
    chat["messages"].push_back({{"role", "user"}, {"content", body["input"]}});
  } else {
    for (const Json& item : body["input"]) {
      chat["messages"].push_back({{"role", item["role"]}, {"content", item["content"]}});
    }
  }
  const Json format = fields.get("text").is_object() ? body["text"].value("format", Json()) : Json();
  if (format.is_object() && format["type"] == "json_object") {
    spec->request.grammar = GrammarSpec{GrammarSpec::Kind::kJsonObject, {}};
  } else if (format.is_object() && format["type"] == "json_schema") {
    spec->request.grammar = GrammarSpec{GrammarSpec::Kind::kJsonSchema, dump_json(format["schema"])};
  }
  Prompt prompt;
  WEFT_API_TRY(render_conversation(model, chat, false, &prompt.text));
  WEFT_API_TRY(tokenize(model, prompt.text, false, "input", &prompt.ids));
  set_reasoning(model, prompt.text, spec);
  spec->prompts.push_back(std::move(prompt));
  for (const char* key : {"instructions", "max_output_tokens", "temperature", "top_p", "metadata", "user"}) {
    spec->extra[key] = fields.get(key);
  }
  if (spec->extra["metadata"].is_null()) spec->extra["metadata"] = Json::object();
  spec->extra["text"] = {{"format", format.is_object() ? format : Json{{"type", "text"}}}};
  return fit_context(model, fields.has("max_output_tokens") ? fields.integer("max_output_tokens") : -1, "input",
                     "max_output_tokens", spec);
}

}  // namespace weft
