// Stop strings, thoughts and tool calls, in pieces of every size.
#include <gtest/gtest.h>

#include "serve/reasoning.h"
#include "serve/stop_strings.h"
#include "serve/tool_parser.h"

namespace weft {
namespace {

// Feeds `text` in pieces of `size` bytes.
template <class Push>
void in_pieces(const std::string& text, size_t size, Push push) {
  for (size_t at = 0; at < text.size(); at += size) push(std::string_view(text).substr(at, size));
}

TEST(StopStrings, ShowsNoPartOfOneWhateverThePieces) {
  const std::string text = "aab ababc STOP more";
  const std::vector<std::vector<std::string>> cases = {{"ababc"}, {"STOP"}, {"zzz"}, {"b a", "aba"}, {"a"}, {"more!"}};
  for (const auto& stops : cases) {
    size_t first = std::string::npos;
    for (const auto& stop : stops) first = std::min(first, text.find(stop));
    for (size_t size = 1; size <= text.size(); ++size) {
      StopStrings matcher(stops, false);
      std::string shown;
      in_pieces(text, size, [&](std::string_view piece) { shown += matcher.push(piece); });
      if (!matcher.stopped()) shown += matcher.finish();
      EXPECT_EQ(shown, text.substr(0, first)) << stops[0] << " in pieces of " << size;
      EXPECT_EQ(matcher.stopped(), first != std::string::npos);
    }
  }
}

TEST(StopStrings, MayIncludeWhatItFound) {
  StopStrings matcher({"lo"}, true);
  std::string shown = matcher.push("hel");
  shown += matcher.push("lo you");
  EXPECT_EQ(shown, "hello");
  EXPECT_EQ(matcher.found(), "lo");
}

struct Split {
  std::string text, reasoning, content;
  bool inside = false;
};

TEST(Reasoning, IsSplitOffWhateverThePieces) {
  const std::vector<Split> cases = {{"<think>\nlet me see\n</think>\n\nYes.", "let me see", "Yes."},
                                    {"no thought </think>", "", "no thought </think>"},
                                    {"  <think>a < b</think>c", "a < b", "c"},
                                    {"<think></think>\n\nhi", "", "hi"},
                                    {"<thin air", "", "<thin air"},
                                    {"half a thought", "half a thought", "", true},
                                    {"done</think>ok", "done", "ok", true},
                                    {"x <think>y</think>", "", "x <think>y</think>"}};
  for (const Split& expected : cases) {
    for (size_t size = 1; size <= expected.text.size(); ++size) {
      ReasoningSplitter splitter(expected.inside);
      std::string reasoning, content;
      auto add = [&](const ReasoningSplitter::Parts& parts) {
        reasoning += parts.reasoning;
        content += parts.content;
      };
      in_pieces(expected.text, size, [&](std::string_view piece) { add(splitter.push(piece)); });
      add(splitter.finish());
      EXPECT_EQ(reasoning, expected.reasoning) << expected.text << " in pieces of " << size;
      EXPECT_EQ(content, expected.content) << expected.text << " in pieces of " << size;
    }
  }
}

struct Calls {
  ToolFormat format;
  std::string text, content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
};

TEST(ToolParser, FindsCallsWhateverThePieces) {
  const std::string two =
      "Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\", \"b\": [1, "
      "{}]}}\n</tool_call>\n"
      "<tool_call>{\"arguments\": {\"x\": \"q\\\"\"}, \"name\": \"g\"}</tool_call>";
  const std::vector<Calls> cases = {
      {ToolFormat::kHermes,
       two,
       "Let me look.",
       {{"f", R"({"a": "}</tool_call>", "b": [1, {}]})"}, {"g", R"({"x": "q\""})"}}},
      {ToolFormat::kHermes, "just <tool text", "just <tool text", {}},
      {ToolFormat::kHermes, "<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>", {}},
      {ToolFormat::kHermes,
       R"(<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>)",
       "",
       {{"f", R"({"a": 1})"}}},
      {ToolFormat::kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 1)", "", {{"f", R"({"a": 1)"}}},
      {ToolFormat::kLlama3,
       R"({"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}})",
       "",
       {{"f", R"({"a": 1})"}, {"g", "{}"}}},
      {ToolFormat::kLlama3, R"(<|python_tag|>{"name": "f", "parameters": {"a": 1}})", "", {{"f", R"({"a": 1})"}}},
      {ToolFormat::kLlama3, R"({"name": "Ann", "age": 3})", R"({"name": "Ann", "age": 3})", {}},
      {ToolFormat::kLlama3, R"({"age": 3})", R"({"age": 3})", {}},
      {ToolFormat::kLlama3, "plain {text}", "plain {text}", {}},
      {ToolFormat::kMistral,
       R"([TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}])",
       "",
       {{"f", R"({"a": 1})"}, {"g", "{}"}}},
      {ToolFormat::kArray,
       R"([{"name":"f","arguments":{"a":1}},{"name":"g","arguments":{}}])",
       "",
       {{"f", R"({"a":1})"}, {"g", "{}"}}},
      {ToolFormat::kNamed, R"({"a":1})", "", {{"f", R"({"a":1})"}}},
  };
  for (const Calls& expected : cases) {
    for (size_t size = 1; size <= expected.text.size(); ++size) {
      ToolParser parser(expected.format, {"f", "g"}, false);
      std::string content;
      std::vector<std::pair<std::string, std::string>> calls;
      auto add = [&](const ToolParser::Parts& parts) {
        content += parts.content;
        for (const ToolCallPart& part : parts.calls) {
          if (part.index == int(calls.size())) {
            EXPECT_FALSE(part.id.empty());
            calls.emplace_back(part.name, "");
          }
          ASSERT_EQ(part.index + 1, int(calls.size()));
          calls.back().second += part.arguments;
        }
      };
      in_pieces(expected.text, size, [&](std::string_view piece) { add(parser.push(piece)); });
      add(parser.finish());
      EXPECT_EQ(content, expected.content) << expected.text << " in pieces of " << size;
      EXPECT_EQ(calls, expected.calls) << expected.text << " in pieces of " << size;
    }
  }
}

TEST(ToolParser, StreamsArgumentsBeforeTheyEnd) {
  ToolParser parser(ToolFormat::kHermes, {}, false);
  std::string arguments;
  for (const auto& part : parser.push(R"(<tool_call>{"name": "f", "arguments": {"city": "Par)").calls) {
    arguments += part.arguments;
  }
  EXPECT_EQ(arguments, R"({"city": "Par)");
}

TEST(ToolParser, KeepsOneCallWhereOnlyOneIsWanted) {
  ToolParser parser(ToolFormat::kArray, {}, true);
  const auto parts = parser.push(R"([{"name":"f","arguments":{}},{"name":"g","arguments":{}}])");
  ASSERT_EQ(parts.calls.size(), 1u);
  EXPECT_EQ(parts.calls[0].name, "f");
}

}  // namespace
}  // namespace weft
