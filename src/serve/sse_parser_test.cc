#include "serve/sse_parser.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace weft {
namespace {

using Events = std::vector<std::pair<std::string, std::string>>;

// The events of `parts`, pushed one after the other.
Events parse(const std::vector<std::string_view>& parts) {
  SseParser parser;
  Events events;
  for (const std::string_view part : parts) {
    EXPECT_TRUE(parser
                    .push(part,
                          [&](std::string_view event, std::string_view data) {
                            events.emplace_back(event, data);
                            return true;
                          })
                    .ok());
  }
  return events;
}

TEST(SseParser, FieldsLinesAndComments) {
  EXPECT_EQ(parse({"data: a\n\n"}), (Events{{"", "a"}}));
  EXPECT_EQ(parse({"data:a\ndata: b\ndata\n\n"}), (Events{{"", "a\nb\n"}}));
  EXPECT_EQ(parse({": comment\nevent: done\ndata:  two spaces\nid: 7\nretry: 3\n\n"}),
            (Events{{"done", " two spaces"}}));
  EXPECT_EQ(parse({"\xEF\xBB\xBF"
                   "data: a\n\n"}),
            (Events{{"", "a"}}));
  EXPECT_EQ(parse({"data: \xEF\xBB\xBF\n\n"}), (Events{{"", "\xEF\xBB\xBF"}}));
  EXPECT_EQ(parse({"data:\n\n"}), (Events{{"", ""}}));
  EXPECT_EQ(parse({"event: x\n\ndata: a\n\n"}), (Events{{"", "a"}})) << "a name without data is no event";
  EXPECT_EQ(parse({"\n\n\n: only\n\n"}), Events{});
  EXPECT_EQ(parse({"data: a\n\ndata: cut off"}), (Events{{"", "a"}}));
  EXPECT_EQ(parse({"data: a\r\n\r\ndata: b\r\rdata: c\n\n"}), (Events{{"", "a"}, {"", "b"}, {"", "c"}}));
}

TEST(SseParser, AnyBordersGiveTheSameEvents) {
  const std::string body =
      "\xEF\xBB\xBF: hello\r\ndata: {\"a\": 1}\r\n\r\nevent: x\rdata: 1\rdata: 2\r\rdata: \xC3\xA4\n\n\ndata: "
      "[DONE]\r\n\r\n";
  const Events whole = parse({body});
  ASSERT_EQ(whole, (Events{{"", "{\"a\": 1}"}, {"x", "1\n2"}, {"", "\xC3\xA4"}, {"", "[DONE]"}}));
  const std::string_view view = body;
  for (size_t i = 0; i <= body.size(); ++i) {
    for (size_t j = i; j <= body.size(); ++j) {
      EXPECT_EQ(parse({view.substr(0, i), view.substr(i, j - i), view.substr(j)}), whole) << i << " " << j;
    }
  }
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < body.size(); ++i) bytes.push_back(view.substr(i, 1));
  EXPECT_EQ(parse(bytes), whole);
}

TEST(SseParser, TheReceiverMayEndIt) {
  SseParser parser;
  int events = 0;
  EXPECT_TRUE(parser.push("data: a\n\ndata: b\n\n", [&](auto, auto) { return ++events, false; }).ok());
  EXPECT_EQ(events, 1);
}

TEST(SseParser, AnEndlessEventIsAnError) {
  SseParser parser;
  const std::string line = "data: " + std::string(1 << 20, 'x') + "\n";
  Status status;
  int pushed = 0;
  for (; status.ok() && pushed < 100; ++pushed) status = parser.push(line, [](auto, auto) { return true; });
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_EQ(pushed, 16);
  SseParser no_newline;
  status = {};
  for (pushed = 0; status.ok() && pushed < 100; ++pushed) {
    status = no_newline.push(std::string(1 << 20, 'x'), [](auto, auto) { return true; });
  }
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace weft
