// Completions of any server that speaks OpenAI's API: which models it has, and answers as streams.
#pragma once
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "serve/http_client.h"

namespace weft {

// A server as users name it: with or without "/v1" at the end. Errors: as Url::parse.
Result<Url> parse_api_url(std::string_view text);

struct ApiAccess {
  std::string key;                            // "" sends none
  std::chrono::milliseconds timeout{300000};  // longest wait for the next bytes
};

// The ids of /v1/models. Errors: of the network, or naming the URL and what came instead.
Result<std::vector<std::string>> list_models(HttpClient& client, const ApiAccess& access);

// What one event of a stream adds. A server may put no text, one token or several into an event.
struct CompletionDelta {
  std::string text;
  std::string reasoning;  // of servers that split it off
};

struct CompletionUsage {
  i64 prompt_tokens = 0;
  i64 completion_tokens = 0;
  i64 cached_tokens = 0;  // of the prompt; 0 where the server does not say
};

struct CompletionEnd {
  std::string finish_reason;             // "" where the server gave none
  std::optional<CompletionUsage> usage;  // where the server counts: see stream_options.include_usage
};

struct CompletionCall {
  bool chat = true;             // /v1/chat/completions, else /v1/completions
  nlohmann::ordered_json body;  // as the API has it; "stream" is set here
  std::function<void(const CompletionDelta&)> on_delta = [](const CompletionDelta&) {};
  // Called once. Ok: the stream ended with a finish reason or [DONE]. Errors name the URL: those of HttpCall, and
  // by the status of the answer kInvalidArgument (4xx), kNotFound (404), kResourceExhausted (429), kUnavailable (5xx,
  // an error inside the stream, a stream cut off) or kDataLoss (no stream of completions), with the server's message.
  std::function<void(const Status&, const CompletionEnd&)> on_end = [](const Status&, const CompletionEnd&) {};
};

// Starts one streamed answer; the id is for client.cancel().
u64 start_completion(HttpClient& client, const ApiAccess& access, CompletionCall call);

}  // namespace weft
