// Splits what a model thinks between <think> and </think> from what it answers.
#pragma once
#include <string>
#include <string_view>

namespace weft {

class ReasoningSplitter {
 public:
  struct Parts {
    std::string reasoning, content;
  };
  // `inside`: the prompt ended with an open <think>.
  explicit ReasoningSplitter(bool inside) : state_(inside ? State::kInside : State::kBefore) {}

  // Only a <think> at the very beginning (behind white space) opens a thought. The tags are dropped, and the white
  // space around them.
  Parts push(std::string_view piece);
  // The text has ended: what was held back.
  Parts finish();

 private:
  enum class State { kBefore, kInside, kAfter, kContent };
  State state_;
  bool trim_ = true;  // white space at the beginning of the thought
  std::string held_;
};

}  // namespace weft
