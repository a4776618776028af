#include "serve/http_client.h"

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <cctype>
#include <unordered_map>

namespace weft {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kReadBytes = 4096;
constexpr size_t kMaxHeadBytes = 64 << 10;

// A strand-free stream: the io_context has one thread.
using Stream = beast::basic_stream<tcp, asio::io_context::executor_type, beast::unlimited_rate_policy>;

struct Exchange {
  HttpCall call;
  u64 id = 0;
  std::unique_ptr<Stream> stream;
  bool cancelled = false;
  bool answered = false;  // a byte of the answer came: it is too late to try again
};

class BeastClient final : public HttpClient {
 public:
  BeastClient(Url server, std::vector<tcp::endpoint> endpoints)
      : server_(std::move(server)), endpoints_(std::move(endpoints)) {}
  ~BeastClient() override { drop_all(); }

  const Url& server() const override { return server_; }

  u64 start(HttpCall call) override {
    auto exchange = std::make_shared<Exchange>();
    exchange->call = std::move(call);
    exchange->id = ++last_id_;
    open_.emplace(exchange->id, exchange);
    asio::co_spawn(io_, run(exchange), asio::detached);
    return exchange->id;
  }

  void cancel(u64 id) override {
    if (const auto found = open_.find(id); found != open_.end()) break_off(*found->second);
  }

  void after(std::chrono::nanoseconds wait, std::function<void()> work) override {
    auto timer = std::make_shared<asio::steady_timer>(io_, wait);
    timers_.emplace(timer.get(), timer);
    timer->async_wait([this, timer, work = std::move(work)](error_code fault) {
      if (timers_.erase(timer.get()) > 0 && !fault) work();
    });
  }

  void run() override {
    io_.restart();
    io_.run();
  }

  void stop() override { drop_all(); }

 private:
  static void break_off(Exchange& exchange) {
    exchange.cancelled = true;
    if (exchange.stream) exchange.stream->close();
  }

  void drop_all() {
    for (auto& [id, exchange] : open_) break_off(*exchange);
    for (auto& [key, timer] : timers_) timer->cancel();
    timers_.clear();
    idle_.clear();
  }

  // kAborted, kDeadlineExceeded or kUnavailable, naming the URL.
  Status fault_of(const Exchange& exchange, const error_code& fault, std::string_view doing) const {
    const std::string url = server_.text() + exchange.call.path;
    if (exchange.cancelled) return error(Code::kAborted, "{}: cancelled while {}", url, doing);
    if (fault == beast::error::timeout) {
      return error(Code::kDeadlineExceeded, "{}: nothing happened for {} s while {}", url,
                   double(exchange.call.timeout.count()) / 1000, doing);
    }
    if (fault == asio::error::eof) {
      return error(Code::kUnavailable, "{}: the server closed the connection while {}", url, doing);
    }
    return error(Code::kUnavailable, "{}: {} while {}", url, fault.message(), doing);
  }

  asio::awaitable<void> run(std::shared_ptr<Exchange> exchange) {
    Status status;
    for (bool used_before = true; used_before;) {
      used_before = take_idle(*exchange);
      status = Status();
      if (!used_before) status = co_await connect(*exchange);  // not in a conditional expression: GCC 12 loses it
      if (status.ok()) status = co_await converse(*exchange);
      // A kept connection may have been closed by the server meanwhile; a fresh one tells the truth.
      if (status.code() != Code::kUnavailable || exchange->answered) break;
    }
    exchange->stream.reset();
    open_.erase(exchange->id);
    exchange->call.on_end(std::move(status));
  }

  bool take_idle(Exchange& exchange) {
    if (idle_.empty()) return false;
    exchange.stream = std::move(idle_.back());
    idle_.pop_back();
    return true;
  }

  asio::awaitable<Status> connect(Exchange& exchange) {
    exchange.stream = std::make_unique<Stream>(io_);
    if (exchange.cancelled) co_return fault_of(exchange, {}, "connecting");
    exchange.stream->expires_after(exchange.call.timeout);
    error_code fault;
    co_await exchange.stream->async_connect(endpoints_, asio::redirect_error(asio::use_awaitable, fault));
    if (fault || exchange.cancelled) co_return fault_of(exchange, fault, "connecting");
    exchange.stream->socket().set_option(tcp::no_delay(true), fault);
    co_return Status();
  }

  // Sends the request and passes the answer on; keeps the connection where both sides may use it again.
  asio::awaitable<Status> converse(Exchange& exchange) {
    http::request<http::string_body> request;
    request.method_string(exchange.call.method);
    request.target(server_.path + exchange.call.path);
    request.set(http::field::host, server_.authority());
    request.set(http::field::user_agent, "weft");
    for (const auto& [name, value] : exchange.call.headers) request.set(name, value);
    request.body() = exchange.call.body;
    request.prepare_payload();
    Stream& stream = *exchange.stream;
    error_code fault;
    if (exchange.cancelled) co_return fault_of(exchange, fault, "sending the request");
    stream.expires_after(exchange.call.timeout);
    co_await http::async_write(stream, request, asio::redirect_error(asio::use_awaitable, fault));
    // A server may refuse a request that it has not read; its answer says more than the broken pipe.
    if (exchange.cancelled || fault == beast::error::timeout)
      co_return fault_of(exchange, fault, "sending the request");
    const Status status = co_await receive(exchange);
    if (status.ok() && !fault && keep_) idle_.push_back(std::move(exchange.stream));
    co_return status;
  }

