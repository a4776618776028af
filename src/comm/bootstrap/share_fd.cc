#include "comm/bootstrap/share_fd.h"

#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "comm/bootstrap/socket.h"

namespace weft {
namespace {

// Control data for exactly one descriptor.
union Control {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

Status send_descriptor(const Fd& socket, int fd) {
  char byte = 1;
  iovec data{&byte, 1};
  Control control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(part), &fd, sizeof fd);
  if (::sendmsg(socket.get(), &message, MSG_NOSIGNAL) != 1) return error(Code::kIo, "share_fd: {}", errno_text());
  return {};
}

Result<Fd> receive_descriptor(const Fd& socket) {
  char byte = 0;
  iovec data{&byte, 1};
  Control control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  const ssize_t got = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (got != 1 || !part || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
    return error(Code::kIo, "share_fd: no descriptor came: {}", got < 0 ? errno_text() : "connection closed");
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
  return Fd(fd);
}

// Waits until the socket is readable, the world fails or the deadline ends.
Status wait_readable(World& world, const Fd& socket, Deadline deadline, const std::string& what) {
  while (true) {
    pollfd wait{socket.get(), POLLIN, 0};
    if (::poll(&wait, 1, deadline.poll_ms(50)) > 0) return {};
    if (world.failure().raised()) return world.failure().reason();
    if (deadline.expired()) {
      world.fail(error(Code::kDeadlineExceeded, "share_fd: rank {} waited for {}", world.rank(), what));
      return world.failure().reason();
    }
  }
}

// What a socket's error means: the rank at its other end is most likely lost, and the monitor is about to say which.
Status explain(World& world, const Status& fault) {
  const Deadline verdict = Deadline::after(std::chrono::seconds(1));
  while (!world.failure().raised() && !verdict.expired()) ::poll(nullptr, 0, 10);
  if (!world.failure().raised()) world.fail(fault);
  return world.failure().reason();
}

// Connects to a socket that listens already, unless its rank is lost.
Result<Fd> connect_to_root(World& world, const std::string& name, Deadline deadline) {
  Rendezvous at;
  at.socket = name;
  while (true) {
    auto socket = connect_to(at, Deadline::after(std::min(deadline.left(), std::chrono::nanoseconds(50'000'000))));
    if (socket.ok() && !peer_is_ours(socket->get())) {
      return error(Code::kUnavailable, "share_fd: {} is another user's", at.text());
    }
    if (socket.ok()) return socket;
    if (world.failure().raised()) return world.failure().reason();
    if (deadline.expired()) return explain(world, socket.status().with_context("share_fd"));
  }
}

Status serve(World& world, const Fd& listener, int fd, Deadline deadline) {
  for (int served = 0; served < world.size() - 1;) {
    WEFT_TRY(wait_readable(world, listener, deadline, fmt::format("{} more ranks", world.size() - 1 - served)));
    const Fd socket = accept_from(listener);
    if (!socket.valid() || !peer_is_ours(socket.get())) continue;
    if (const Status sent = send_descriptor(socket, fd); !sent.ok()) return explain(world, sent);
    ++served;
  }
  return {};
}

}  // namespace

Result<Fd> share_descriptor(World& world, const std::vector<Member>& members, Fd fd, int root, Deadline deadline) {
  if (root < 0 || root >= world.size()) {
    return error(Code::kInvalidArgument, "share_fd: root {} is outside a world of {} ranks", root, world.size());
  }
  for (const Member& member : members) {
    if (!member.same_host(members[0])) {
      return error(Code::kUnimplemented, "share_fd between hosts: {} and {}", members[0].text(members[0]),
                   member.text(members[0]));
    }
  }
  const bool is_root = world.rank() == root;
  std::pair<Fd, std::string> listener;
  if (is_root && fd.valid()) {
    WEFT_ASSIGN(listener, listen_anywhere());
  }
  WEFT_ASSIGN(const auto names, world.all_gather(listener.second, deadline));
  const std::string& name = names[size_t(root)];
  if (name.empty()) return error(Code::kInvalidArgument, "share_fd: rank {} has no valid descriptor to share", root);
  if (is_root) {
    WEFT_TRY(serve(world, listener.first, fd.get(), deadline));
    return fd;
  }
  WEFT_ASSIGN(const Fd socket, connect_to_root(world, name, deadline));
  WEFT_TRY(wait_readable(world, socket, deadline, fmt::format("the descriptor of rank {}", root)));
  auto received = receive_descriptor(socket);
  if (!received.ok()) return explain(world, received.status());
  return received;
}

}  // namespace weft
