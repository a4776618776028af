// Heads of HTTP requests as Beast parses them, checked further and turned into an HttpRequest.
#pragma once
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <string>

#include "serve/http_server.h"

namespace weft {

using HttpParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

struct HttpRefusal {
  int status;
  std::string why;
};

// The refusal of a head that the parser lets pass but that proxies read in different ways.
std::optional<HttpRefusal> check_head(const HttpParser& parser);
// All but the body.
HttpRequest take_head(const HttpParser& parser, const std::string& client);
// The status that answers a fault of reading a request; 0 where nobody is there to be told.
int status_of(const boost::system::error_code& fault);

}  // namespace weft