  // Sets keep_ just before it returns.
  asio::awaitable<Status> receive(Exchange& exchange) {
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    parser.header_limit(kMaxHeadBytes);
    parser.eager(true);
    parser.skip(exchange.call.method == "HEAD");
    beast::flat_buffer buffer;
    bool head_passed = false;
    for (;;) {
      exchange.stream->expires_after(exchange.call.timeout);
      error_code fault;
      const size_t count = co_await exchange.stream->async_read_some(buffer.prepare(kReadBytes),
                                                                     asio::redirect_error(asio::use_awaitable, fault));
      const std::string_view doing = head_passed ? "the answer was on its way" : "waiting for the answer";
      if (exchange.cancelled) co_return fault_of(exchange, fault, doing);
      if (fault == asio::error::eof && parser.got_some()) {
        error_code incomplete;
        parser.put_eof(incomplete);
        if (incomplete) co_return fault_of(exchange, fault, doing);
      } else if (fault) {
        co_return fault_of(exchange, fault, doing);
      }
      exchange.answered = true;
      buffer.commit(count);
      const Status status = parse(exchange, parser, buffer, head_passed);
      if (!status.ok()) co_return status;
      if (parser.is_done()) break;
    }
    keep_ = parser.get().keep_alive() && buffer.size() == 0;
    co_return Status();
  }

  // Passes on what `buffer` completes.
  template <class Parser>
  Status parse(Exchange& exchange, Parser& parser, beast::flat_buffer& buffer, bool& head_passed) {
    std::array<char, kReadBytes> bytes;
    while (buffer.size() > 0 && !parser.is_done()) {
      auto& body = parser.get().body();
      body.data = bytes.data();
      body.size = bytes.size();
      body.more = true;
      error_code fault;
      buffer.consume(parser.put(buffer.data(), fault));
      if (fault && fault != http::error::need_more && fault != http::error::need_buffer) {
        return error(Code::kDataLoss, "{}{}: the answer is no HTTP: {}", server_.text(), exchange.call.path,
                     fault.message());
      }
      if (parser.is_header_done() && !std::exchange(head_passed, true)) {
        HttpHeaders headers;
        for (const auto& field : parser.get()) {
          headers.emplace_back(field.name_string(), field.value());
          for (char& c : headers.back().first) c = char(std::tolower(static_cast<unsigned char>(c)));
        }
        exchange.call.on_head(parser.get().result_int(), headers);
      }
      const size_t count = bytes.size() - body.size;
      if (count > 0 && !exchange.call.on_body({bytes.data(), count})) exchange.cancelled = true;
      if (exchange.cancelled) return fault_of(exchange, {}, "the answer was on its way");
      if (fault == http::error::need_more) break;
    }
    return {};
  }

  const Url server_;
  const std::vector<tcp::endpoint> endpoints_;
  asio::io_context io_{1};
  std::unordered_map<u64, std::shared_ptr<Exchange>> open_;
  std::unordered_map<const void*, std::shared_ptr<asio::steady_timer>> timers_;
  std::vector<std::unique_ptr<Stream>> idle_;
  u64 last_id_ = 0;
  bool keep_ = false;  // of the exchange whose receive() has just returned
};

}  // namespace

Result<std::unique_ptr<HttpClient>> HttpClient::create(const Url& server) {
  asio::io_context io;
  tcp::resolver resolver(io);
  error_code fault;
  const auto found = resolver.resolve(server.host, std::to_string(server.port), fault);
  if (fault) return error(Code::kNotFound, "{}: host '{}' not found: {}", server.text(), server.host, fault.message());
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  return std::unique_ptr<HttpClient>(std::make_unique<BeastClient>(server, std::move(endpoints)));
}

Result<HttpAnswer> fetch(HttpClient& client, HttpCall exchange) {
  constexpr size_t kMaxBodyBytes = 64 << 20;
  const std::string url = client.server().text() + exchange.path;
  HttpAnswer answer;
  Status status;
  exchange.on_head = [&](int code, const HttpHeaders& headers) {
    answer.status = code;
    answer.headers = headers;
  };
  exchange.on_body = [&](std::string_view bytes) {
    answer.body += bytes;
    return answer.body.size() <= kMaxBodyBytes;
  };
  exchange.on_end = [&](Status end) { status = std::move(end); };
  client.start(std::move(exchange));
  client.run();
  if (answer.body.size() > kMaxBodyBytes) {
    return error(Code::kResourceExhausted, "{}: the answer has more than {} bytes", url, kMaxBodyBytes);
  }
  if (!status.ok()) return status;
  return answer;
}

}  // namespace weft
