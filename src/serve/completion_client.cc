#include "serve/completion_client.h"

#include "serve/sse_parser.h"

namespace weft {
namespace {

using nlohmann::ordered_json;

constexpr size_t kShownBytes = 300;  // of an answer that was not understood

std::string shown(std::string_view body) {
  std::string line(body.substr(0, kShownBytes));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  return body.size() > kShownBytes ? line + " ..." : line;
}

// The message in OpenAI's form of an error, or in the forms that other servers use; else the body itself.
std::string error_text(const ordered_json& body, std::string_view raw) {
  if (body.is_object()) {
    const ordered_json& fault = body.contains("error") ? body["error"] : body;
    if (fault.is_string()) return fault.get<std::string>();
    if (fault.is_object() && fault.contains("message") && fault["message"].is_string()) {
      return fault["message"].get<std::string>();
    }
  }
  return raw.empty() ? "no further reason" : shown(raw);
}

Status http_fault(const std::string& url, int status, std::string_view body) {
  const Code code = status == 404   ? Code::kNotFound
                    : status == 429 ? Code::kResourceExhausted
                    : status >= 500 ? Code::kUnavailable
                                    : Code::kInvalidArgument;
  return error(code, "{}: HTTP {}: {}", url, status, error_text(ordered_json::parse(body, nullptr, false), body));
}

HttpHeaders headers_of(const ApiAccess& access) {
  HttpHeaders headers = {{"Content-Type", "application/json"}};
  if (!access.key.empty()) headers.emplace_back("Authorization", "Bearer " + access.key);
  return headers;
}

std::string string_at(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

i64 count_at(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_integer() ? found->get<i64>() : 0;
}

// One answer while it comes.
struct Answer {
  CompletionCall call;
  std::string url;
  int status = 0;
  bool is_stream = false;
  SseParser events;
  std::string body;  // of an answer that is no stream
  CompletionEnd end;
  bool done = false;  // [DONE] came
  Status fault;

  void on_head(int code, const HttpHeaders& headers) {
    status = code;
    for (const auto& [name, value] : headers) {
      if (name == "content-type" && value.starts_with("text/event-stream")) is_stream = true;
    }
  }

  bool on_body(std::string_view bytes) {
    if (status != 200 || !is_stream) {
      body += bytes.substr(0, 64 * 1024 - std::min<size_t>(body.size(), 64 * 1024));
      return true;
    }
    const Status status = events.push(bytes, [&](std::string_view, std::string_view data) { return on_event(data); });
    if (!status.ok()) fault = status.with_context(url);
    return fault.ok();
  }

  bool on_event(std::string_view data) {
    if (data == "[DONE]") {
      done = true;
      return true;
    }
    const ordered_json event = ordered_json::parse(data, nullptr, false);
    if (!event.is_object()) {
      fault = error(Code::kDataLoss, "{}: an event of the stream is no JSON object: {}", url, shown(data));
    } else if (event.contains("error")) {
      fault = error(Code::kUnavailable, "{}: the stream ended with an error: {}", url, error_text(event, data));
    } else {
      take(event);
    }
    return fault.ok();
  }

  void take(const ordered_json& event) {
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      end.usage = CompletionUsage{.prompt_tokens = count_at(*usage, "prompt_tokens"),
                                  .completion_tokens = count_at(*usage, "completion_tokens")};
      const auto details = usage->find("prompt_tokens_details");
      if (details != usage->end() && details->is_object())
        end.usage->cached_tokens = count_at(*details, "cached_tokens");
    }
    const auto choices = event.find("choices");
    if (choices == event.end() || !choices->is_array() || choices->empty() || !choices->front().is_object()) return;
    const ordered_json& choice = choices->front();
    if (std::string reason = string_at(choice, "finish_reason"); !reason.empty()) end.finish_reason = std::move(reason);
    CompletionDelta delta;
    if (!call.chat) {
      delta.text = string_at(choice, "text");
    } else if (const auto part = choice.find("delta"); part != choice.end() && part->is_object()) {
      delta.text = string_at(*part, "content");
      delta.reasoning = string_at(*part, "reasoning_content");
    }
    if (!delta.text.empty() || !delta.reasoning.empty()) call.on_delta(delta);
  }

  Status finish(const Status& transport) const {
    if (!fault.ok()) return fault;
    if (!transport.ok()) {
      // A server may drop the connection right after the last event.
      return done && transport.code() == Code::kUnavailable ? Status() : transport;
    }
    if (status != 200) return http_fault(url, status, body);
    if (!is_stream) return error(Code::kDataLoss, "{}: the answer is no event stream: {}", url, shown(body));
    if (!done && end.finish_reason.empty()) {
      return error(Code::kUnavailable, "{}: the stream ended without a finish reason or [DONE]", url);
    }
    return {};
  }
};

}  // namespace

Result<Url> parse_api_url(std::string_view text) {
  WEFT_ASSIGN(Url url, Url::parse(text));
  if (url.path.ends_with("/v1")) url.path.resize(url.path.size() - 3);
  return url;
}

Result<std::vector<std::string>> list_models(HttpClient& client, const ApiAccess& access) {
  WEFT_ASSIGN(const HttpAnswer answer,
              fetch(client, {.path = "/v1/models", .headers = headers_of(access), .timeout = access.timeout}));
  const std::string url = client.server().text() + "/v1/models";
  if (answer.status != 200) return http_fault(url, answer.status, answer.body);
  const ordered_json body = ordered_json::parse(answer.body, nullptr, false);
  std::vector<std::string> names;
  if (body.is_object() && body.contains("data") && body["data"].is_array()) {
    for (const ordered_json& model : body["data"]) {
      if (model.is_object()) names.push_back(string_at(model, "id"));
    }
  }
  if (names.empty()) return error(Code::kDataLoss, "{}: no models in the answer: {}", url, shown(answer.body));
  return names;
}

u64 start_completion(HttpClient& client, const ApiAccess& access, CompletionCall call) {
  auto answer = std::make_shared<Answer>();
  answer->call = std::move(call);
  answer->call.body["stream"] = true;
  HttpCall exchange = {.method = "POST",
                       .path = answer->call.chat ? "/v1/chat/completions" : "/v1/completions",
                       .headers = headers_of(access),
                       .body = answer->call.body.dump(-1, ' ', false, ordered_json::error_handler_t::replace),
                       .timeout = access.timeout};
  answer->call.body = nullptr;
  answer->url = client.server().text() + exchange.path;
  exchange.on_head = [answer](int status, const HttpHeaders& headers) { answer->on_head(status, headers); };
  exchange.on_body = [answer](std::string_view bytes) { return answer->on_body(bytes); };
  exchange.on_end = [answer](const Status& transport) { answer->call.on_end(answer->finish(transport), answer->end); };
  return client.start(std::move(exchange));
}

}  // namespace weft
