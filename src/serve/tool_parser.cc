#include "serve/tool_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <utility>

namespace weft {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string new_call_id() {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("call_{:016x}", random());
}

// Reads one {"name": ..., "arguments": ...} byte by byte. The arguments' text is passed on as it comes, once the name
// is known.
class CallScanner {
 public:
  enum class Outcome { kMore, kDone, kBroken };

  // Call until the outcome is not kMore.
  Outcome push(char c) {
    if (capturing_) arguments_ += c;
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
        if (depth_ == 1) end_of_string();
        return Outcome::kMore;
      }
      if (depth_ == 1) token_ += c;
      return Outcome::kMore;
    }
    switch (c) {
      case '"':
        in_string_ = true;
        if (depth_ == 1) token_.clear();
        break;
      case '{':
      case '[':
        if (depth_ == 1 && value_next_ && is_arguments()) {
          capturing_ = true;
          arguments_ += c;
        }
        if (depth_ == 1) value_next_ = false;
        ++depth_;
        break;
      case '}':
      case ']':
        if (--depth_ == 1 && capturing_) capturing_ = false;
        if (depth_ <= 0) return c == '}' && !name_.empty() ? Outcome::kDone : Outcome::kBroken;
        break;
      case ':':
        if (depth_ == 1) value_next_ = true;
        break;
      case ',':
        if (depth_ == 1) value_next_ = false, key_.clear();
        break;
      default:
        if (depth_ == 0 && kSpace.find(c) == kSpace.npos) return Outcome::kBroken;
    }
    return Outcome::kMore;
  }

  bool has_name() const { return !name_.empty(); }
  const std::string& name() const { return name_; }
  std::string take_arguments() { return std::exchange(arguments_, {}); }

 private:
  bool is_arguments() const { return key_ == "arguments" || key_ == "parameters"; }
  // A string at the call's own level has ended: a key, the name, or arguments that are JSON inside a string.
  void end_of_string() {
    if (!value_next_) {
      key_ = unescaped();
    } else {
      value_next_ = false;
      if (key_ == "name" && name_.empty()) name_ = unescaped();
      if (is_arguments()) arguments_ += unescaped();
    }
  }
  std::string unescaped() const {
    const Json text = Json::parse("\"" + token_ + "\"", nullptr, false);
    return text.is_string() ? text.get<std::string>() : token_;
  }

  int depth_ = 0;
  bool in_string_ = false, escaped_ = false, value_next_ = false, capturing_ = false;
  std::string key_, token_, name_, arguments_;
};

}  // namespace

Result<ToolFormat> parse_tool_format(std::string_view name) {
  if (name == "hermes" || name == "qwen3") return ToolFormat::kHermes;
  if (name == "llama3_json") return ToolFormat::kLlama3;
  if (name == "mistral") return ToolFormat::kMistral;
  return error(Code::kInvalidArgument, "tool parser '{}' is not one of hermes, qwen3, llama3_json, mistral", name);
}

class ToolParser::State {
 public:
  State(ToolFormat format, std::vector<std::string> names, bool single)
      : format_(format), names_(std::move(names)), single_(single) {
    if (format == ToolFormat::kHermes) open_ = "<tool_call>", close_ = "</tool_call>";
    if (format == ToolFormat::kMistral) open_ = "[TOOL_CALLS]";
  }

  Parts push(std::string_view piece) {
    if (format_ == ToolFormat::kNamed) {
      if (calls_ == 0 && !piece.empty()) start_call(names_.at(0));
      add_arguments(std::string(piece));
    } else if (open_.empty()) {
      for (const char c : piece) bare(c);
    } else {
      held_ += piece;
      while (step()) {
      }
    }
    return std::exchange(parts_, {});
  }

  Parts finish() {
    if (scanner_) {
      if (scanner_->has_name())
        pass_on();
      else
        parts_.content += raw_;
      scanner_.reset();
    }
    parts_.content += std::exchange(held_, {});
    return std::exchange(parts_, {});
  }

  int num_calls() const { return calls_; }

 private:
  // Takes something off the front of held_; false when more text is needed.
  bool step() {
    if (in_calls_) return step_in_calls();
    const size_t at = held_.find(open_);
    if (at == std::string::npos) {
      size_t keep = std::min(held_.size(), open_.size() - 1);
      while (keep > 0 && !held_.ends_with(open_.substr(0, keep))) --keep;
      keep = with_space(keep);  // white space before a call belongs to it
      parts_.content += held_.substr(0, held_.size() - keep);
      held_.erase(0, held_.size() - keep);
      return false;
    }
    std::string before = held_.substr(0, at);
    before.erase(before.find_last_not_of(kSpace) + 1);
    parts_.content += before;
    held_.erase(0, at + open_.size());
    in_calls_ = true;
    raw_ = open_;
    return true;
  }

