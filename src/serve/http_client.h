// An HTTP/1.1 client on one thread: thousands of exchanges at once with one server, answers as they arrive.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "serve/url.h"

namespace weft {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One request and what is called, on the client's thread, as its answer arrives. Callbacks may start and cancel
// exchanges; they must not throw.
struct HttpCall {
  std::string method = "GET";
  std::string path = {};     // below the server's URL, for instance "/v1/models"
  HttpHeaders headers = {};  // besides Host, Content-Length and User-Agent
  std::string body = {};
  std::chrono::milliseconds timeout{30000};  // longest wait for the connection, for taking the request, and for the
                                             // next bytes of the answer
  // Names in lower case.
  std::function<void(int status, const HttpHeaders& headers)> on_head = [](int, const HttpHeaders&) {};
  // Bytes of the body, decoded from chunks, as the network delivers them; false breaks the exchange off.
  std::function<bool(std::string_view bytes)> on_body = [](std::string_view) { return true; };
  // Called exactly once, last. Ok: the whole answer came, whatever its status. Errors name the URL: kUnavailable (no
  // connection, or it broke), kDeadlineExceeded, kDataLoss (no HTTP), kAborted (cancel(), on_body or stop()).
  std::function<void(Status)> on_end = [](const Status&) {};
};

// Not thread-safe: everything happens on the thread that calls run(). Connections are kept and used again.
class HttpClient {
 public:
  // Resolves the host's name. Errors: kNotFound.
  static Result<std::unique_ptr<HttpClient>> create(const Url& server);
  virtual ~HttpClient() = default;
  virtual const Url& server() const = 0;
  // Starts an exchange; its callbacks come from run(). The id is for cancel().
  virtual u64 start(HttpCall exchange) = 0;
  // Ends an exchange with kAborted, from run(); no effect on one that has ended.
  virtual void cancel(u64 id) = 0;
  // Runs `work` from run() after `wait`.
  virtual void after(std::chrono::nanoseconds wait, std::function<void()> work) = 0;
  // Returns when no exchange and no timer is left, or after stop(); may be called again.
  virtual void run() = 0;
  // From a callback: cancels all exchanges and drops all timers.
  virtual void stop() = 0;
};

struct HttpAnswer {
  int status = 0;
  HttpHeaders headers;  // names in lower case
  std::string body;
};

// One exchange to its end; `exchange` needs no callbacks. Errors: as on_end, and kResourceExhausted for a body above
// 64 MiB.
Result<HttpAnswer> fetch(HttpClient& client, HttpCall exchange);

}  // namespace weft
