#include "serve/http_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"

namespace weft {
namespace {

TEST(Url, PartsAndFaults) {
  const Url url = Url::parse("http://example.org:8000/base/").value();
  EXPECT_EQ(url.host, "example.org");
  EXPECT_EQ(url.port, 8000);
  EXPECT_EQ(url.path, "/base");
  EXPECT_EQ(url.text(), "http://example.org:8000/base");
  EXPECT_EQ(Url::parse("localhost:80").value().text(), "http://localhost:80");
  EXPECT_EQ(Url::parse("http://a").value().port, 80);
  EXPECT_EQ(Url::parse("http://[::1]:9").value().host, "::1");
  EXPECT_EQ(Url::parse("http://[::1]:9").value().authority(), "[::1]:9");
  EXPECT_EQ(Url::parse("https://a").status().code(), Code::kUnimplemented);
  for (const char* bad :
       {"", "http://", "http://:80", "ftp://a", "http://a:", "http://a:0", "http://a:65536", "http://a:8x",
        "http://a b", "http://[::1", "http://[::1]x", "http://a/?q", "http://user@a", "http://\xC3\xA4"}) {
    const Status status = Url::parse(bad).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find(fmt::format("'{}'", bad)), std::string::npos) << status.message();
  }
}

// Answers connection after connection on 127.0.0.1, each with what `script` says to each request on it.
class ScriptedServer {
 public:
  // Per connection the answers to its requests, in parts that are sent one by one; after them it is closed.
  using Script = std::vector<std::vector<std::vector<std::string>>>;

  explicit ScriptedServer(Script script) : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    url_ = fmt::format("http://127.0.0.1:{}", ntohs(address.sin_port));
    thread_ = std::thread([this, script = std::move(script)] { serve(script); });
  }
  ~ScriptedServer() {
    thread_.join();
    EXPECT_EQ(faults_, "");
  }
  const std::string& url() const { return url_; }

 private:
  void serve(const Script& script) {
    for (const auto& answers : script) {
      pollfd waiting{listener_.get(), POLLIN, 0};
      if (::poll(&waiting, 1, 20000) != 1) {
        faults_ = "no connection came within 20 s";
        return;
      }
      const Fd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      for (const auto& parts : answers) {
        if (!read_request(connection.get())) break;
        for (const std::string& part : parts) {
          (void)!::send(connection.get(), part.data(), part.size(), MSG_NOSIGNAL);
          std::this_thread::sleep_for(std::chrono::microseconds(200));  // so that parts often arrive apart
        }
      }
    }
  }

  static bool read_request(int socket) {
    std::string head;
    for (char c; head.find("\r\n\r\n") == std::string::npos;) {
      pollfd waiting{socket, POLLIN, 0};
      if (::poll(&waiting, 1, 20000) != 1 || ::recv(socket, &c, 1, 0) != 1) return false;
      head += c;
    }
    return true;
  }

  Fd listener_;
  std::string url_, faults_;
  std::thread thread_;
};

std::unique_ptr<HttpClient> client_of(const ScriptedServer& server) {
  return HttpClient::create(Url::parse(server.url()).value()).value();
}

const std::string kChunked =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Name: Value\r\n\r\n5\r\nhello\r\n6;ext=1\r\n "
    "world\r\n0\r\n\r\n";

TEST(HttpClient, ChunksWithBordersAnywhere) {
  std::vector<std::vector<std::string>> answers;
  for (size_t i = 1; i < kChunked.size(); ++i) answers.push_back({kChunked.substr(0, i), kChunked.substr(i)});
  const size_t count = answers.size();
  std::vector<std::string> bytes;
  for (const char c : kChunked) bytes.emplace_back(1, c);
  answers.push_back(bytes);
  const ScriptedServer server({answers});  // one connection serves all: kept and used again
  const auto client = client_of(server);
  for (size_t i = 0; i <= count; ++i) {
    const auto answer = fetch(*client, {.path = "/x"});
    ASSERT_TRUE(answer.ok()) << i << ": " << answer.status().message();
    EXPECT_EQ(answer->status, 200);
    EXPECT_EQ(answer->body, "hello world") << i;
    EXPECT_EQ(answer->headers.back(), (std::pair<std::string, std::string>("x-name", "Value")));
  }
}

TEST(HttpClient, BodiesByLengthAndByTheEndOfTheConnection) {
  const std::string large(100000, 'x');
  const ScriptedServer server({{{"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\ngone"},
                                {fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.size()), large},
                                {"HTTP/1.1 200 OK\r\n\r\nuntil", " the end"}}});
  const auto client = client_of(server);
  EXPECT_EQ(fetch(*client, {}).value().status, 404);
  EXPECT_EQ(fetch(*client, {}).value().body, large);
  EXPECT_EQ(fetch(*client, {}).value().body, "until the end");
}

TEST(HttpClient, AKeptConnectionThatTheServerClosedIsReplaced) {
  const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  const ScriptedServer server({{{answer}}, {{answer}}, {{answer}}});
  const auto client = client_of(server);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(fetch(*client, {}).value().body, "ok");
}

TEST(HttpClient, FaultsNameTheUrlAndWhatCame) {
  const ScriptedServer server({{{"SSH-2.0-OpenSSH_9.2\r\n"}},
                               {{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"}},
                               {{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"}},
                               {{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}},
                               {{}}});
  const auto client = client_of(server);
  const std::pair<Code, const char*> expected[] = {{Code::kDataLoss, "no HTTP"},
                                                   {Code::kUnavailable, "closed the connection"},
                                                   {Code::kUnavailable, "closed the connection"},
                                                   {Code::kDataLoss, "no HTTP"},
                                                   {Code::kUnavailable, "waiting for the answer"}};
  for (const auto& [code, says] : expected) {
    const Status status = fetch(*client, {.path = "/v1/x"}).status();
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(server.url() + "/v1/x"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
  }
}

TEST(HttpClient, TimeoutCancelAndStop) {
  const std::string head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  // Connections of a server that has said this much and then waits for a next request.
  const ScriptedServer server({{{}, {}}, {{head}, {}}, {{head + "5\r\nhello\r\n"}, {}}, {{head}, {}}});
  const auto client = client_of(server);
  EXPECT_EQ(fetch(*client, {.timeout = std::chrono::milliseconds(50)}).status().code(), Code::kDeadlineExceeded);

  int ends = 0;
  Status end;
  auto on_end = [&](const Status& status) { ++ends, end = status; };
  u64 id = 0;
  id = client->start({.on_head = [&](int, const HttpHeaders&) { client->cancel(id); }, .on_end = on_end});
  client->run();
  EXPECT_EQ(end.code(), Code::kAborted);

  client->start({.on_body = [](std::string_view) { return false; }, .on_end = on_end});
  client->run();
  EXPECT_EQ(end.code(), Code::kAborted);

  bool late = false;
  client->after(std::chrono::hours(1), [&] { late = true; });
  client->start({.on_head = [&](int, const HttpHeaders&) { client->stop(); }, .on_end = on_end});
  client->run();
  EXPECT_EQ(end.code(), Code::kAborted);
  EXPECT_EQ(ends, 3);
  EXPECT_FALSE(late);
  client->cancel(id);  // has ended: no effect
}

TEST(HttpClient, NobodyListens) {
  const auto client = HttpClient::create(Url::parse("http://127.0.0.1:1").value()).value();
  const Status status = fetch(*client, {}).status();
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_NE(status.message().find("http://127.0.0.1:1"), std::string::npos);
  EXPECT_EQ(HttpClient::create(Url::parse("http://no-such-host.invalid").value()).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace weft
