// Addresses of servers.
#pragma once
#include <string>
#include <string_view>

#include "base/status.h"

namespace weft {

struct Url {
  std::string host;  // name, IPv4 address, or IPv6 address without brackets
  int port = 80;
  std::string path;  // "" or "/v1": never ends in '/'

  // Reads http://host[:port][/path]; a URL without a scheme is taken as http. Errors: kUnimplemented for https,
  // kInvalidArgument for anything else; both quote `text`.
  static Result<Url> parse(std::string_view text);
  std::string authority() const;  // "host:port", as the Host header has it
  std::string text() const { return "http://" + authority() + path; }
};

}  // namespace weft
