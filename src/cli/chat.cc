// `weft chat`: a conversation with a model in this process, or with a server.
#include <fmt/format.h>

#include <memory>

#include "cli/chat_terminal.h"
#include "cli/conversation.h"
#include "serve/completion_client.h"

namespace weft {
namespace {

struct ChatFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system, url;
  ApiAccess access;
};

class LocalPeer final : public ChatPeer {
 public:
  LocalPeer(Leader& leader, Generator& generator, const Tokenizer& tokenizer, const ChatTemplate& chat,
            const GenerateOptions& options)
      : leader_(leader), generator_(generator), tokenizer_(tokenizer), chat_(chat), options_(options) {}

  Result<ChatAnswer> answer(const nlohmann::ordered_json& messages,
                            const std::function<void(std::string_view)>& emit) override {
    ChatRequest request;
    request.messages = messages;
    WEFT_ASSIGN(const std::string prompt, chat_.render(request));
    WEFT_ASSIGN(const std::vector<i32> ids, tokenizer_.encode(prompt, {.add_special = false, .parse_special = true}));
    std::string text;
    WEFT_ASSIGN(Generated answer,
                generate_text(generator_, tokenizer_, ids, options_, emit, [] { return !take_interrupt(); }, &text));
    return ChatAnswer{.text = std::move(text), .finish_reason = std::move(answer.finish_reason)};
  }
  Status idle() override { return leader_.worker.idle(); }
  bool usable_after(const Status& fault) const override { return fault.code() == Code::kInvalidArgument; }

 private:
  Leader& leader_;
  Generator& generator_;
  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const GenerateOptions options_;
};

class ServerPeer final : public ChatPeer {
 public:
  ServerPeer(HttpClient& client, const ChatFlags& flags, std::string model)
      : client_(client), flags_(flags), model_(std::move(model)) {}

  Result<ChatAnswer> answer(const nlohmann::ordered_json& messages,
                            const std::function<void(std::string_view)>& emit) override {
    ChatAnswer answer;
    Status fault;
    bool open = true;
    CompletionCall call{.chat = true, .body = body_of(messages)};
    call.on_delta = [&](const CompletionDelta& delta) {
      emit(delta.reasoning);  // is shown, but does not become part of the conversation
      emit(delta.text);
      answer.text += delta.text;
    };
    call.on_end = [&](const Status& status, const CompletionEnd& end) {
      open = false;
      fault = status;
      answer.finish_reason = end.finish_reason;
    };
    const u64 id = start_completion(client_, flags_.access, std::move(call));
    bool cancelled = false;
    std::function<void()> watch = [&] {
      if (!open) return;
      if (!cancelled && take_interrupt()) {
        cancelled = true;
        client_.cancel(id);
      }
      client_.after(std::chrono::milliseconds(20), watch);
    };
    watch();
    client_.run();
    if (cancelled && fault.code() == Code::kAborted) {
      answer.finish_reason = "cancelled";
    } else if (!fault.ok()) {
      if (!answer.text.empty()) emit("\n");
      return fault;
    }
    return answer;
  }
  Status idle() override { return {}; }
  bool usable_after(const Status&) const override { return true; }

 private:
  // What is not OpenAI's own is sent only where it says something.
  nlohmann::ordered_json body_of(const nlohmann::ordered_json& messages) const {
    const SamplingParams& params = flags_.sampling.params;
    nlohmann::ordered_json body = {{"model", model_},
                                   {"messages", messages},
                                   {"max_tokens", flags_.sampling.max_tokens},
                                   {"temperature", params.temperature},
                                   {"top_p", params.top_p},
                                   {"seed", params.seed}};
    if (params.top_k > 0) body["top_k"] = params.top_k;
    if (params.min_p > 0) body["min_p"] = params.min_p;
    if (params.repetition_penalty != 1) body["repetition_penalty"] = params.repetition_penalty;
    if (flags_.sampling.ignore_eos) body["ignore_eos"] = true;
    return body;
  }

  HttpClient& client_;
  const ChatFlags& flags_;
  const std::string model_;
};

Status chat_with_server(const ChatFlags& flags) {
  WEFT_ASSIGN(const Url url, parse_api_url(flags.url));
  WEFT_ASSIGN(const std::unique_ptr<HttpClient> client, HttpClient::create(url));
  std::string model = flags.model.model;
  if (model.empty()) {
    WEFT_ASSIGN(const std::vector<std::string> models, list_models(*client, flags.access));
    model = models.front();
  }
  ServerPeer peer(*client, flags, model);
  return converse(peer, fmt::format("{} at {}", model, url.text()), flags.system);
}

Status chat_with_ranks(const ChatFlags& flags) {
  if (flags.model.model.empty()) return error(Code::kInvalidArgument, "neither --model nor --url is given");
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  options.shape = one_sequence_shape(model.config);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    WEFT_ASSIGN(const Tokenizer tokenizer, model.load_tokenizer());
    WEFT_ASSIGN(const ChatTemplate chat, model.load_chat_template(tokenizer));
    Generator generator(leader.worker);
    WEFT_TRY(generator.warm_up());
    LocalPeer peer(leader, generator, tokenizer, chat, flags.sampling.options());
    return converse(peer, fmt::format("{} on {} rank(s)", model.config.name, leader.ranks), flags.system);
  });
}

}  // namespace

void add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  flags->sampling.max_tokens = 1024;
  CLI::App* chat = app.add_subcommand("chat", "Talk with a model in the terminal");
  flags->model.declare(*chat);
  chat->get_option("--model")->required(false);
  CLI::Option* url = chat->add_option(
      "--url", flags->url, "Talk with the server at this address instead; --model then is a name it knows [its first]");
  for (const char* name : {"--tp", "--ep", "--threads", "--mode", "--device", "--deadline"}) {
    url->excludes(chat->get_option(name));
  }
  chat->add_option("--api-key", flags->access.key, "Of the server at --url")->envname("WEFT_API_KEY");
  flags->sampling.declare(*chat);
  chat->add_option("--system", flags->system, "System message");
  chat->callback([flags] { finish(flags->url.empty() ? chat_with_ranks(*flags) : chat_with_server(*flags)); });
}

}  // namespace weft
