#include "cli/chat_terminal.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include "engine/worker.h"

namespace weft {
namespace {

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
      if (take_interrupt()) return Outcome::kInterrupted;
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

void emit(std::string_view piece) {
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  std::fflush(stdout);
}

// Asks `text` and adds question and answer to `messages`; a fault leaves them as they were.
Status ask(ChatPeer& peer, const std::string& text, nlohmann::ordered_json& messages) {
  messages.push_back({{"role", "user"}, {"content", text}});
  const Result<ChatAnswer> answer = peer.answer(messages, emit);
  if (!answer.ok()) {
    messages.erase(messages.size() - 1);
    return answer.status();
  }
  fmt::print("{}\n", answer->finish_reason == "cancelled" ? " [stopped]"
                     : answer->finish_reason == "length"  ? " [length limit reached]"
                                                          : "");
  messages.push_back({{"role", "assistant"}, {"content", answer->text}});
  return {};
}

}  // namespace

bool take_interrupt() {
  return interrupted.exchange(false, std::memory_order_relaxed);
}

Status converse(ChatPeer& peer, const std::string& greeting, const std::string& system) {
  install_interrupt_handler();
  auto beginning = nlohmann::ordered_json::array();
  if (!system.empty()) beginning.push_back({{"role", "system"}, {"content", system}});
  auto messages = beginning;
  fmt::print("{}. /reset forgets the conversation, /exit leaves, Ctrl-C stops an answer.\n", greeting);
  LineReader input;
  for (std::string line;;) {
    fmt::print("> ");
    std::fflush(stdout);
    WEFT_ASSIGN(const LineReader::Outcome outcome, input.next(&line, [&] { return peer.idle(); }));
    if (outcome == LineReader::Outcome::kInterrupted) {
      fmt::print("\n(/exit leaves)\n");
      continue;
    }
    if (outcome == LineReader::Outcome::kEnd || line == "/exit") return {};
    if (line == "/reset") {
      messages = beginning;
      fmt::print("(forgotten)\n");
    } else if (!line.empty() && line[0] == '/') {
      fmt::print("unknown command '{}': /reset or /exit\n", line);
    } else if (!line.empty()) {
      const Status status = ask(peer, line, messages);
      if (!status.ok() && !peer.usable_after(status)) return status;
      if (!status.ok()) fmt::print("{}\n", status.message());
    }
  }
}

}  // namespace weft
