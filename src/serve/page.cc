#include "serve/page.h"

namespace weft {
namespace {

// Nothing runs or loads but what this server sends; script that reaches the page as text stays text.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify";

}  // namespace

const PageFile* find_page_file(std::string_view path) {
  for (const PageFile& file : page_files()) {
    if (file.path == path) return &file;
  }
  return nullptr;
}

PageAnswer answer_page(const PageFile& file, std::string_view if_none_match, std::string_view accept_encoding) {
  PageAnswer answer{.headers = {{"content-security-policy", kPolicy},
                                {"x-content-type-options", "nosniff"},
                                {"referrer-policy", "no-referrer"},
                                {"cache-control", "no-cache"},  // the ETag is asked for every time
                                {"etag", file.etag},
                                {"vary", "Accept-Encoding"}}};
  if (if_none_match.find(file.etag) != std::string_view::npos) {
    answer.status = 304;
    return answer;
  }
  answer.headers.emplace_back("content-type", file.content_type);
  if (accept_encoding.find("gzip") != std::string_view::npos) {
    answer.headers.emplace_back("content-encoding", "gzip");
    answer.body = file.gzip;
  } else {
    answer.body = file.bytes;
  }
  return answer;
}

}  // namespace weft
