// One connection of the HTTP server: reads requests, sends answers. I/O thread.
#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <memory>
#include <string>

#include "serve/http_exchange.h"
#include "serve/http_head.h"

namespace weft {

class HttpConnection final : public HttpLink, public std::enable_shared_from_this<HttpConnection> {
 public:
  // All must outlive it. `draining`: whether each connection is to end after the answer it waits for.
  HttpConnection(boost::asio::ip::tcp::socket socket, const HttpOptions& options, HttpHandler& handler,
                 const bool& draining);

  // Until the connection has ended.
  boost::asio::awaitable<void> run();
  // Ends whatever it waits for.
  void expire_if_due(Clock::time_point now);
  // Closes now if no request is being read or answered.
  void drain() {
    if (idle_) close();
  }
  void close();
  std::shared_ptr<HttpExchange> exchange() const { return exchange_; }

  size_t send_now(std::string_view bytes) override;
  void reset() override;

 private:
  // A request, or what to answer instead.
  struct Incoming {
    HttpRequest request;
    HttpExchange::Form form;
    std::optional<HttpResponse> refusal;
    bool body_unread = false;
  };
  void expect_within(std::chrono::milliseconds wait) {
    deadline_ = Clock::now() + wait;
    timed_out_ = false;
  }
  void expect_never() { deadline_ = Clock::time_point::max(); }

  boost::asio::awaitable<bool> wait_for_first_byte();
  boost::asio::awaitable<std::unique_ptr<Incoming>> receive();
  std::unique_ptr<Incoming> refuse_fault(const boost::system::error_code& fault, std::string_view part,
                                         std::unique_ptr<Incoming> incoming) const;
  void begin(std::unique_ptr<Incoming> incoming);
  void watch_client();
  boost::asio::awaitable<bool> send_all();
  boost::asio::awaitable<void> linger();

  const HttpOptions& options_;
  HttpHandler& handler_;
  const bool& draining_;
  boost::asio::ip::tcp::socket socket_;
  std::string client_;
  boost::beast::flat_buffer buffer_;
  std::shared_ptr<HttpExchange> exchange_;  // while a request is answered
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timed_out_ = false;
  bool idle_ = true;     // between requests
  bool linger_ = false;  // bytes of the client may be unread when its answer is complete
};

}  // namespace weft
