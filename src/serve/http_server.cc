#include "serve/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <unordered_set>

#include "base/file.h"
#include "base/log.h"

namespace weft {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::awaitable;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;
constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);

constexpr int kSendBuffer = 128 << 10;  // in the kernel: a slow reader must show here, not after megabytes
constexpr auto kLinger = std::chrono::seconds(2);
constexpr auto kSweep = std::chrono::milliseconds(100);

// One request's answer on its way. Owned by the connection and by whoever answers.
class Exchange final : public HttpReply {
 public:
  struct Form {
    bool http_1_1 = true;
    bool keep_alive = true;
    bool head_only = false;
  };
  Exchange(const asio::any_io_executor& executor, Form form, size_t max_unsent)
      : form_(form), max_unsent_(max_unsent), changed_(executor, asio::steady_timer::time_point::max()) {}

  void respond(HttpResponse response) override {
    if (status_ || closed_) return;
    const bool bodyless = response.status == 204 || response.status == 304;
    start(response.status, response.headers);
    if (!bodyless) out_ += fmt::format("content-length: {}\r\n", response.body.size());
    out_ += "\r\n";
    if (!form_.head_only && !bodyless) out_ += response.body;
    finish();
  }
  void start_stream(HttpHeaders headers) override {
    if (status_ || closed_) return;
    if (!form_.http_1_1) form_.keep_alive = false;  // the end of the connection is the end of the answer
    start(200, headers);
    out_ += form_.http_1_1 ? "transfer-encoding: chunked\r\n\r\n" : "\r\n";
    streams_ = true;
    wake();
  }
  void write(std::string_view bytes) override {
    if (!streams_ || ended_ || closed_ || bytes.empty()) return;
    if (form_.http_1_1) {
      fmt::format_to(std::back_inserter(out_), "{:x}\r\n{}\r\n", bytes.size(), bytes);
    } else {
      out_ += bytes;
    }
    if (unsent() > max_unsent_) return cut();
    wake();
  }
  void end() override {
    if (!streams_ || ended_ || closed_) return;
    if (form_.http_1_1) out_ += "0\r\n\r\n";
    finish();
  }
  void cut() override {
    if (std::exchange(cut_, true)) return;
    if (abort_connection) abort_connection();
    wake();
  }
  size_t unsent() const override { return out_.size() + in_flight_; }
  int status() const override { return status_; }
  bool open() const override { return !closed_; }
  size_t bytes_sent() const override { return sent_; }

  bool keep_alive() const { return form_.keep_alive; }
  std::function<void()> abort_connection;  // ends a write that waits for a slow client
  // The connection is done with it.
  void close(bool complete) {
    if (std::exchange(closed_, true)) return;
    on_drained = nullptr;
    abort_connection = nullptr;
    if (const auto notify = std::exchange(on_end, nullptr)) notify(complete);
    if (const auto notify = std::exchange(on_logged, nullptr)) notify(status_, sent_, complete);
  }

 private:
  friend class Connection;
  void start(int status, const HttpHeaders& headers) {
    status_ = status;
    out_ += fmt::format("HTTP/1.1 {} {}\r\ndate: {}\r\n", status, http_reason(status), http_date());
    for (const auto* list : {&headers, &std::as_const(common_headers)}) {
      for (const auto& [name, value] : *list) out_ += fmt::format("{}: {}\r\n", name, value);
    }
    if (!form_.keep_alive)
      out_ += "connection: close\r\n";
    else if (!form_.http_1_1)
      out_ += "connection: keep-alive\r\n";
  }
  void finish() {
    ended_ = true;
    wake();
  }
  void wake() { changed_.cancel(); }

  Form form_;
  const size_t max_unsent_;
  asio::steady_timer changed_;  // never expires; cancelled when there is something to do
  std::string out_;
  size_t in_flight_ = 0, sent_ = 0;
  int status_ = 0;
  bool streams_ = false, ended_ = false, cut_ = false, closed_ = false;
};

