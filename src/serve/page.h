// The web page's files, from web/, as they lie in the binary: `/` is index.html, all others are under `/page/`.
#pragma once
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace weft {

struct PageFile {
  std::string_view path;  // "/page/app.js"
  std::string_view content_type;
  std::string_view etag;  // W/"...", of the bytes
  std::string_view bytes;
  std::string_view gzip;  // the same, compressed
};

std::span<const PageFile> page_files();

// The file at a request's path; null where there is none.
const PageFile* find_page_file(std::string_view path);

// What answers a GET or HEAD of a file.
struct PageAnswer {
  int status = 200;                                                    // 304 where the client has it already
  std::vector<std::pair<std::string_view, std::string_view>> headers;  // names in lower case
  std::string_view body = {};
};
// `if_none_match` and `accept_encoding`: those headers of the request, or empty.
PageAnswer answer_page(const PageFile& file, std::string_view if_none_match, std::string_view accept_encoding);

}  // namespace weft