  size_t with_space(size_t keep) const {
    while (keep < held_.size() && kSpace.find(held_[held_.size() - keep - 1]) != kSpace.npos) ++keep;
    return keep;
  }

  bool step_in_calls() {
    while (!held_.empty()) {
      if (!scanner_) {
        // Between calls: white space, the list's own marks, the closing tag.
        if (!close_.empty() && held_.starts_with(close_)) {
          held_.erase(0, close_.size());
          in_calls_ = false;
          return true;
        }
        if (!close_.empty() && close_.starts_with(held_)) return false;
        const char c = held_[0];
        if (c == '{') {
          scanner_.emplace();
        } else if (kSpace.find(c) != kSpace.npos || (close_.empty() && (c == '[' || c == ',' || c == ']'))) {
          raw_ += c;
          held_.erase(0, 1);
          continue;
        } else {  // no call
          give_back();
          return true;
        }
      }
      const char c = held_[0];
      held_.erase(0, 1);
      raw_ += c;
      if (!scan(c)) return true;
    }
    return false;
  }

  // One byte of a call; false when it turned out to be none.
  bool scan(char c) {
    CallScanner::Outcome outcome = scanner_->push(c);
    if (format_ == ToolFormat::kLlama3 && !announced_ && scanner_->has_name() &&
        std::find(names_.begin(), names_.end(), scanner_->name()) == names_.end()) {
      outcome = CallScanner::Outcome::kBroken;  // without tags, JSON that names no function is just an answer
    }
    if (outcome == CallScanner::Outcome::kBroken && !announced_) {
      give_back();
      return false;
    }
    if (scanner_->has_name()) pass_on();
    if (outcome != CallScanner::Outcome::kMore) {
      scanner_.reset();
      announced_ = false;
      raw_.clear();
    }
    return true;
  }

  void give_back() {
    scanner_.reset();
    parts_.content += std::exchange(raw_, {});
    in_calls_ = false;
    if (open_.empty()) plain_ = true;
  }

  void pass_on() {
    if (!announced_) start_call(scanner_->name());
    announced_ = true;
    add_arguments(scanner_->take_arguments());
  }

  // A format without tags: the first byte that is no space decides.
  void bare(char c) {
    if (plain_) {
      parts_.content += c;
    } else if (scanner_) {
      raw_ += c;
      scan(c);
    } else if (c == '{') {
      scanner_.emplace();
      raw_ += c;
      scan(c);
    } else if (kSpace.find(c) != kSpace.npos || (format_ == ToolFormat::kArray && (c == '[' || c == ',' || c == ']')) ||
               (c == ';' && calls_ > 0)) {
      raw_ += c;
    } else if (const std::string_view tag = "<|python_tag|>"; raw_.size() < tag.size() && tag[raw_.size()] == c) {
      raw_ += c;
    } else {
      raw_ += c;
      give_back();
    }
  }

  void start_call(const std::string& name) {
    ++calls_;
    if (single_ && calls_ > 1) return;
    parts_.calls.push_back({.index = calls_ - 1, .id = new_call_id(), .name = name, .arguments = {}});
  }
  void add_arguments(const std::string& text) {
    if (text.empty() || (single_ && calls_ > 1)) return;
    if (parts_.calls.empty() || parts_.calls.back().index != calls_ - 1) {
      parts_.calls.push_back({.index = calls_ - 1, .id = {}, .name = {}, .arguments = {}});
    }
    parts_.calls.back().arguments += text;
  }

  const ToolFormat format_;
  const std::vector<std::string> names_;
  const bool single_;
  std::string open_, close_;
  std::string held_;  // not yet understood
  std::string raw_;   // of the call being read, to give back if it is none
  bool in_calls_ = false, plain_ = false, announced_ = false;
  std::optional<CallScanner> scanner_;
  int calls_ = 0;
  Parts parts_;
};

ToolParser::ToolParser(ToolFormat format, std::vector<std::string> names, bool single)
    : state_(std::make_unique<State>(format, std::move(names), single)) {}
ToolParser::~ToolParser() = default;
ToolParser::ToolParser(ToolParser&&) noexcept = default;
ToolParser::Parts ToolParser::push(std::string_view piece) {
  return state_->push(piece);
}
ToolParser::Parts ToolParser::finish() {
  return state_->finish();
}
int ToolParser::num_calls() const {
  return state_->num_calls();
}

}  // namespace weft
