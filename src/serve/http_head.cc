#include "serve/http_head.h"

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/beast/core/string.hpp>

namespace weft {

namespace beast = boost::beast;
namespace http = beast::http;

std::optional<HttpRefusal> check_head(const HttpParser& parser) {
  const auto& head = parser.get();
  if (head.version() != 10 && head.version() != 11) return HttpRefusal{505, "HTTP/1.1 is spoken here"};
  if (head.version() == 11 && head.count(http::field::host) != 1) {
    return HttpRefusal{400, "expected exactly one Host header"};
  }
  if (const size_t count = head.count(http::field::content_length)) {
    const auto length = head[http::field::content_length];
    const bool digits = std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (count > 1 || !digits) return HttpRefusal{400, "Content-Length: expected one number, once"};
  }
  if (const size_t count = head.count(http::field::transfer_encoding)) {
    if (count > 1 || head.version() == 10 || head.count(http::field::content_length) ||
        !beast::iequals(head[http::field::transfer_encoding], "chunked")) {
      return HttpRefusal{400, "Transfer-Encoding: only 'chunked', once, without Content-Length, is accepted"};
    }
  }
  if (head.target().empty() || (head.target()[0] != '/' && head.target() != "*")) {
    return HttpRefusal{400, "the request target must begin with '/'"};
  }
  if (head.count(http::field::expect) && !beast::iequals(head[http::field::expect], "100-continue")) {
    return HttpRefusal{417, "the only expectation known here is 100-continue"};
  }
  return {};
}

HttpRequest take_head(const HttpParser& parser, const std::string& client) {
  HttpRequest request;
  const auto& head = parser.get();
  request.method = std::string(head.method_string());
  const std::string_view target(head.target().data(), head.target().size());
  request.path = target.substr(0, target.find('?'));
  if (request.path.size() < target.size()) request.query = target.substr(request.path.size() + 1);
  for (const auto& field : head) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  request.client = client;
  request.start = Clock::now();
  return request;
}

int status_of(const boost::system::error_code& fault) {
  if (fault == http::error::body_limit) return 413;
  if (fault == http::error::header_limit || fault == http::error::buffer_overflow) return 431;
  if (fault == http::error::bad_version) return 505;
  if (fault == http::error::end_of_stream || fault == boost::asio::error::eof ||
      fault == http::error::partial_message) {
    return 0;  // nobody is there to be told
  }
  return fault.category() == make_error_code(http::error::bad_target).category() ? 400 : 0;
}

}  // namespace weft
