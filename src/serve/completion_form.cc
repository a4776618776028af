// /v1/completions: objects text_completion, whole or as chunks.
#include "serve/chunked_form.h"

namespace weft {
namespace {

class CompletionForm final : public ChunkedForm {
 public:
  CompletionForm(const GenerationSpec& spec, const ServedModel& model, const std::string& id, i64 created)
      : ChunkedForm(spec, model, id, "text_completion", created) {}

  Json whole(std::vector<EndedChoice> choices, const UsageTotals& usage) override {
    Json list = Json::array();
    for (size_t i = 0; i < choices.size(); ++i) {
      const EndedChoice& choice = choices[i];
      list.push_back(entry(int(i), choice.answer, choice.finish_reason, choice.stop_reason));
    }
    return whole_of("text_completion", std::move(list), usage);
  }

  void open(std::string&) override {}
  void delta(int choice, AnswerDelta delta, const UsageTotals& so_far, std::string& out) override {
    chunk(entry(choice, delta, nullptr, nullptr), so_far, out);
  }
  void finish(int choice, const std::string& reason, const Json& stop_reason, const UsageTotals& so_far,
              std::string& out) override {
    chunk(entry(choice, {}, reason, stop_reason), so_far, out);
  }

 private:
  Json entry(int index, const AnswerDelta& delta, const Json& reason, const Json& stop_reason) const {
    Json all = {{"index", index}, {"text", delta.content}, {"logprobs", logprobs(delta)}, {"finish_reason", reason}};
    add_ends(all, stop_reason, delta.tokens);
    return all;
  }

  Json logprobs(const AnswerDelta& delta) const {
    if (spec_.logprobs < 0) return nullptr;
    Json all = {{"text_offset", Json::array()},
                {"token_logprobs", Json::array()},
                {"tokens", Json::array()},
                {"top_logprobs", Json::array()}};
    for (const TokenEntry& token : delta.tokens) {
      const std::string bytes = token_bytes(model_.tokenizer, token.id);
      all["text_offset"].push_back(token.text_offset);
      all["tokens"].push_back(bytes);
      if (!token.has_logprob) {
        all["token_logprobs"].push_back(nullptr);
        all["top_logprobs"].push_back(nullptr);
        continue;
      }
      all["token_logprobs"].push_back(std::max(token.logprob, -9999.0f));
      Json top = Json::object();  // as OpenAI: the likeliest, and the token itself
      for (const TokenLogprob& each : token.top) {
        top[dump_safe(token_bytes(model_.tokenizer, each.token))] = std::max(each.logprob, -9999.0f);
      }
      top[dump_safe(bytes)] = std::max(token.logprob, -9999.0f);
      all["top_logprobs"].push_back(std::move(top));
    }
    return all;
  }

  // Keys must be UTF-8 before they become keys.
  static std::string dump_safe(const std::string& bytes) {
    const std::string quoted = dump_json(Json(bytes));
    return Json::parse(quoted).get<std::string>();
  }
};

}  // namespace

std::unique_ptr<AnswerForm> make_completion_form(const GenerationSpec& spec, const ServedModel& model,
                                                 const std::string& id, i64 created) {
  return std::make_unique<CompletionForm>(spec, model, id, created);
}

}  // namespace weft