class Server;

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Server& server, tcp::socket socket);
  awaitable<void> run();
  // Ends whatever it waits for.
  void expire_if_due(Clock::time_point now) {
    if (now < deadline_ || timed_out_) return;
    timed_out_ = true;
    socket_.cancel();
  }
  // Closes now if no request is being read or answered.
  void drain() {
    if (idle_) close();
  }
  void close() {
    ErrorCode ignored;
    socket_.close(ignored);
  }
  std::shared_ptr<Exchange> exchange() const { return exchange_; }

 private:
  using Parser = http::request_parser<http::string_body>;
  struct Refusal {
    int status;
    std::string why;
  };
  void expect_within(std::chrono::milliseconds wait) {
    deadline_ = Clock::now() + wait;
    timed_out_ = false;
  }
  void expect_never() { deadline_ = Clock::time_point::max(); }

  awaitable<bool> serve_one();
  awaitable<bool> wait_for_first_byte();
  std::optional<Refusal> check_head(const Parser& parser) const;
  HttpRequest take_head(const Parser& parser) const;
  awaitable<bool> refuse(HttpResponse response, Exchange::Form form, bool body_unread);
  awaitable<bool> answer(Exchange& exchange);
  awaitable<bool> send_all(Exchange& exchange);
  awaitable<void> until_client_leaves();
  awaitable<void> linger();
  int status_of(ErrorCode fault) const;

  Server& server_;
  tcp::socket socket_;
  std::string client_;
  beast::flat_buffer buffer_;
  std::shared_ptr<Exchange> exchange_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timed_out_ = false;
  bool idle_ = true;  // between requests
};

class Server final : public HttpServer {
 public:
  Server(const HttpOptions& options, HttpHandler& handler) : options_(options), handler_(handler), acceptor_(io_) {}

  Status listen() {
    ErrorCode fault;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, fault);
    if (fault || found.empty()) {
      return error(Code::kInvalidArgument, "--host {}: {}", options_.host, fault.message());
    }
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), fault);
    if (!fault) acceptor_.set_option(tcp::acceptor::reuse_address(true), fault);
    if (!fault) acceptor_.bind(endpoint, fault);
    if (!fault) acceptor_.listen(4096, fault);
    if (fault) {
      return error(Code::kUnavailable, "cannot listen on {} port {}: {}", options_.host, options_.port,
                   fault.message());
    }
    ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    port_ = acceptor_.local_endpoint().port();
    return {};
  }

  int port() const override { return port_; }
  void run() override {
    asio::co_spawn(io_, accept(), asio::detached);
    asio::co_spawn(io_, sweep(), asio::detached);
    while (!io_.stopped()) {
      try {
        io_.run();
      } catch (const std::exception& fault) {  // memory, say: of one connection, whose coroutine is gone
        spdlog::error("a connection failed: {}", fault.what());
      }
    }
    for (const auto& connection : std::vector(connections_.begin(), connections_.end())) {
      if (const auto exchange = connection->exchange()) exchange->close(false);
    }
  }
  void post(std::function<void()> work) override { asio::post(io_, std::move(work)); }
  void after(std::chrono::milliseconds wait, std::function<void()> work) override {
    auto timer = std::make_shared<asio::steady_timer>(io_, wait);
    timer->async_wait([timer, work = std::move(work)](ErrorCode fault) {
      if (!fault) work();
    });
  }
  void drain() override {
    draining_ = true;
    ErrorCode ignored;
    acceptor_.close(ignored);
    for (const auto& connection : std::vector(connections_.begin(), connections_.end())) connection->drain();
  }
  void stop() override { io_.stop(); }
  size_t num_connections() const override { return connections_.size(); }

  const HttpOptions& options() const { return options_; }
  HttpHandler& handler() { return handler_; }
  bool draining() const { return draining_; }

 private:
  awaitable<void> accept() {
    asio::steady_timer pause(io_);
    while (acceptor_.is_open()) {
      auto [fault, socket] = co_await acceptor_.async_accept(kNoThrow);
      if (fault == asio::error::operation_aborted) break;
      if (fault) {  // no descriptors, say: those of others come back
        pause.expires_after(kSweep);
        co_await pause.async_wait(kNoThrow);
        continue;
      }
      if (connections_.size() >= options_.max_connections) continue;  // closes it
      auto connection = std::make_shared<Connection>(*this, std::move(socket));
      connections_.insert(connection);
      asio::co_spawn(io_, connection->run(), [this, connection](const std::exception_ptr& fault) {
        if (fault) connection->close();
        if (const auto exchange = connection->exchange()) exchange->close(false);
        connections_.erase(connection);
        if (fault) std::rethrow_exception(fault);
      });
    }
  }
  awaitable<void> sweep() {
    asio::steady_timer timer(io_);
    for (;;) {
      timer.expires_after(kSweep);
      co_await timer.async_wait(kNoThrow);
      const auto now = Clock::now();
      for (const auto& connection : connections_) connection->expire_if_due(now);
    }
  }

  const HttpOptions options_;
  HttpHandler& handler_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  int port_ = 0;
  bool draining_ = false;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
};

