#include "comm/bootstrap/frame.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

namespace weft {
namespace {

struct FrameHeader {
  u32 type;
  u32 length;
};

}  // namespace

Connection::Connection(Fd socket) : socket_(std::move(socket)) {
  ::fcntl(fd(), F_SETFL, ::fcntl(fd(), F_GETFL) | O_NONBLOCK);
}

short Connection::events() const {
  return short(POLLIN | (out_.empty() ? 0 : POLLOUT));
}

void Connection::send(FrameType type, std::string_view payload) {
  const FrameHeader header{u32(type), u32(payload.size())};
  out_.append(bytes_of(header)).append(payload);
}

Status Connection::flush() {
  while (!out_.empty()) {
    const ssize_t sent = ::send(fd(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      out_.erase(0, size_t(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return {};
    } else if (errno != EINTR) {
      return Status(Code::kUnavailable, errno_text());
    }
  }
  return {};
}

void Connection::end_sending() {
  ::shutdown(fd(), SHUT_WR);
}

Status Connection::receive() {
  char buffer[64 * 1024];  // once per poll, so that no peer can keep the caller here
  const ssize_t got = ::recv(fd(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (got > 0) in_.append(buffer, size_t(got));
  if (got == 0) return Status(Code::kUnavailable, "connection closed");
  if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    return Status(Code::kUnavailable, errno_text());
  }
  return {};
}

Result<std::optional<Frame>> Connection::next(size_t max_payload) {
  FrameHeader header;
  std::string_view rest(in_);
  if (!take(rest, header)) return std::optional<Frame>();
  if (header.type < u32(FrameType::kHello) || header.type > u32(FrameType::kLast) || header.length > max_payload) {
    return error(Code::kDataLoss, "not a frame of weft (type {}, length {})", header.type, header.length);
  }
  if (rest.size() < header.length) return std::optional<Frame>();
  Frame frame{FrameType(header.type), std::string(rest.substr(0, header.length))};
  in_.erase(0, sizeof header + header.length);
  return std::optional<Frame>(std::move(frame));
}

}  // namespace weft
