// A conversation in the terminal, whoever answers: a model in this process or a server.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace weft {

struct ChatAnswer {
  std::string text;           // what `emit` was given
  std::string finish_reason;  // "cancelled" after Ctrl-C
};

// Whoever answers.
class ChatPeer {
 public:
  virtual ~ChatPeer() = default;
  // Answers the last of `messages`, in OpenAI's form; text goes to `emit` as it comes. Ends early when
  // take_interrupt() says so.
  virtual Result<ChatAnswer> answer(const nlohmann::ordered_json& messages,
                                    const std::function<void(std::string_view)>& emit) = 0;
  // Called every two seconds while nothing is asked.
  virtual Status idle() = 0;
  // Whether the conversation can go on after answer() failed with `fault`.
  virtual bool usable_after(const Status& fault) const = 0;
};

// Whether Ctrl-C was pressed since the last call. Works from converse() on.
bool take_interrupt();

// Talks until /exit or the end of the input. /reset forgets all but the system message; a question that failed is
// forgotten, too. Errors: of the peer, where it is not usable after them.
Status converse(ChatPeer& peer, const std::string& greeting, const std::string& system);

}  // namespace weft