Connection::Connection(Server& server, tcp::socket socket)
    : server_(server), socket_(std::move(socket)), buffer_(server.options().max_header_bytes + (64 << 10)) {
  ErrorCode ignored;
  const auto peer = socket_.remote_endpoint(ignored);
  client_ = fmt::format("{}:{}", peer.address().to_string(ignored), peer.port());
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(tcp::socket::send_buffer_size(kSendBuffer), ignored);
  ::fcntl(socket_.native_handle(), F_SETFD, FD_CLOEXEC);
}

awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  while (co_await serve_one() && !server_.draining()) {
  }
  close();
}

awaitable<bool> Connection::wait_for_first_byte() {
  if (buffer_.size() > 0) co_return true;
  idle_ = true;
  expect_within(server_.options().idle_timeout);
  auto [fault] = co_await socket_.async_wait(tcp::socket::wait_read, kNoThrow);
  idle_ = false;
  co_return !fault;
}

int Connection::status_of(ErrorCode fault) const {
  if (timed_out_) return 408;
  if (fault == http::error::body_limit) return 413;
  if (fault == http::error::header_limit || fault == http::error::buffer_overflow) return 431;
  if (fault == http::error::bad_version) return 505;
  if (fault == http::error::end_of_stream || fault == asio::error::eof || fault == http::error::partial_message) {
    return 0;  // nobody is there to be told
  }
  return fault.category() == make_error_code(http::error::bad_target).category() ? 400 : 0;
}

// What the parser lets pass but proxies read in different ways.
std::optional<Connection::Refusal> Connection::check_head(const Parser& parser) const {
  const auto& head = parser.get();
  if (head.version() != 10 && head.version() != 11) return Refusal{505, "HTTP/1.1 is spoken here"};
  if (head.version() == 11 && head.count(http::field::host) != 1) {
    return Refusal{400, "expected exactly one Host header"};
  }
  if (const size_t count = head.count(http::field::content_length)) {
    const auto length = head[http::field::content_length];
    const bool digits = std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (count > 1 || !digits) return Refusal{400, "Content-Length: expected one number, once"};
  }
  if (const size_t count = head.count(http::field::transfer_encoding)) {
    if (count > 1 || head.version() == 10 || head.count(http::field::content_length) ||
        !beast::iequals(head[http::field::transfer_encoding], "chunked")) {
      return Refusal{400, "Transfer-Encoding: only 'chunked', once, without Content-Length, is accepted"};
    }
  }
  if (head.target().empty() || (head.target()[0] != '/' && head.target() != "*")) {
    return Refusal{400, "the request target must begin with '/'"};
  }
  if (head.count(http::field::expect) && !beast::iequals(head[http::field::expect], "100-continue")) {
    return Refusal{417, "the only expectation known here is 100-continue"};
  }
  return {};
}

HttpRequest Connection::take_head(const Parser& parser) const {
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
  request.client = client_;
  request.start = Clock::now();
  return request;
}

// One request and its answer; whether another may follow on this connection.
awaitable<bool> Connection::serve_one() {
  const HttpOptions& options = server_.options();
  if (!co_await wait_for_first_byte()) co_return false;
  Parser parser;
  parser.header_limit(std::uint32_t(options.max_header_bytes));
  parser.body_limit(options.max_body_bytes);
  expect_within(options.header_timeout);
  {
    auto [fault, bytes] = co_await http::async_read_header(socket_, buffer_, parser, kNoThrow);
    if (fault) {
      const int status = status_of(fault);
      if (status == 0) co_return false;
      const std::string why = status == 408 ? "the headers did not come in time" : fault.message();
      co_return co_await refuse(server_.handler().malformed(status, why), {.keep_alive = false}, true);
    }
  }
  Exchange::Form form{.http_1_1 = parser.get().version() == 11,
                      .keep_alive = parser.get().keep_alive() && !server_.draining(),
                      .head_only = parser.get().method() == http::verb::head};
  if (const auto bad = check_head(parser)) {
    form.keep_alive = false;
    co_return co_await refuse(server_.handler().malformed(bad->status, bad->why), form, true);
  }
  HttpRequest request = take_head(parser);
  if (auto refused = server_.handler().refuse(request)) {
    const bool body_unread = !parser.is_done();
    form.keep_alive = form.keep_alive && !body_unread;
    co_return co_await refuse(std::move(*refused), form, body_unread);
  }
  if (!parser.is_done()) {
    if (!request.header("expect").empty()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      auto [fault, bytes] = co_await asio::async_write(socket_, asio::buffer(kContinue), kNoThrow);
      if (fault) co_return false;
    }
    expect_within(options.body_timeout);
    auto [fault, bytes] = co_await http::async_read(socket_, buffer_, parser, kNoThrow);
    if (fault) {
      const int status = status_of(fault);
      if (status == 0) co_return false;
      form.keep_alive = false;
      const std::string why = status == 408   ? "the body did not come in time"
                              : status == 413 ? fmt::format("the body exceeds {} bytes", options.max_body_bytes)
                                              : fault.message();
      co_return co_await refuse(server_.handler().malformed(status, why), form, true);
    }
  }
  expect_never();
  request.body = std::move(parser.get().body());
  exchange_ = std::make_shared<Exchange>(socket_.get_executor(), form, options.max_unsent_bytes);
  exchange_->abort_connection = [this] {
    // A reset: the peer must not take what came for all there is.
    ErrorCode ignored;
    socket_.set_option(asio::socket_base::linger(true, 0), ignored);
    close();
  };
  server_.handler().handle(std::move(request), exchange_);
  const bool complete = co_await answer(*exchange_);
  const bool again = complete && exchange_->keep_alive();
  exchange_->close(complete);
  exchange_.reset();
  if (complete && !again) co_await linger();
  co_return again;
}

