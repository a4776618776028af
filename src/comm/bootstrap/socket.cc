#include "comm/bootstrap/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

namespace weft {
namespace {

constexpr int kBacklog = 512;

struct Address {
  sockaddr_storage bytes{};
  socklen_t length = 0;
};

Address unix_address(const std::string& name) {
  Address address;
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path + 1, name.data(), std::min(name.size(), sizeof un.sun_path - 1));
  std::memcpy(&address.bytes, &un, sizeof un);
  address.length = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

Result<std::vector<Address>> resolve(const Rendezvous& at) {
  if (!at.is_tcp()) return std::vector<Address>{unix_address(at.socket)};
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int fault = ::getaddrinfo(at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found)) {
    return error(Code::kInvalidArgument, "MASTER_ADDR='{}': {}", at.host, ::gai_strerror(fault));
  }
  std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  std::vector<Address> addresses;
  for (const addrinfo* entry = found; entry; entry = entry->ai_next) {
    Address address;
    std::memcpy(&address.bytes, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
    addresses.push_back(address);
  }
  return addresses;
}

Fd stream_socket(const Address& address) {
  Fd socket(::socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (address.bytes.ss_family != AF_UNIX) {
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  return socket;
}

const sockaddr* raw(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address.bytes);
}

// While nobody listens on a port of the ephemeral range, a connection to it from this host can meet itself.
bool met_itself(const Fd& socket) {
  Address here, there;
  here.length = there.length = sizeof here.bytes;
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&here.bytes), &here.length);
  ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&there.bytes), &there.length);
  return here.bytes.ss_family != AF_UNIX && here.length == there.length &&
         std::memcmp(&here.bytes, &there.bytes, here.length) == 0;
}

// One try. An invalid Fd with errno set when it failed.
Fd try_connect(const Address& address, Deadline deadline) {
  Fd socket = stream_socket(address);
  if (!socket.valid()) return socket;
  if (::connect(socket.get(), raw(address), address.length) != 0) {
    if (errno != EINPROGRESS) return Fd();
    pollfd wait{socket.get(), POLLOUT, 0};
    int fault = ETIMEDOUT;
    if (::poll(&wait, 1, deadline.poll_ms(2000)) > 0) {
      socklen_t length = sizeof fault;
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &fault, &length);
    }
    errno = fault;
    if (fault != 0) return Fd();
  }
  if (met_itself(socket)) {
    socket.reset();
    errno = ECONNREFUSED;
  }
  return socket;
}

}  // namespace

Result<Fd> listen_at(const Rendezvous& at) {
  WEFT_ASSIGN(const auto addresses, resolve(at));
  std::string why;
  for (const Address& address : addresses) {
    Fd socket = stream_socket(address);
    if (socket.valid() && ::bind(socket.get(), raw(address), address.length) == 0 &&
        ::listen(socket.get(), kBacklog) == 0) {
      return socket;
    }
    why = errno_text();
    if (errno == EADDRINUSE) return error(Code::kIo, "rank 0 cannot listen at {}: {}", at.text(), why);
  }
  return error(Code::kIo, "rank 0 cannot listen at {}: {}", at.text(), why);
}

Result<std::pair<Fd, std::string>> listen_anywhere() {
  Address address;
  address.bytes.ss_family = AF_UNIX;
  address.length = sizeof(sa_family_t);  // unix(7), autobind
  Fd socket = stream_socket(address);
  if (!socket.valid() || ::bind(socket.get(), raw(address), address.length) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    return error(Code::kIo, "unix socket: {}", errno_text());
  }
  sockaddr_un name{};
  socklen_t length = sizeof name;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0) {
    return error(Code::kIo, "unix socket: {}", errno_text());
  }
  return std::pair(std::move(socket), std::string(name.sun_path + 1, length - offsetof(sockaddr_un, sun_path) - 1));
}

Result<Fd> connect_to(const Rendezvous& at, Deadline deadline) {
  WEFT_ASSIGN(const auto addresses, resolve(at));
  while (true) {
    int fault = 0;
    for (const Address& address : addresses) {
      if (Fd socket = try_connect(address, deadline); socket.valid()) return socket;
      fault = errno;
    }
    if (deadline.expired()) {
      return error(Code::kDeadlineExceeded, "{}: {}", at.text(), std::strerror(fault));
    }
    ::poll(nullptr, 0, deadline.poll_ms(50));
  }
}

Fd accept_from(const Fd& listener) {
  return Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

bool peer_is_ours(int socket) {
  int family = 0;
  socklen_t length = sizeof family;
  ::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &family, &length);
  if (family != AF_UNIX) return true;
  ucred peer{};
  length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  return peer.uid == ::geteuid() || peer.uid == 0;
}

}  // namespace weft
