// Listening and connecting, TCP or abstract unix sockets, with deadlines.
#pragma once
#include <string>

#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "comm/bootstrap/environment.h"

namespace weft {

// A listening socket at `at`. Errors name the address: taken, not of this host, unknown.
Result<Fd> listen_at(const Rendezvous& at);

// A listening abstract unix socket under a name that the kernel picks, and that name.
Result<std::pair<Fd, std::string>> listen_anywhere();

// Connects, again and again while nobody listens. kDeadlineExceeded names the address and the last refusal.
Result<Fd> connect_to(const Rendezvous& at, Deadline deadline);

// Accepts one waiting connection; an invalid Fd when there is none.
Fd accept_from(const Fd& listener);

// Whether the other end of a unix socket runs under our user (or root). True for TCP, which cannot tell.
bool peer_is_ours(int socket);

}  // namespace weft
