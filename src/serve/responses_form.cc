// /v1/responses: one message of text, whole or as typed events.
#include "serve/answer_form.h"

namespace weft {
namespace {

class ResponsesForm final : public AnswerForm {
 public:
  ResponsesForm(const GenerationSpec& spec, const std::string& id, i64 created)
      : spec_(spec), id_(id), message_id_("msg_" + id.substr(5)), created_(created) {}

  Json whole(std::vector<EndedChoice> choices, const UsageTotals& usage) override {
    text_ = choices.at(0).answer.content;
    reasoning_ = choices.at(0).answer.reasoning;
    reason_ = choices.at(0).finish_reason;
    return response(status(), &usage);
  }

  void open(std::string& out) override {
    event("response.created", {{"response", response("in_progress", nullptr)}}, out);
    event("response.in_progress", {{"response", response("in_progress", nullptr)}}, out);
    event("response.output_item.added", {{"output_index", 0}, {"item", message("in_progress")}}, out);
    Json part = {{"type", "output_text"}, {"text", ""}, {"annotations", Json::array()}};
    event("response.content_part.added", at({{"part", part}}), out);
  }
  void delta(int, AnswerDelta delta, const UsageTotals&, std::string& out) override {
    reasoning_ += delta.reasoning;
    if (delta.content.empty()) return;
    text_ += delta.content;
    event("response.output_text.delta", at({{"delta", delta.content}, {"logprobs", Json::array()}}), out);
  }
  void finish(int, const std::string& reason, const Json&, const UsageTotals&, std::string& out) override {
    reason_ = reason;
    event("response.output_text.done", at({{"text", text_}, {"logprobs", Json::array()}}), out);
    event("response.content_part.done", at({{"part", text_part()}}), out);
    event("response.output_item.done", {{"output_index", 0}, {"item", message(status())}}, out);
  }
  void close(const UsageTotals& usage, std::string& out) override {
    event(std::string("response.") + status(), {{"response", response(status(), &usage)}}, out);
  }
  void fail(const ApiError& fault, std::string& out) override {
    Json failed = response("failed", nullptr);
    failed["error"] = {{"code", fault.code.empty() ? "server_error" : fault.code}, {"message", fault.message}};
    event("response.failed", {{"response", failed}}, out);
  }

 private:
  const char* status() const { return reason_ == "length" ? "incomplete" : "completed"; }

  Json text_part() const { return {{"type", "output_text"}, {"text", text_}, {"annotations", Json::array()}}; }
  Json message(const std::string& status) const {
    Json content = Json::array();
    if (status != "in_progress") content.push_back(text_part());
    return {{"id", message_id_}, {"type", "message"}, {"status", status}, {"role", "assistant"}, {"content", content}};
  }
  Json at(const Json& fields) const {
    Json all = {{"item_id", message_id_}, {"output_index", 0}, {"content_index", 0}};
    all.update(fields);
    return all;
  }

  Json response(const std::string& status, const UsageTotals* usage) const {
    Json output = Json::array();
    if (status == "completed" || status == "incomplete") output.push_back(message(status));
    Json all = {{"id", id_},
                {"object", "response"},
                {"created_at", created_},
                {"status", status},
                {"error", nullptr},
                {"incomplete_details", status == "incomplete" ? Json{{"reason", "max_output_tokens"}} : Json()},
                {"model", spec_.model},
                {"output", output},
                {"parallel_tool_calls", true},
                {"tool_choice", "auto"},
                {"tools", Json::array()},
                {"previous_response_id", nullptr},
                {"store", false},
                {"truncation", "disabled"},
                {"usage", nullptr}};
    all.update(spec_.extra);
    if (usage) {
      all["usage"] = {{"input_tokens", usage->prompt_tokens},
                      {"input_tokens_details", {{"cached_tokens", usage->cached_tokens}}},
                      {"output_tokens", usage->completion_tokens},
                      {"output_tokens_details", {{"reasoning_tokens", 0}}},
                      {"total_tokens", usage->prompt_tokens + usage->completion_tokens}};
    }
    return all;
  }

  void event(const std::string& type, const Json& fields, std::string& out) {
    Json all = {{"type", type}, {"sequence_number", sequence_++}};
    all.update(fields);
    out += "event: " + type + "\n";
    append_event(all, out);
  }

  const GenerationSpec& spec_;
  const std::string id_, message_id_;
  const i64 created_;
  int sequence_ = 0;
  std::string text_, reasoning_, reason_;
};

}  // namespace

std::unique_ptr<AnswerForm> make_responses_form(const GenerationSpec& spec, const std::string& id, i64 created) {
  return std::make_unique<ResponsesForm>(spec, id, created);
}

}  // namespace weft
