#include "serve/page.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

namespace weft {
namespace {

std::string header(const PageAnswer& answer, std::string_view name) {
  for (const auto& [key, value] : answer.headers) {
    if (key == name) return std::string(value);
  }
  return {};
}

TEST(Page, HasEveryFileOfTheFolderAsItIs) {
  const std::filesystem::path web = std::filesystem::path(WEFT_SOURCE_DIR) / "web";
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(web)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".md") continue;
    ++files;
    const std::string name = entry.path().lexically_relative(web).string();
    const PageFile* file = find_page_file(name == "index.html" ? "/" : "/page/" + name);
    ASSERT_NE(file, nullptr) << name;
    std::ifstream in(entry.path(), std::ios::binary);
    EXPECT_EQ(file->bytes, std::string(std::istreambuf_iterator<char>(in), {})) << name;
    EXPECT_EQ(file->gzip.substr(0, 3), "\x1f\x8b\x08") << name;
  }
  EXPECT_EQ(page_files().size(), files);
}

TEST(Page, FilesDifferInPathAndTag) {
  std::set<std::string_view> paths, tags;
  for (const PageFile& file : page_files()) {
    paths.insert(file.path);
    tags.insert(file.etag);
    EXPECT_EQ(file.etag.size(), std::string_view(R"(W/"0123456789abcdef")").size()) << file.path;
  }
  EXPECT_EQ(paths.size(), page_files().size());
  EXPECT_EQ(tags.size(), page_files().size());
  EXPECT_EQ(find_page_file("/page/index.html"), nullptr);
  EXPECT_EQ(find_page_file("/page/../page/app.js"), nullptr);
  EXPECT_EQ(find_page_file(""), nullptr);
}

TEST(Page, AnswersInTheEncodingThatTheClientTakes) {
  const PageFile& file = *find_page_file("/");
  const PageAnswer plain = answer_page(file, "", "br, deflate");
  EXPECT_EQ(plain.status, 200);
  EXPECT_EQ(plain.body, file.bytes);
  EXPECT_EQ(header(plain, "content-encoding"), "");
  EXPECT_EQ(header(plain, "content-type"), "text/html; charset=utf-8");
  const PageAnswer packed = answer_page(file, "\"other\"", "gzip, br");
  EXPECT_EQ(packed.body, file.gzip);
  EXPECT_EQ(header(packed, "content-encoding"), "gzip");
  EXPECT_EQ(header(packed, "vary"), "Accept-Encoding");
}

TEST(Page, AnswersWithoutABodyWhereTheClientHasTheFile) {
  const PageFile& file = *find_page_file("/page/app.js");
  const PageAnswer answer = answer_page(file, "W/\"x\", " + std::string(file.etag), "gzip");
  EXPECT_EQ(answer.status, 304);
  EXPECT_EQ(answer.body, "");
  EXPECT_EQ(header(answer, "etag"), file.etag);
}

TEST(Page, ForbidsInlineScriptEvalAndOtherOrigins) {
  const std::string policy = header(answer_page(*find_page_file("/"), "", ""), "content-security-policy");
  EXPECT_NE(policy.find("default-src 'none'; script-src 'self';"), std::string::npos) << policy;
  EXPECT_EQ(policy.find("unsafe"), std::string::npos) << policy;
  EXPECT_EQ(policy.find("http"), std::string::npos) << policy;
}

}  // namespace
}  // namespace weft
