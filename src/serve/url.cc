#include "serve/url.h"

#include <algorithm>
#include <charconv>

namespace weft {
namespace {

Status fault(std::string_view text, std::string_view why) {
  return error(Code::kInvalidArgument, "'{}' is no URL: {}", text, why);
}

}  // namespace

Result<Url> Url::parse(std::string_view text) {
  std::string_view rest = text;
  if (const size_t scheme = rest.find("://"); scheme != std::string_view::npos) {
    if (rest.substr(0, scheme) == "https") {
      return error(Code::kUnimplemented, "'{}': https is not supported; use http, for instance through a local proxy",
                   text);
    }
    if (rest.substr(0, scheme) != "http") return fault(text, "the scheme must be http");
    rest.remove_prefix(scheme + 3);
  }
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (!printable) return fault(text, "it has a space, a control or a non-ASCII character");
  if (text.find_first_of("?#@") != std::string_view::npos) return fault(text, "'?', '#' and '@' are not taken");
  Url url;
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  url.path = rest.substr(slash);
  while (url.path.ends_with('/')) url.path.pop_back();
  size_t host_end = authority.find(':');
  if (authority.starts_with('[')) {
    const size_t bracket = authority.find(']');
    if (bracket == std::string_view::npos) return fault(text, "']' is missing");
    url.host = authority.substr(1, bracket - 1);
    host_end = bracket + 1;
  } else {
    url.host = authority.substr(0, host_end);
  }
  if (url.host.empty()) return fault(text, "the host is missing");
  if (host_end >= authority.size()) return url;
  const std::string_view port = authority.substr(host_end);
  const auto [end, status] = std::from_chars(port.data() + 1, port.data() + port.size(), url.port);
  if (port[0] != ':' || status != std::errc() || end != port.data() + port.size() || url.port < 1 || url.port > 65535) {
    return fault(text, "the port must be a number from 1 to 65535");
  }
  return url;
}

std::string Url::authority() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

}  // namespace weft
