// Any bytes as the body of any request: refused with an error that can be sent, or turned into something to generate.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "models/synthetic_text.h"
#include "serve/request.h"
#include "serve/tool_parser.h"

namespace weft {
namespace {

constexpr i64 kVocab = 512;

// Bytes as tokens: every text has some.
const ServedModel& model() {
  static const ServedModel one = [] {
    auto tokenizer = make_synthetic_tokenizer(kVocab);
    if (!tokenizer.ok()) std::abort();
    auto chat = ChatTemplate::compile("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}", "", "");
    if (!chat.ok()) std::abort();
    const ServedLimits limits{.version = "1", .models = {"m"}, .context = 4096, .vocab = kVocab};
    return ServedModel{.limits = limits, .schema = ApiSchema(limits), .tokenizer = *tokenizer, .chat_template = *chat};
  }();
  return one;
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto body = parse_json(text, {.max_depth = 32, .max_keys = 64, .max_values = 10000});
  if (!body.ok()) {
    (void)dump_json(body.status().message());
    return 0;
  }
  GenerationSpec spec;
  ApiFault fault;
  switch (data[0] % 3) {
    case 0: fault = make_chat(model(), *body, &spec); break;
    case 1: fault = make_completion(model(), *body, &spec); break;
    default: fault = make_responses(model(), *body, &spec);
  }
  if (fault) {
    if (fault->status < 400 || fault->status > 499 || fault->message.empty()) std::abort();
    (void)dump_json(fault->body());
    return 0;
  }
  for (const Prompt& prompt : spec.prompts) {
    if (prompt.ids.empty() || i64(prompt.ids.size()) + spec.request.max_tokens > 4096) std::abort();
  }
  if (spec.tools) {
    ToolParser parser(*spec.tools, spec.tool_names, spec.single_call);
    (void)parser.push(text);
    (void)parser.finish();
  }
  return 0;
}
