#include "text/chat_template.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "text/testdata.h"

namespace weft {
namespace {

using testdata::Json;

class ChatTemplateTest : public testing::Test {
 protected:
  // Files were made in UTC; strftime_now prints local time.
  static void SetUpTestSuite() {
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

Result<std::string> render(const std::string& source, const ChatRequest& request = {}) {
  const Result<ChatTemplate> compiled = ChatTemplate::compile(source, "", "");
  return compiled.ok() ? compiled->render(request) : compiled.status();
}

// The golden text is null where transformers refuses.
void expect_same(const Result<std::string>& result, const Json& golden, const std::string& what) {
  if (golden.is_null()) {
    EXPECT_FALSE(result.ok()) << what << "\nprinted: " << (result.ok() ? *result : "");
  } else if (result.ok()) {
    EXPECT_EQ(*result, golden.get<std::string>()) << what;
  } else {
    ADD_FAILURE() << what << "\n" << result.status().message();
  }
}

TEST_F(ChatTemplateTest, RendersModelsAsHuggingFace) {
  const Json goldens = testdata::json("chat.json");
  for (const Json& model : goldens["models"]) {
    const std::string name = model["template"];
    const Result<ChatTemplate> compiled =
        ChatTemplate::compile(testdata::file("templates/" + name + ".jinja"), model["bos"].get<std::string>(),
                              model["eos"].get<std::string>());
    ASSERT_TRUE(compiled.ok()) << compiled.status().message();
    ASSERT_GT(model["cases"].size(), 20u);
    for (const Json& c : model["cases"]) {
      const ChatRequest request{.messages = goldens["chats"][c["chat"].get<std::string>()],
                                .tools = c["tools"] ? goldens["tools"] : Json(),
                                .extra = c["extra"],
                                .add_generation_prompt = c["prompt"],
                                .now = goldens["now"].get<i64>()};
      expect_same(compiled->render(request), c["text"],
                  name + " " + Json(c["chat"]).dump() + (c["tools"] ? " with tools" : ""));
    }
  }
}

TEST_F(ChatTemplateTest, EvaluatesExpressionsAsHuggingFace) {
  const Json goldens = testdata::json("chat.json");
  ASSERT_GT(goldens["expressions"].size(), 40u);
  for (const Json& c : goldens["expressions"]) {
    const ChatRequest request{
        .extra = goldens["variables"], .add_generation_prompt = false, .now = goldens["now"].get<i64>()};
    expect_same(render(c["source"], request), c["text"], c["source"]);
  }
}

TEST_F(ChatTemplateTest, NamesWhatIsWrong) {
  EXPECT_EQ(render("{{ raise_exception('Roles must alternate') }}").status().message(),
            "chat template: Roles must alternate");
  EXPECT_EQ(render("a\n{% if %}").status().code(), Code::kDataLoss);
  EXPECT_NE(render("a\n{% if %}").status().message().find(":2)"), std::string::npos)
      << render("a\n{% if %}").status().message();
  EXPECT_NE(render("a\n\n{{ x.y.z }}").status().message().find(":3)"), std::string::npos);
  EXPECT_EQ(render("x", {.messages = Json::array({1})}).status().message(), "messages[0]: expected a JSON object");
  EXPECT_EQ(render("x", {.messages = Json::object()}).status().message(), "messages: expected a JSON list");
  EXPECT_EQ(render("x", {.tools = Json(3)}).status().message(), "tools: expected a JSON list");
  EXPECT_EQ(render("x", {.extra = Json::array()}).status().message(), "extra: expected a JSON object");
  EXPECT_EQ(ChatTemplate::compile("\xff", "", "").status().message(), "chat template: invalid UTF-8 at byte 0");
  EXPECT_EQ(ChatTemplate::compile(std::string(300'000, 'x'), "", "").status().message(),
            "chat template: 300000 bytes, more than 262144");
}

TEST_F(ChatTemplateTest, ReplacesBytesThatAreNotUtf8InMessages) {
  const ChatRequest request{.messages = Json::array({{{"content",
                                                       "a\xff"
                                                       "b"}}})};
  EXPECT_EQ(render("{{ messages[0].content }}", request).value(), "a\ufffdb");
}

TEST_F(ChatTemplateTest, CannotOverrideTheRequest) {
  const ChatRequest request{.messages = Json::array({{{"role", "user"}}}),
                            .extra = {{"messages", "mine"}, {"bos_token", "X"}}};
  EXPECT_EQ(render("{{ messages[0].role }}{{ bos_token }}", request).value(), "user");
}

TEST_F(ChatTemplateTest, EndsHostileTemplates) {
  const char* hostile[] = {
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for a in range(100000) %}{% for b in range(1000) %}{{ 'xxxxxxxx' * 5000 }}{% endfor %}{% endfor %}",
      "{% set x %}{% for a in range(100000) %}{{ 'y' * 10000 }}{% endfor %}{% endset %}",
      "{{ 'x' * 100000000000 }}",
      "{{ range(1000000000) | list }}",
      "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
      "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% include 'chat template' %}",
      "{{ strftime_now('%999999999d') }}",
      "{{ 'a' | indent(99999999999) }}",
      "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      ("{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | list "
       "}}"),
      "{{ ('%99999999999d' | format(1)) }}",
  };
  for (const char* source : hostile) {
    const Result<std::string> result = render(source);
    EXPECT_FALSE(result.ok()) << source;
    EXPECT_FALSE(result.status().message().empty());
    EXPECT_EQ(result.status().message().find('\n'), std::string::npos);
  }
  // Nests as deep as the fuel allows, and must be dropped again without running out of stack.
  EXPECT_EQ(
      render("{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}ok").value(),
      "ok");
}

TEST_F(ChatTemplateTest, IsNotRunAgainAfterItWasStopped) {
  const ChatTemplate hostile =
      ChatTemplate::compile("{% if hog %}{{ 'a' | indent(99999999999) }}{% endif %}ok", "", "").value();
  EXPECT_EQ(hostile.render({}).value(), "ok");
  EXPECT_EQ(hostile.render({.extra = {{"hog", true}}}).status().message(), "chat template: needs too much memory");
  EXPECT_EQ(hostile.render({}).status().message(), "chat template: an earlier render went past its limits");
  EXPECT_EQ(hostile.render({}).status().code(), Code::kResourceExhausted);
}

TEST_F(ChatTemplateTest, CompilesDeepSources) {
  const auto repeat = [](const std::string& piece) {
    std::string text;
    while (text.size() + piece.size() < 250'000) text += piece;
    return text;
  };
  EXPECT_FALSE(render("{{ " + repeat("(") + "1").ok());
  EXPECT_FALSE(render("{{ " + repeat("[")).ok());
  EXPECT_FALSE(render(repeat("{% if 1 %}")).ok());
  // The engine has no limit on these; they must not run out of stack, whatever they print.
  for (const std::string& deep :
       {repeat("-") + "1", repeat("not ") + "1", "1" + repeat("+1"), "1" + repeat("~1"), "x" + repeat(".a"),
        "x" + repeat("[0]"), "1" + repeat("|e"), "1" + repeat(" if 1 else 1"), "1" + repeat(" and 1"),
        "1" + repeat("<1"), "1" + repeat(" is odd")}) {
    const Result<std::string> result = render("{{ " + deep + " }}");
    EXPECT_TRUE(result.ok() || !result.status().message().empty());
  }
}

TEST_F(ChatTemplateTest, RendersLongConversations) {
  const Result<ChatTemplate> compiled = ChatTemplate::compile(testdata::file("templates/qwen3.jinja"), "", "");
  Json messages = Json::array();
  for (int i = 0; i < 4000; ++i) messages.push_back({{"role", i % 2 ? "assistant" : "user"}, {"content", "hello"}});
  const Result<std::string> text = compiled->render({.messages = messages});
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_GT(text->size(), 4000 * 20u);
}

}  // namespace
}  // namespace weft
