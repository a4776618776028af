// `weft chat`: a conversation in the terminal.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>

#include "cli/conversation.h"

namespace weft {
namespace {

struct ChatFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system;
};

std::atomic<bool> interrupted{false};  // set by SIGINT: a signal handler has no context to pass

void install_interrupt_handler() {
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted.store(true, std::memory_order_relaxed); };
  ::sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: poll() returns, so that the prompt can react
}

// Standard input line by line, with a chance to do something every interval while nothing comes.
class LineReader {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };
  Result<Outcome> next(std::string* line, const std::function<Status()>& idle) {
    for (;;) {
      if (const size_t newline = buffer_.find('\n'); newline != std::string::npos) {
        *line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return Outcome::kLine;
      }
      if (ended_) {
        if (buffer_.empty()) return Outcome::kEnd;
        *line = std::exchange(buffer_, {});
        return Outcome::kLine;
      }
      pollfd input{STDIN_FILENO, POLLIN, 0};
      const int ready = ::poll(&input, 1, int(std::chrono::milliseconds(Worker::kIdleInterval).count()));
      if (interrupted.exchange(false)) return Outcome::kInterrupted;
      if (ready <= 0) {
        WEFT_TRY(idle());
        continue;
      }
      char bytes[4096];
      const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (count > 0) buffer_.append(bytes, size_t(count));
      if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) ended_ = true;
    }
  }

 private:
  std::string buffer_;
  bool ended_ = false;
};

// The messages so far and what the model makes of them.
class Conversation {
 public:
  Conversation(Generator& generator, const Tokenizer& tokenizer, const ChatTemplate& chat, const ChatFlags& flags)
      : generator_(generator), tokenizer_(tokenizer), chat_(chat), flags_(flags) {
    reset();
  }
  void reset() {
    messages_ = nlohmann::ordered_json::array();
    if (!flags_.system.empty()) messages_.push_back({{"role", "system"}, {"content", flags_.system}});
  }
  // Answers `text`; a fault of the input leaves the history as it was.
  Status answer(const std::string& text) {
    const auto before = messages_;
    messages_.push_back({{"role", "user"}, {"content", text}});
    ChatRequest request;
    request.messages = messages_;
    auto restore = [&](const Status& fault) {
      messages_ = before;
      return fault;
    };
    auto prompt = chat_.render(request);
    if (!prompt.ok()) return restore(prompt.status());
    auto ids = tokenizer_.encode(*prompt, {.add_special = false, .parse_special = true});
    if (!ids.ok()) return restore(ids.status());
    std::string reply;
    auto emit = [](std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    auto answer = generate_text(
        generator_, tokenizer_, *ids, flags_.sampling.options(), emit, [] { return !interrupted.exchange(false); },
        &reply);
    if (!answer.ok()) return restore(answer.status());
    fmt::print("{}\n", answer->finish_reason == "cancelled" ? " [stopped]"
                       : answer->finish_reason == "length"  ? " [length limit reached]"
                                                            : "");
    messages_.push_back({{"role", "assistant"}, {"content", reply}});
    return {};
  }

 private:
  Generator& generator_;
  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const ChatFlags& flags_;
  nlohmann::ordered_json messages_;
};

Status converse(Leader& leader, const Pretrained& model, const ChatFlags& flags) {
  WEFT_ASSIGN(const Tokenizer tokenizer, model.load_tokenizer());
  WEFT_ASSIGN(const ChatTemplate chat, model.load_chat_template(tokenizer));
  Generator generator(leader.worker);
  WEFT_TRY(generator.warm_up());
  Conversation conversation(generator, tokenizer, chat, flags);
  fmt::print("{} on {} rank(s). /reset forgets the conversation, /exit leaves, Ctrl-C stops an answer.\n",
             model.config.name, leader.ranks);
  LineReader input;
  for (std::string line;;) {
    fmt::print("> ");
    std::fflush(stdout);
    WEFT_ASSIGN(const LineReader::Outcome outcome, input.next(&line, [&] { return leader.worker.idle(); }));
    if (outcome == LineReader::Outcome::kInterrupted) {
      fmt::print("\n(/exit leaves)\n");
      continue;
    }
    if (outcome == LineReader::Outcome::kEnd || line == "/exit") break;
    if (line == "/reset") {
      conversation.reset();
      fmt::print("(forgotten)\n");
    } else if (!line.empty() && line[0] == '/') {
      fmt::print("unknown command '{}': /reset or /exit\n", line);
    } else if (!line.empty()) {
      const Status status = conversation.answer(line);
      if (status.code() == Code::kInvalidArgument) {
        fmt::print("{}\n", status.message());  // the user's input: say it and go on
      } else {
        WEFT_TRY(status);
      }
    }
  }
  return {};
}

Status run_chat(const ChatFlags& flags) {
  install_interrupt_handler();
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  options.shape = one_sequence_shape(model.config);
  return run_ranks(model, options, [&](Leader& leader) { return converse(leader, model, flags); });
}

}  // namespace

void add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  flags->sampling.max_tokens = 1024;
  CLI::App* chat = app.add_subcommand("chat", "Talk with a model in the terminal");
  flags->model.declare(*chat);
  flags->sampling.declare(*chat);
  chat->add_option("--system", flags->system, "System message");
  chat->callback([flags] { finish(run_chat(*flags)); });
}

}  // namespace weft
