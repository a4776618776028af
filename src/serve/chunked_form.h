// ChunkedForm: the stream that chat and completion answers share: chunks of one object, then usage, then [DONE].
#pragma once
#include "serve/answer_form.h"

namespace weft {

class ChunkedForm : public AnswerForm {
 public:
  void close(const UsageTotals& usage, std::string& out) final {
    if (spec_.include_usage) {
      Json all = head_;
      all["choices"] = Json::array();
      all["usage"] = usage_json(usage);
      append_event(all, out);
    }
    out += "data: [DONE]\n\n";
  }

  void fail(const ApiError& fault, std::string& out) final { append_event(fault.body(), out); }

 protected:
  // `object` is the chunk's. `spec` and `model` must outlive it.
  ChunkedForm(const GenerationSpec& spec, const ServedModel& model, const std::string& id, const char* object,
              i64 created)
      : spec_(spec), model_(model) {
    head_ = {{"id", id}, {"object", object}, {"created", created}, {"model", spec.model}};
    prefix_ = dump_json(head_);
    prefix_.back() = ',';  // more fields follow
  }

  // The answer that is no stream.
  Json whole_of(const char* object, Json choices, const UsageTotals& usage) const {
    Json all = head_;
    all["object"] = object;
    all["choices"] = std::move(choices);
    all["usage"] = usage_json(usage);
    all["system_fingerprint"] = nullptr;
    return all;
  }

  // What ends every choice, in a stream and in whole.
  void add_ends(Json& choice, const Json& stop_reason, const std::vector<TokenEntry>& tokens) const {
    if (!stop_reason.is_null()) choice["stop_reason"] = stop_reason;
    if (!spec_.return_token_ids) return;
    choice["token_ids"] = Json::array();
    for (const TokenEntry& token : tokens) choice["token_ids"].push_back(token.id);
  }

  void chunk(const Json& choice, const UsageTotals& so_far, std::string& out) const {
    out += "data: ";
    out += prefix_;
    out += "\"choices\":[";
    out += dump_json(choice);
    out += ']';
    if (spec_.continuous_usage) {
      out += ",\"usage\":" + dump_json(usage_json(so_far));
    } else if (spec_.include_usage) {
      out += ",\"usage\":null";
    }
    out += "}\n\n";
  }

  const GenerationSpec& spec_;
  const ServedModel& model_;
  Json head_;  // what every chunk begins with

 private:
  std::string prefix_;
};

}  // namespace weft
