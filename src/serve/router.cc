#include "serve/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "serve/access_log.h"

namespace weft {
namespace {

// Takes the same time wherever the texts differ; only the length of `given` shows.
bool equal_in_constant_time(std::string_view given, std::string_view key) {
  size_t different = given.size() ^ key.size();
  for (size_t i = 0; i < given.size(); ++i) different |= size_t(given[i] ^ key[key.empty() ? 0 : i % key.size()]);
  return different == 0;
}

// What the client names its request, if it is fit for headers and logs; else a new id.
std::string request_id(const HttpRequest& request) {
  const std::string_view sent = request.header("x-request-id");
  const bool fit = !sent.empty() && sent.size() <= 128 &&
                   std::all_of(sent.begin(), sent.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (fit) return std::string(sent);
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{:016x}{:016x}", random(), random());
}

std::string percent_decoded(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && std::isxdigit(text[i + 1]) && std::isxdigit(text[i + 2])) {
      plain += char(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

}  // namespace

HttpResponse json_response(const Json& body, int status) {
  return {.status = status, .headers = {{"content-type", "application/json"}}, .body = dump_json(body)};
}

HttpResponse error_response(const ApiError& fault) {
  HttpResponse response = json_response(fault.body(), fault.status);
  if (fault.retry_after_s > 0) response.headers.emplace_back("retry-after", std::to_string(fault.retry_after_s));
  return response;
}

bool Router::Route::matches_path(const std::string& asked) const {
  if (!path.ends_with('*')) return asked == path;
  return asked.size() >= path.size() && asked.starts_with(std::string_view(path).substr(0, path.size() - 1));
}

bool Router::Route::matches(const std::string& asked_method, const std::string& asked) const {
  return (method == asked_method || (method == "GET" && asked_method == "HEAD")) && matches_path(asked);
}

void Router::add(const std::string& method, const std::string& path, Access access, RouteHandler handler) {
  routes_.push_back({method, path, access, std::move(handler)});
}

void Router::add_static(const std::string& path, const std::string& content_type, std::string body, Access access) {
  add("GET", path, access,
      [content_type, body = std::move(body)](const Call&, const std::shared_ptr<HttpReply>& reply) {
        reply->respond({.headers = {{"content-type", content_type}}, .body = body});
      });
}

const Router::Route* Router::find(const HttpRequest& request) const {
  for (const Route& route : routes_) {
    if (route.matches(request.method, request.path)) return &route;
  }
  return nullptr;
}

bool Router::has_key(const HttpRequest& request) const {
  std::string_view given = request.header("authorization");
  static constexpr std::string_view kScheme = "bearer ";
  const bool bearer = given.size() > kScheme.size() &&
                      std::equal(kScheme.begin(), kScheme.end(), given.begin(),
                                 [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
  given = bearer ? given.substr(kScheme.size()) : std::string_view();
  bool found = false;
  for (const std::string& key : options_.api_keys) found |= equal_in_constant_time(given, key);
  return found && bearer;
}

void Router::add_cors(const HttpRequest& request, HttpHeaders* headers) const {
  const std::string origin(request.header("origin"));
  if (origin.empty()) return;
  for (const std::string& allowed : options_.cors_origins) {
    if (allowed != "*" && allowed != origin) continue;
    headers->emplace_back("access-control-allow-origin", allowed);
    if (allowed != "*") headers->emplace_back("vary", "Origin");
    headers->emplace_back("access-control-expose-headers", "x-request-id, retry-after");
    return;
  }
}

std::optional<HttpResponse> Router::refuse(const HttpRequest& head) {
  auto answer = [&](HttpResponse response) {
    const std::string id = request_id(head);
    response.headers.emplace_back("x-request-id", id);
    add_cors(head, &response.headers);
    log(head, id, response.status, response.body.size(), true);
    return response;
  };
  const Route* route = find(head);
  if (!route) {
    std::string allow;
    for (const Route& each : routes_) {
      if (!each.matches_path(head.path)) continue;
      allow += (allow.empty() ? "" : ", ") + each.method + (each.method == "GET" ? ", HEAD" : "");
    }
    if (allow.empty()) {
      return answer(error_response({.status = 404,
                                    .message = fmt::format("Invalid URL ({} {})", head.method, head.path),
                                    .code = "unknown_url"}));
    }
    if (head.method == "OPTIONS" && !options_.cors_origins.empty()) {
      HttpResponse response{.status = 204,
                            .headers = {{"access-control-allow-methods", allow + ", OPTIONS"},
                                        {"access-control-allow-headers", "*, Authorization"},
                                        {"access-control-max-age", "600"}}};
      return answer(std::move(response));
    }
    HttpResponse response =
        error_response({.status = 405,
                        .message = fmt::format("Not allowed to {} on {}: it takes {}.", head.method, head.path, allow),
                        .code = "method_not_allowed"});
    response.headers.emplace_back("allow", allow);
    return answer(std::move(response));
  }
  if (route->access == Access::kKey && !options_.api_keys.empty() && !has_key(head)) {
    const bool given = !head.header("authorization").empty();
    HttpResponse response = error_response({.status = 401,
                                            .message = given ? "Incorrect API key provided."
                                                             : "You didn't provide an API key: send it in an "
                                                               "Authorization header, as 'Bearer KEY'.",
                                            .code = "invalid_api_key"});
    response.headers.emplace_back("www-authenticate", "Bearer");
    return answer(std::move(response));
  }
  return {};
}

void Router::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  const Route* route = find(request);
  Call call{.request = std::move(request), .id = {}, .tail = {}};
  call.id = request_id(call.request);
  if (route->path.ends_with('*')) call.tail = percent_decoded(call.request.path.substr(route->path.size() - 1));
  reply->common_headers.emplace_back("x-request-id", call.id);
  add_cors(call.request, &reply->common_headers);
  HttpRequest logged;  // what the log says, and no more: it is kept as long as a stream lasts
  logged.method = call.request.method;
  logged.path = call.request.path;
  logged.client = call.request.client;
  logged.start = call.request.start;
  reply->on_logged = [this, logged = std::move(logged), id = call.id](int status, size_t bytes, bool complete) {
    log(logged, id, status, bytes, complete);
  };
  try {
    route->handler(std::move(call), reply);
  } catch (const std::exception& fault) {  // of a library: memory, say
    spdlog::error("a handler failed: {}", fault.what());
    reply->respond(error_response(internal_error("The request failed inside the server.")));
  }
}

HttpResponse Router::malformed(int status, std::string_view why) {
  if (metrics_) metrics_->count_http(status);
  const char* code = status == 413   ? "body_too_large"
                     : status == 431 ? "headers_too_large"
                     : status == 408 ? "request_timeout"
                                     : "malformed_request";
  return error_response({.status = status, .message = fmt::format("Malformed HTTP request: {}.", why), .code = code});
}

void Router::log(const HttpRequest& request, const std::string& id, int status, size_t bytes, bool complete) const {
  if (metrics_) metrics_->count_http(status);
  if (!options_.access_log || (request.path == "/stats" && status == 200)) return;  // the page asks every second
  log_access({.client = request.client,
              .method = request.method,
              .path = request.path,
              .request_id = id,
              .status = status,
              .bytes = bytes,
              .seconds = seconds_since(request.start),
              .complete = complete});
}

}  // namespace weft
