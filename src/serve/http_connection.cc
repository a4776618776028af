#include "serve/http_connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <vector>

namespace weft {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;
constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);

constexpr int kSendBuffer = 128 << 10;  // in the kernel: a slow reader must show here, not after megabytes
constexpr auto kLinger = std::chrono::seconds(2);

}  // namespace

HttpConnection::HttpConnection(tcp::socket socket, const HttpOptions& options, HttpHandler& handler,
                               const bool& draining)
    : options_(options),
      handler_(handler),
      draining_(draining),
      socket_(std::move(socket)),
      buffer_(options.max_header_bytes + (64 << 10)) {
  ErrorCode ignored;
  const auto peer = socket_.remote_endpoint(ignored);
  client_ = fmt::format("{}:{}", peer.address().to_string(ignored), peer.port());
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(tcp::socket::send_buffer_size(kSendBuffer), ignored);
  ::fcntl(socket_.native_handle(), F_SETFD, FD_CLOEXEC);
}

void HttpConnection::expire_if_due(Clock::time_point now) {
  if (now < deadline_ || timed_out_) return;
  timed_out_ = true;
  ErrorCode ignored;
  socket_.cancel(ignored);
}

void HttpConnection::close() {
  ErrorCode ignored;
  socket_.close(ignored);
}

size_t HttpConnection::send_now(std::string_view bytes) {
  const ssize_t taken = ::send(socket_.native_handle(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return size_t(std::max<ssize_t>(taken, 0));
}

// The peer must not take what came for all there is.
void HttpConnection::reset() {
  ErrorCode ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

// While an answer is made its coroutine waits here alone: what reading a request took is free again by then.
awaitable<void> HttpConnection::run() {
  const auto self = shared_from_this();
  for (bool again = true; again;) {
    if (!co_await wait_for_first_byte()) break;
    {
      std::unique_ptr<Incoming> incoming = co_await receive();
      if (!incoming) break;
      begin(std::move(incoming));
    }
    const bool complete = co_await send_all();
    again = complete && exchange_->keep_alive() && !draining_;
    ErrorCode ignored;
    socket_.cancel(ignored);  // watch_client()
    std::exchange(exchange_, {})->close(complete);
    if (complete && linger_) co_await linger();
  }
  close();
}

awaitable<bool> HttpConnection::wait_for_first_byte() {
  if (buffer_.size() > 0) co_return true;
  idle_ = true;
  expect_within(options_.idle_timeout);
  auto [fault] = co_await socket_.async_wait(tcp::socket::wait_read, kNoThrow);
  idle_ = false;
  co_return !fault;
}

// Null if nobody is there any more.
std::unique_ptr<HttpConnection::Incoming> HttpConnection::refuse_fault(const ErrorCode& fault, std::string_view part,
                                                                       std::unique_ptr<Incoming> incoming) const {
  const int status = timed_out_ ? 408 : status_of(fault);
  if (status == 0) return {};
  const std::string why = status == 408   ? fmt::format("the {} did not come in time", part)
                          : status == 413 ? fmt::format("the body exceeds {} bytes", options_.max_body_bytes)
                                          : fault.message();
  incoming->form.keep_alive = false;
  incoming->refusal = handler_.malformed(status, why);
  incoming->body_unread = true;
  return incoming;
}

awaitable<std::unique_ptr<HttpConnection::Incoming>> HttpConnection::receive() {
  auto incoming = std::make_unique<Incoming>();
  HttpParser parser;
  parser.header_limit(std::uint32_t(options_.max_header_bytes));
  parser.body_limit(options_.max_body_bytes);
  expect_within(options_.header_timeout);
  {
    auto [fault, bytes] = co_await http::async_read_header(socket_, buffer_, parser, kNoThrow);
    if (fault) co_return refuse_fault(fault, "headers", std::move(incoming));
  }
  incoming->form = {.http_1_1 = parser.get().version() == 11,
                    .keep_alive = parser.get().keep_alive() && !draining_,
                    .head_only = parser.get().method() == http::verb::head};
  if (const auto bad = check_head(parser)) {
    incoming->form.keep_alive = false;
    incoming->refusal = handler_.malformed(bad->status, bad->why);
    incoming->body_unread = true;
    co_return incoming;
  }
  incoming->request = take_head(parser, client_);
  if ((incoming->refusal = handler_.refuse(incoming->request))) {
    incoming->body_unread = !parser.is_done();
    incoming->form.keep_alive = incoming->form.keep_alive && !incoming->body_unread;
    co_return incoming;
  }
  if (!parser.is_done()) {
    if (!incoming->request.header("expect").empty()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      auto [fault, bytes] = co_await asio::async_write(socket_, asio::buffer(kContinue), kNoThrow);
      if (fault) co_return nullptr;
    }
    expect_within(options_.body_timeout);
    auto [fault, bytes] = co_await http::async_read(socket_, buffer_, parser, kNoThrow);
    if (fault) co_return refuse_fault(fault, "body", std::move(incoming));
  }
  incoming->request.body = std::move(parser.get().body());
  if (buffer_.size() == 0) buffer_.shrink_to_fit();
  co_return incoming;
}

void HttpConnection::begin(std::unique_ptr<Incoming> incoming) {
  expect_never();
  exchange_ = std::make_shared<HttpExchange>(socket_.get_executor(), *this, incoming->form, options_.max_unsent_bytes);
  if (incoming->refusal) {
    linger_ = incoming->body_unread;
    return exchange_->respond(std::move(*incoming->refusal));
  }
  linger_ = !incoming->form.keep_alive;
  watch_client();
  handler_.handle(std::move(incoming->request), exchange_);
}

// Ends the answer when the peer has closed its side. Looks no more if it sent more (a pipelined request).
void HttpConnection::watch_client() {
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this(), exchange = exchange_](ErrorCode fault) {
    if (fault || !exchange->open()) return;
    char next;
    const ssize_t seen = ::recv(self->socket_.native_handle(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen > 0 || (seen < 0 && errno == EAGAIN)) return;
    exchange->leave();
    self->close();
  });
}

// Whether all of the answer was sent before the client left.
awaitable<bool> HttpConnection::send_all() {
  HttpExchange& exchange = *exchange_;
  for (;;) {
    if (exchange.broken()) co_return false;
    if (exchange.has_unsent()) {
      const std::string sending = exchange.take();
      for (size_t sent = 0; sent < sending.size() && !exchange.broken();) {
        expect_within(options_.write_timeout);
        auto [fault, bytes] = co_await socket_.async_write_some(asio::buffer(sending) + sent, kNoThrow);
        if (fault) co_return false;
        sent += bytes;
        exchange.count_sent(bytes);
      }
    } else if (exchange.ended()) {
      co_return true;
    } else {
      expect_never();
      exchange.changed().expires_at(asio::steady_timer::time_point::max());
      co_await exchange.changed().async_wait(kNoThrow);
    }
  }
}

// Ends our side and reads on for a while: closing with unread bytes would reset the connection, and the client might
// lose the answer.
awaitable<void> HttpConnection::linger() {
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  expect_within(kLinger);
  std::vector<char> waste(16 << 10);
  for (;;) {
    auto [fault, bytes] = co_await socket_.async_read_some(asio::buffer(waste), kNoThrow);
    if (fault || bytes == 0) break;
  }
}

}  // namespace weft
