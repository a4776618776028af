#include "text/chat_template.h"

#include "text/ffi/call.h"

namespace weft {

using text_ffi::call;
using text_ffi::view;

ChatTemplate::ChatTemplate(weft_chat_template* handle)
    : handle_(handle, [](const weft_chat_template* owned) {
        weft_chat_template_free(const_cast<weft_chat_template*>(owned));
      }) {}

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, std::string_view bos_token,
                                           std::string_view eos_token) {
  weft_chat_template* handle = nullptr;
  WEFT_TRY(call(weft_chat_template_compile, &handle, view(source), view(bos_token), view(eos_token)));
  return ChatTemplate(handle);
}

Result<std::string> ChatTemplate::render(const ChatRequest& request) const {
  const auto dump = [](const nlohmann::ordered_json& value) {
    return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  };
  const std::string messages = dump(request.messages), extra = dump(request.extra);
  const std::string tools = request.tools.is_null() ? "" : dump(request.tools);
  const weft_chat_request arguments{
      .messages = view(messages),
      .tools = view(tools),
      .extra = view(extra),
      .add_generation_prompt = request.add_generation_prompt,
      .now = request.now.value_or(-1),
  };
  return text_ffi::call_for_text(weft_chat_template_render, handle_.get(), &arguments);
}

}  // namespace weft
