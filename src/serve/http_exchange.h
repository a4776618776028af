// One request's answer on its way to a socket. I/O thread.
#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <string>

#include "serve/http_server.h"

namespace weft {

// What an answer needs of its connection.
class HttpLink {
 public:
  virtual ~HttpLink() = default;
  // Bytes that the socket takes without waiting: 0 also after a fault, which the next write that waits will meet.
  virtual size_t send_now(std::string_view bytes) = 0;
  // Resets the connection; a write that waits for a slow client ends.
  virtual void reset() = 0;
};

// What the socket does not take at once is kept for the connection, which sends it with take() as the client reads.
// So an answer whose client keeps up holds no buffer.
class HttpExchange final : public HttpReply {
 public:
  struct Form {
    bool http_1_1 = true;
    bool keep_alive = true;
    bool head_only = false;
  };
  // `link` must live until close().
  HttpExchange(const boost::asio::any_io_executor& executor, HttpLink& link, Form form, size_t max_unsent)
      : link_(&link),
        form_(form),
        max_unsent_(max_unsent),
        changed_(executor, boost::asio::steady_timer::time_point::max()) {}

  void respond(HttpResponse response) override;
  void start_stream(HttpHeaders headers) override;
  void write(std::string_view bytes) override;
  void end() override;
  void cut() override;
  size_t unsent() const override { return out_.size() + in_flight_; }
  int status() const override { return status_; }
  bool open() const override { return !closed_; }
  size_t bytes_sent() const override { return sent_; }

  // The connection's side. It waits on changed() until one of the next three has become true.
  boost::asio::steady_timer& changed() { return changed_; }
  bool broken() const { return cut_; }
  bool has_unsent() const { return !out_.empty(); }
  bool ended() const { return ended_; }
  bool keep_alive() const { return form_.keep_alive; }
  // What is to be sent; then count_sent() for every part of it.
  std::string take();
  void count_sent(size_t bytes);
  // The client is gone: the answer cannot be completed.
  void leave();
  // The connection is done with it.
  void close(bool complete);

 private:
  void start(int status, const HttpHeaders& headers);
  void flush();
  void wake() { changed_.cancel(); }

  HttpLink* link_;  // null once closed
  Form form_;
  const size_t max_unsent_;
  boost::asio::steady_timer changed_;  // never expires; cancelled when there is something to do
  std::string out_;
  size_t in_flight_ = 0, sent_ = 0;
  int status_ = 0;
  bool streams_ = false, ended_ = false, cut_ = false, closed_ = false;
};

}  // namespace weft
