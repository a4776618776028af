// /v1/chat/completions: objects chat.completion and chat.completion.chunk.
#include "serve/chunked_form.h"

namespace weft {
namespace {

class ChatForm final : public ChunkedForm {
 public:
  ChatForm(const GenerationSpec& spec, const ServedModel& model, const std::string& id, i64 created)
      : ChunkedForm(spec, model, id, "chat.completion.chunk", created) {}

  Json whole(std::vector<EndedChoice> choices, const UsageTotals& usage) override {
    Json list = Json::array();
    for (size_t i = 0; i < choices.size(); ++i) {
      EndedChoice& choice = choices[i];
      Json message = {{"role", "assistant"}, {"content", choice.answer.content}, {"refusal", nullptr}};
      if (!choice.answer.reasoning.empty()) message["reasoning_content"] = choice.answer.reasoning;
      if (!choice.answer.calls.empty()) {
        if (choice.answer.content.empty()) message["content"] = nullptr;
        message["tool_calls"] = Json::array();
        for (const ToolCallPart& call : choice.answer.calls) {
          message["tool_calls"].push_back({{"id", call.id},
                                           {"type", "function"},
                                           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
        }
      }
      Json entry = {{"index", i},
                    {"message", std::move(message)},
                    {"logprobs", logprobs(choice.answer.tokens)},
                    {"finish_reason", choice.finish_reason}};
      add_ends(entry, choice.stop_reason, choice.answer.tokens);
      list.push_back(std::move(entry));
    }
    return whole_of("chat.completion", std::move(list), usage);
  }

  void open(std::string& out) override {
    for (int i = 0; i < spec_.request.n; ++i) {
      chunk({{"index", i},
             {"delta", {{"role", "assistant"}, {"content", ""}}},
             {"logprobs", nullptr},
             {"finish_reason", nullptr}},
            {}, out);
    }
  }

  void delta(int choice, AnswerDelta delta, const UsageTotals& so_far, std::string& out) override {
    Json fields = Json::object();
    if (!delta.reasoning.empty()) fields["reasoning_content"] = delta.reasoning;
    if (!delta.content.empty() || (delta.reasoning.empty() && delta.calls.empty())) fields["content"] = delta.content;
    if (!delta.calls.empty()) {
      fields["tool_calls"] = Json::array();
      for (const ToolCallPart& call : delta.calls) {
        Json part = {{"index", call.index}};
        Json function = Json::object();
        if (!call.id.empty()) {
          part["id"] = call.id;
          part["type"] = "function";
          function["name"] = call.name;
        }
        function["arguments"] = call.arguments;
        part["function"] = std::move(function);
        fields["tool_calls"].push_back(std::move(part));
      }
    }
    Json entry = {{"index", choice},
                  {"delta", std::move(fields)},
                  {"logprobs", logprobs(delta.tokens)},
                  {"finish_reason", nullptr}};
    add_ends(entry, nullptr, delta.tokens);
    chunk(entry, so_far, out);
  }

  void finish(int choice, const std::string& reason, const Json& stop_reason, const UsageTotals& so_far,
              std::string& out) override {
    Json entry = {{"index", choice}, {"delta", Json::object()}, {"logprobs", nullptr}, {"finish_reason", reason}};
    if (!stop_reason.is_null()) entry["stop_reason"] = stop_reason;
    chunk(entry, so_far, out);
  }

 private:
  Json logprobs(const std::vector<TokenEntry>& tokens) const {
    if (spec_.logprobs < 0) return nullptr;
    Json content = Json::array();
    for (const TokenEntry& token : tokens) {
      Json entry = one(token.id, token.logprob);
      entry["top_logprobs"] = Json::array();
      for (const TokenLogprob& each : token.top) entry["top_logprobs"].push_back(one(each.token, each.logprob));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }

  Json one(i32 id, float logprob) const {
    const std::string bytes = token_bytes(model_.tokenizer, id);
    Json list = Json::array();
    for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
    return {{"token", bytes}, {"logprob", std::max(logprob, -9999.0f)}, {"bytes", std::move(list)}};
  }
};

}  // namespace

Json usage_json(const UsageTotals& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

std::unique_ptr<AnswerForm> make_chat_form(const GenerationSpec& spec, const ServedModel& model, const std::string& id,
                                           i64 created) {
  return std::make_unique<ChatForm>(spec, model, id, created);
}

std::unique_ptr<AnswerForm> make_form(const GenerationSpec& spec, const ServedModel& model, const std::string& id,
                                      i64 created) {
  if (spec.form == ApiForm::kChat) return make_chat_form(spec, model, "chatcmpl-" + id, created);
  if (spec.form == ApiForm::kCompletion) return make_completion_form(spec, model, "cmpl-" + id, created);
  return make_responses_form(spec, "resp_" + id, created);
}

}  // namespace weft
