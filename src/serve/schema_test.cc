// JSON of strangers, and what the document says of requests.
#include <gtest/gtest.h>

#include "serve/schema.h"

namespace weft {
namespace {

const ApiSchema& schema() {
  static const ApiSchema one({.version = "1", .models = {"m"}, .context = 100, .vocab = 50});
  return one;
}

ApiFault check_chat(const std::string& fields) {
  return schema().check("ChatCompletionRequest",
                        Json::parse(R"({"model": "m", "messages": [{"role": "user", "content": "x"}])" +
                                    (fields.empty() ? "" : ", " + fields) + "}"));
}

TEST(JsonText, IsBounded) {
  EXPECT_TRUE(parse_json(R"({"a": [1, 2, {"b": "}{]["}]})").ok());
  EXPECT_FALSE(parse_json(std::string(65, '[') + std::string(65, ']')).ok());
  EXPECT_TRUE(parse_json(std::string(64, '[') + std::string(64, ']')).ok());
  EXPECT_FALSE(parse_json(R"({"a":1,"b":1,"c":1})", {.max_keys = 2}).ok());
  EXPECT_FALSE(parse_json("[1,2,3]", {.max_values = 2}).ok());
  for (const char* bad : {"", "{", "[1,]", "nul", "\"\xff\"", "1e999", "{\"a\":1}x", "\"\\ud800\""}) {
    const auto result = parse_json(bad);
    ASSERT_FALSE(result.ok()) << bad;
    EXPECT_EQ(result.status().message().find("json.exception"), std::string::npos);
    EXPECT_NO_THROW((void)dump_json(result.status().message())) << bad;
  }
}

TEST(Schema, NamesTheField) {
  EXPECT_FALSE(check_chat(""));
  EXPECT_FALSE(check_chat(R"("temperature": null, "stop": null, "unknown": {}, "response_format": null)"));
  const auto fault = check_chat(R"("stop": 5)");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->param, "stop");
  EXPECT_EQ(fault->message, "Invalid type for 'stop': expected a string or an array, but got an integer instead.");
  const auto format = check_chat(R"("response_format": {"type": "xml"})");
  ASSERT_TRUE(format);
  EXPECT_EQ(format->param, "response_format.type");
  EXPECT_NE(format->message.find("'text', 'json_object', 'json_schema'"), std::string::npos) << format->message;
}

TEST(Schema, KnowsIntegers) {
  for (const char* good : {"1", "128", "2.0", "null"}) EXPECT_FALSE(check_chat(std::string("\"n\": ") + good)) << good;
  for (const char* bad : {"0", "129", "1.5", "\"1\"", "true", "1e300", "99999999999999999999", "-1", "[]"}) {
    const auto fault = check_chat(std::string("\"n\": ") + bad);
    ASSERT_TRUE(fault) << bad;
    EXPECT_EQ(fault->param, "n");
  }
  EXPECT_FALSE(check_chat(R"("seed": -9223372036854775808)"));
  EXPECT_TRUE(check_chat(R"("seed": 9223372036854775808)"));
}

TEST(Schema, KnowsRulesBetweenFields) {
  EXPECT_FALSE(check_chat(R"("logprobs": true, "top_logprobs": 2)"));
  EXPECT_FALSE(check_chat(R"("top_logprobs": null)"));
  for (const char* bad : {R"("top_logprobs": 2)", R"("top_logprobs": 0, "logprobs": false)"}) {
    const auto fault = check_chat(bad);
    ASSERT_TRUE(fault) << bad;
    EXPECT_EQ(fault->param, "top_logprobs");
  }
  EXPECT_TRUE(check_chat(R"("stream_options": {})"));
  EXPECT_FALSE(check_chat(R"("stream_options": {}, "stream": true)"));
}

TEST(Schema, GivesTheDeclaredDefaults) {
  const Json body = Json::parse(R"({"top_p": null, "temperature": 0.5})");
  EXPECT_EQ(schema().field("ChatCompletionRequest", body, "top_p"), 1);
  EXPECT_EQ(schema().field("ChatCompletionRequest", body, "temperature"), 0.5);
  EXPECT_TRUE(schema().field("ChatCompletionRequest", body, "seed").is_null());
}

TEST(Schema, ServesNoPlaceholders) {
  const std::string text = dump_json(schema().document());
  for (const char* placeholder : {"$context", "$last_token", "$models", "$version", "x-include", "x-null"}) {
    EXPECT_EQ(text.find(placeholder), std::string::npos) << placeholder;
  }
}

}  // namespace
}  // namespace weft
