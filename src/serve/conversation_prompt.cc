// Messages to a prompt: what templates expect, and what is done for those that know no tools.
#include "serve/request.h"

namespace weft {
namespace {

// Content as one string: templates of text models expect no parts.
Json plain_content(const Json& content) {
  if (!content.is_array()) return content.is_null() ? Json("") : content;
  std::string text;
  for (const Json& part : content) text += (text.empty() ? "" : "\n") + part["text"].get<std::string>();
  return text;
}

// Templates want a call's arguments as an object; clients send them as JSON text.
Json template_calls(const Json& calls) {
  Json all = Json::array();
  for (Json call : calls) {
    Json& arguments = call["function"]["arguments"];
    const auto parsed = parse_json(arguments.get_ref<const std::string&>());
    if (parsed.ok() && parsed->is_object()) arguments = *parsed;
    if (!call.contains("type")) call["type"] = "function";
    all.push_back(std::move(call));
  }
  return all;
}

Json template_messages(const Json& messages) {
  Json all = Json::array();
  for (const Json& message : messages) {
    Json plain = message;
    if (plain["role"] == "developer") plain["role"] = "system";
    plain["content"] = plain_content(message.value("content", Json()));
    if (plain.contains("tool_calls")) {
      if (plain["tool_calls"].is_null() || plain["tool_calls"].empty()) {
        plain.erase("tool_calls");
      } else {
        plain["tool_calls"] = template_calls(plain["tool_calls"]);
      }
    }
    all.push_back(std::move(plain));
  }
  return all;
}

std::string tool_instructions(const Json& tools) {
  std::string text =
      "You can call functions to help with the request. The functions, one JSON object a line:\n<tools>\n";
  for (const Json& tool : tools) text += dump_json(tool) + "\n";
  return text +
         "</tools>\n\nTo call one, write its name and arguments as JSON between these tags, one pair of tags a call:\n"
         "<tool_call>\n{\"name\": \"function name\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>";
}

// The conversation for a template that knows no tools: the functions stand in the system message, calls and their
// results in plain messages, all in Hermes' form.
Json without_tool_roles(const Json& messages, const Json& tools) {
  Json all = Json::array();
  for (const Json& message : messages) {
    Json plain = {{"role", message["role"]}, {"content", message["content"]}};
    if (message.contains("tool_calls")) {
      std::string text = message["content"].get<std::string>();
      for (const Json& call : message["tool_calls"]) {
        const Json inner = {{"name", call["function"]["name"]}, {"arguments", call["function"]["arguments"]}};
        text += (text.empty() ? "" : "\n") + std::string("<tool_call>\n") + dump_json(inner) + "\n</tool_call>";
      }
      plain["content"] = text;
    }
    if (message["role"] == "tool") {
      const std::string result = "<tool_response>\n" + message["content"].get<std::string>() + "\n</tool_response>";
      if (!all.empty() && all.back().value("tool_results", false)) {  // results of one turn make one message
        all.back()["content"] = all.back()["content"].get<std::string>() + "\n" + result;
        continue;
      }
      plain = {{"role", "user"}, {"content", result}, {"tool_results", true}};
    }
    all.push_back(std::move(plain));
  }
  for (Json& message : all) message.erase("tool_results");
  if (tools.is_null()) return all;
  const std::string instructions = tool_instructions(tools);
  if (!all.empty() && all[0]["role"] == "system") {
    all[0]["content"] = all[0]["content"].get<std::string>() + "\n\n" + instructions;
  } else {
    all.insert(all.begin(), Json{{"role", "system"}, {"content", instructions}});
  }
  return all;
}

}  // namespace

bool template_writes_tools(const ChatTemplate& chat_template) {
  ChatRequest request;
  request.messages.push_back({{"role", "user"}, {"content", "x"}});
  const auto without = chat_template.render(request);
  request.tools = Json::array({{{"type", "function"},
                                {"function",
                                 {{"name", "probe_function"},
                                  {"description", "x"},
                                  {"parameters", {{"type", "object"}, {"properties", Json::object()}}}}}}});
  const auto with = chat_template.render(request);
  return with.ok() && without.ok() && with->find("probe_function") != std::string::npos;
}

ApiFault render_conversation(const ServedModel& model, const Json& body, bool with_tools, std::string* text) {
  if (!model.chat_template) {
    return ApiError{.message = "The model has no chat template: use /v1/completions.", .param = "messages"};
  }
  ChatRequest request;
  request.messages = template_messages(body["messages"]);
  const Json tools = with_tools ? body.value("tools", Json()) : Json();
  const bool has_tools = tools.is_array() && !tools.empty();
  if (!model.template_has_tools) {
    request.messages = without_tool_roles(request.messages, has_tools ? tools : Json());
  } else if (has_tools) {
    request.tools = tools;
  }
  if (const auto extra = body.find("chat_template_kwargs"); extra != body.end() && extra->is_object()) {
    request.extra = *extra;
  }
  const Json effort = body.value("reasoning_effort", Json());
  if (effort.is_string()) {
    request.extra["reasoning_effort"] = effort;
    if (effort == "none" && !request.extra.contains("enable_thinking")) request.extra["enable_thinking"] = false;
  }
  auto flag = [&](const char* key, bool otherwise) {
    const auto found = body.find(key);
    return found != body.end() && found->is_boolean() ? found->get<bool>() : otherwise;
  };
  const bool continues = flag("continue_final_message", false);
  request.add_generation_prompt = !continues && flag("add_generation_prompt", true);
  if (continues && body.value("add_generation_prompt", Json()) == true) {
    return ApiError{.message = "continue_final_message and add_generation_prompt exclude each other.",
                    .param = "continue_final_message"};
  }
  auto rendered = model.chat_template->render(request);
  if (!rendered.ok()) {
    return ApiError{.message = "The chat template refused the conversation: " + rendered.status().message(),
                    .param = "messages",
                    .code = "invalid_messages"};
  }
  if (continues) {  // cut what the template puts behind the last message
    const std::string last = request.messages.back()["content"].get<std::string>();
    const size_t at = rendered->rfind(last);
    if (at == std::string::npos || last.empty()) {
      return ApiError{.message = "continue_final_message: the prompt does not show the last message as it is.",
                      .param = "continue_final_message"};
    }
    rendered->erase(at + last.size());
  }
  *text = std::move(*rendered);
  return {};
}

}  // namespace weft
