// An HTTP/1.1 server on one thread: thousands of connections, bounded memory for each, answers that may be streams.
// It knows nothing of what is served: an HttpHandler decides.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "base/types.h"

namespace weft {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;   // "GET"
  std::string path;     // "/v1/models", as sent: not percent-decoded
  std::string query;    // what follows '?'
  HttpHeaders headers;  // names in lower case
  std::string body;
  std::string client;  // address and port of the peer
  Clock::time_point start;

  // The first header of this lower-case name; empty where there is none.
  std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers = {};
  std::string body = {};
};

// The way back to one client. I/O thread only. Calls after the end, or after the client left, have no effect.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  // The whole answer at once.
  virtual void respond(HttpResponse response) = 0;
  // Starts an answer of unknown length; write() adds to it and end() finishes it.
  virtual void start_stream(HttpHeaders headers) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end() = 0;
  // Breaks the connection: the client sees that the answer is not complete.
  virtual void cut() = 0;
  // Bytes of this answer that the socket did not take yet. A stream's writer should hold back and coalesce while there
  // are some; on_drained is called when none are left.
  virtual size_t unsent() const = 0;
  virtual int status() const = 0;  // sent, or 0
  virtual bool open() const = 0;   // the client is there, as far as known
  virtual size_t bytes_sent() const = 0;

  HttpHeaders common_headers;  // added to whatever is answered
  std::function<void()> on_drained;
  // Called once, when the answer has ended: true if all of it was handed to the socket, false if the client left, was
  // too slow, or the connection was cut.
  std::function<void(bool complete)> on_end;
  // The same for whoever keeps the books: the status sent (0: none) and the bytes that the socket took.
  std::function<void(int status, size_t bytes, bool complete)> on_logged;
};

// Called on the I/O thread; must not block or throw.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // After the headers, before the body: an answer for what will not be served, or nothing.
  virtual std::optional<HttpResponse> refuse(const HttpRequest& head) = 0;
  // Answers now or later through `reply`.
  virtual void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) = 0;
  // The body of an answer to bytes that are no request (400, 408, 413, 431, 505 ...).
  virtual HttpResponse malformed(int status, std::string_view why) = 0;
};

struct HttpOptions {
  std::string host = "127.0.0.1";  // address or name
  int port = 8000;                 // 0: any free one
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 8 << 20;
  size_t max_unsent_bytes = 256 << 10;  // of a stream: a client this far behind is cut off
  size_t max_connections = 10000;
  std::chrono::milliseconds header_timeout{10000};  // for all headers
  std::chrono::milliseconds body_timeout{60000};    // for the whole body
  std::chrono::milliseconds idle_timeout{75000};    // between requests of one connection
  std::chrono::milliseconds write_timeout{30000};   // without the client taking a byte
};

class HttpServer {
 public:
  // Listens. `handler` must outlive the server. Errors: kInvalidArgument for a host that does not resolve, kUnavailable
  // for a port that is taken; both name it.
  static Result<std::unique_ptr<HttpServer>> create(const HttpOptions& options, HttpHandler& handler);
  virtual ~HttpServer() = default;
  virtual int port() const = 0;
  // Serves on the calling thread, the I/O thread from now on, until stop().
  virtual void run() = 0;
  // From any thread: runs `work` on the I/O thread.
  virtual void post(std::function<void()> work) = 0;
  // I/O thread: runs `work` after `wait`.
  virtual void after(std::chrono::milliseconds wait, std::function<void()> work) = 0;
  // I/O thread: takes no more connections, and closes each one after the answer it waits for.
  virtual void drain() = 0;
  virtual size_t num_connections() const = 0;
  // I/O thread: run() returns; connections are cut.
  virtual void stop() = 0;
};

// The Date header's value now; made once a second for each thread.
std::string http_date();
// "Not Found" and the like.
std::string_view http_reason(int status);

}  // namespace weft
