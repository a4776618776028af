#include "serve/http_exchange.h"

#include <fmt/format.h>

namespace weft {

void HttpExchange::respond(HttpResponse response) {
  if (status_ || closed_) return;
  const bool bodyless = response.status == 204 || response.status == 304;
  start(response.status, response.headers);
  if (!bodyless) out_ += fmt::format("content-length: {}\r\n", response.body.size());
  out_ += "\r\n";
  if (!form_.head_only && !bodyless) out_ += response.body;
  ended_ = true;
  flush();
}

void HttpExchange::start_stream(HttpHeaders headers) {
  if (status_ || closed_) return;
  if (!form_.http_1_1) form_.keep_alive = false;  // the end of the connection is the end of the answer
  start(200, headers);
  out_ += form_.http_1_1 ? "transfer-encoding: chunked\r\n\r\n" : "\r\n";
  streams_ = true;
  wake();  // goes out with the first bytes, or alone where none follow at once
}

void HttpExchange::write(std::string_view bytes) {
  if (!streams_ || ended_ || closed_ || bytes.empty()) return;
  if (form_.http_1_1) {
    const std::string head = fmt::format("{:x}\r\n", bytes.size());
    out_.reserve(out_.size() + head.size() + bytes.size() + 2);
    out_ += head;
    out_ += bytes;
    out_ += "\r\n";
  } else {
    out_ += bytes;
  }
  flush();
  if (unsent() > max_unsent_) cut();
}

void HttpExchange::end() {
  if (!streams_ || ended_ || closed_) return;
  if (form_.http_1_1) out_ += "0\r\n\r\n";
  ended_ = true;
  flush();
}

void HttpExchange::cut() {
  if (std::exchange(cut_, true)) return;
  if (link_) link_->reset();
  wake();
}

void HttpExchange::leave() {
  cut_ = true;
  wake();
}

void HttpExchange::start(int status, const HttpHeaders& headers) {
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

// Sends what the socket takes; wakes the connection for the rest, and for the end.
void HttpExchange::flush() {
  if (link_ && in_flight_ == 0) {
    const size_t taken = link_->send_now(out_);
    sent_ += taken;
    out_ = out_.substr(taken);  // most often empty, and then without a buffer
  }
  if (!out_.empty() || ended_) wake();
}

std::string HttpExchange::take() {
  in_flight_ = out_.size();
  return std::exchange(out_, {});
}

void HttpExchange::count_sent(size_t bytes) {
  in_flight_ -= bytes;
  sent_ += bytes;
  if (in_flight_ > 0 || !out_.empty() || ended_ || !on_drained) return;
  const auto notify = on_drained;  // it may replace itself
  notify();
}

void HttpExchange::close(bool complete) {
  if (std::exchange(closed_, true)) return;
  link_ = nullptr;
  on_drained = nullptr;
  if (const auto notify = std::exchange(on_end, nullptr)) notify(complete);
  if (const auto notify = std::exchange(on_logged, nullptr)) notify(status_, sent_, complete);
}

}  // namespace weft
