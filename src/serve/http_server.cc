#include "serve/http_server.h"

#include <fcntl.h>

#include <boost/asio.hpp>
#include <unordered_set>

#include "base/log.h"
#include "serve/http_connection.h"

namespace weft {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;
constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr auto kSweep = std::chrono::milliseconds(100);

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
      auto connection = std::make_shared<HttpConnection>(std::move(socket), options_, handler_, draining_);
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
  std::unordered_set<std::shared_ptr<HttpConnection>> connections_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::create(const HttpOptions& options, HttpHandler& handler) {
  auto server = std::make_unique<Server>(options, handler);
  WEFT_TRY(server->listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace weft
