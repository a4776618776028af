// From paths to handlers, with what every request meets: keys, CORS, request ids, the access log, 404 and 405.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "serve/api_error.h"
#include "serve/http_server.h"
#include "serve/metrics.h"

namespace weft {

struct RouterOptions {
  std::vector<std::string> api_keys;      // none: everybody is let in
  std::vector<std::string> cors_origins;  // "*" or origins; none: no CORS headers
  bool access_log = true;
};

// A request on its way through a handler.
struct Call {
  HttpRequest request;
  std::string id;    // x-request-id, the client's or a new one
  std::string tail;  // of the path behind a route that ends with '*', percent-decoded
};
using RouteHandler = std::function<void(Call, std::shared_ptr<HttpReply>)>;

enum class Access { kKey, kOpen };  // whether a route asks for the API key

class Router final : public HttpHandler {
 public:
  explicit Router(RouterOptions options) : options_(std::move(options)) {}

  // `path` may end with '*': then it matches whatever begins like it. GET routes answer HEAD, too. Call before the
  // server runs. Handlers run on the I/O thread.
  void add(const std::string& method, const std::string& path, Access access, RouteHandler handler);
  // A fixed page at `path`.
  void add_static(const std::string& path, const std::string& content_type, std::string body,
                  Access access = Access::kOpen);
  void set_metrics(Metrics* metrics) { metrics_ = metrics; }

  std::optional<HttpResponse> refuse(const HttpRequest& head) override;
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override;
  HttpResponse malformed(int status, std::string_view why) override;

 private:
  struct Route {
    std::string method, path;
    Access access;
    RouteHandler handler;
    bool matches(const std::string& method, const std::string& path) const;
    bool matches_path(const std::string& path) const;
  };
  const Route* find(const HttpRequest& request) const;
  bool has_key(const HttpRequest& request) const;
  void add_cors(const HttpRequest& request, HttpHeaders* headers) const;
  void log(const HttpRequest& request, const std::string& id, int status, size_t bytes, bool complete) const;

  const RouterOptions options_;
  Metrics* metrics_ = nullptr;
  std::vector<Route> routes_;
};

HttpResponse json_response(const Json& body, int status = 200);
HttpResponse error_response(const ApiError& fault);

}  // namespace weft