awaitable<bool> Connection::refuse(HttpResponse response, Exchange::Form form, bool body_unread) {
  auto exchange = std::make_shared<Exchange>(socket_.get_executor(), form, server_.options().max_unsent_bytes);
  exchange->respond(std::move(response));
  const bool complete = co_await send_all(*exchange);
  if (complete && body_unread) co_await linger();
  co_return complete && exchange->keep_alive();
}

// Ends our side and reads on for a while: closing with unread bytes would reset the connection, and the client might
// lose the answer.
awaitable<void> Connection::linger() {
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  expect_within(kLinger);
  std::vector<char> waste(16 << 10);
  for (;;) {
    auto [fault, bytes] = co_await socket_.async_read_some(asio::buffer(waste), kNoThrow);
    if (fault || bytes == 0) break;
  }
}

// Whether all of the answer was sent before the client left.
awaitable<bool> Connection::answer(Exchange& exchange) {
  using namespace asio::experimental::awaitable_operators;
  const auto first = co_await (send_all(exchange) || until_client_leaves());
  co_return first.index() == 0 && std::get<0>(first);
}

awaitable<bool> Connection::send_all(Exchange& exchange) {
  std::string sending;
  for (;;) {
    if (exchange.cut_) co_return false;
    if (exchange.out_.empty()) {
      if (exchange.ended_) co_return true;
      exchange.changed_.expires_at(asio::steady_timer::time_point::max());
      expect_never();
      co_await exchange.changed_.async_wait(kNoThrow);
      if ((co_await asio::this_coro::cancellation_state).cancelled() != asio::cancellation_type::none) co_return false;
      continue;
    }
    sending = std::exchange(exchange.out_, {});
    exchange.in_flight_ = sending.size();
    while (exchange.in_flight_ > 0 && !exchange.cut_) {
      expect_within(server_.options().write_timeout);
      const auto rest = asio::buffer(sending.data() + sending.size() - exchange.in_flight_, exchange.in_flight_);
      auto [fault, bytes] = co_await socket_.async_write_some(rest, kNoThrow);
      if (fault) co_return false;
      exchange.in_flight_ -= bytes;
      exchange.sent_ += bytes;
    }
    if (exchange.out_.empty() && exchange.in_flight_ == 0 && !exchange.ended_ && exchange.on_drained) {
      const auto notify = exchange.on_drained;  // it may replace itself
      notify();
    }
  }
}

// Returns when the peer has closed its side; never if it sent more (a pipelined request).
awaitable<void> Connection::until_client_leaves() {
  auto [fault] = co_await socket_.async_wait(tcp::socket::wait_read, kNoThrow);
  char next;
  const ssize_t seen = fault ? 0 : ::recv(socket_.native_handle(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
  if (seen > 0 || (seen < 0 && errno == EAGAIN) || timed_out_) {
    asio::steady_timer never(socket_.get_executor(), asio::steady_timer::time_point::max());
    co_await never.async_wait(kNoThrow);
  }
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::create(const HttpOptions& options, HttpHandler& handler) {
  auto server = std::make_unique<Server>(options, handler);
  WEFT_TRY(server->listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace weft
