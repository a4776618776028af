#include "comm/bootstrap/rendezvous.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <list>

#include "comm/bootstrap/socket.h"

namespace weft {
namespace {

constexpr size_t kMaxStrangers = 256;  // connections that have not introduced themselves yet
constexpr size_t kMaxText = 4096;
constexpr auto kVerdictGrace = std::chrono::seconds(1);

// Sends what is queued before the connection goes away: refusals must arrive.
void send_last(Connection& connection) {
  const Deadline deadline = Deadline::after(std::chrono::milliseconds(500));
  while (!connection.all_sent() && !deadline.expired() && connection.flush().ok()) {
    pollfd wait{connection.fd(), POLLOUT, 0};
    if (!connection.all_sent()) ::poll(&wait, 1, deadline.poll_ms());
  }
  connection.end_sending();
}

// Text from another process, made fit for one line of a terminal.
std::string printable(std::string text) {
  std::replace_if(text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; }, '?');
  return text;
}

// Rank 0 while ranks come in.
class Lobby {
 public:
  Lobby(const WorldSpec& spec, Fd listener)
      : spec_(spec), listener_(std::move(listener)), self_(this_process(0)), members_(size_t(spec.size)) {
    members_[0] = self_;
  }

  Result<Membership> gather(Deadline deadline) {
    const auto start = Clock::now();
    while (int(joined_.size()) < spec_.size - 1) {
      if (deadline.expired()) return give_up(missing(seconds_since(start)));
      if (Status status = wait_and_read(deadline); !status.ok()) return give_up(std::move(status));
    }
    std::string all;
    for (const Member& member : members_) all.append(bytes_of(member));
    for (auto& [rank, connection] : joined_) connection.send(FrameType::kWelcome, all);
    return Membership{0, std::move(members_), std::move(joined_)};
  }

 private:
  Status wait_and_read(Deadline deadline) {
    std::vector<pollfd> polled{{listener_.get(), POLLIN, 0}};
    for (auto& [rank, connection] : joined_) polled.push_back({connection.fd(), POLLIN, 0});
    for (auto& stranger : strangers_) polled.push_back({stranger.fd(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), deadline.poll_ms(500));

    size_t index = 1;
    for (auto& [rank, connection] : joined_) {
      // A rank that is in says nothing until the world is complete: whatever comes is its end.
      if (polled[index++].revents == 0) continue;
      if (connection.receive().ok()) continue;
      return error(Code::kUnavailable, "{} died before the world was complete", members_[size_t(rank)].text(self_));
    }
    for (auto stranger = strangers_.begin(); stranger != strangers_.end(); ++index) {
      const auto current = stranger++;
      if (polled[index].revents == 0) continue;
      WEFT_ASSIGN(const bool keep, hear(*current));
      if (!keep) strangers_.erase(current);
    }
    if (polled[0].revents != 0) {
      if (Fd socket = accept_from(listener_); socket.valid()) {
        if (strangers_.size() == kMaxStrangers) strangers_.pop_front();
        if (peer_is_ours(socket.get())) strangers_.emplace_back(std::move(socket));
      }
    }
    return {};
  }

  // Reads from a connection that has not introduced itself. Returns whether it stays a stranger. An error ends the
  // start-up: a process of this job contradicts us.
  Result<bool> hear(Connection& stranger) {
    const bool alive = stranger.receive().ok();
    auto frame = stranger.next(sizeof(Hello));
    if (!frame.ok()) {
      spdlog::warn("rank 0 at {}: dropped a connection: {}", spec_.rendezvous.text(), frame.status().message());
      return false;
    }
    if (!frame->has_value()) return alive;
    std::string_view payload((*frame)->payload);
    Hello hello;
    if ((*frame)->type != FrameType::kHello || !take(payload, hello) ||
        std::string_view(hello.magic, sizeof hello.magic) != std::string_view(Hello().magic, sizeof hello.magic)) {
      spdlog::warn("rank 0 at {}: dropped a connection that does not speak weft's protocol", spec_.rendezvous.text());
      return false;
    }
    hello.job[sizeof hello.job - 1] = hello.member.host_id[sizeof hello.member.host_id - 1] =
        hello.member.host_name[sizeof hello.member.host_name - 1] = 0;
    return admit(stranger, hello);
  }

  Result<bool> admit(Connection& stranger, const Hello& hello) {
    const Member& member = hello.member;
    const std::string who = printable(member.text(self_));
    if (hello.version != Hello::kVersion) {
      refuse(stranger, fmt::format("rank 0 speaks version {} of the start-up protocol, {} speaks {}", Hello::kVersion,
                                   who, hello.version));
      return false;
    }
    if (spec_.job.substr(0, sizeof hello.job - 1) != hello.job) {
      refuse(stranger, fmt::format("rank 0 belongs to job '{}', {} to job '{}'", spec_.job, who, printable(hello.job)));
      return false;
    }
    std::string conflict;
    if (hello.size != spec_.size) {
      conflict = fmt::format("{} has world size {}, rank 0 has {}", who, hello.size, spec_.size);
    } else if (member.rank < 0 || member.rank >= spec_.size) {
      conflict = fmt::format("{} is outside a world of {} ranks", who, spec_.size);
    } else if (member.rank == 0 || joined_.count(member.rank)) {
      conflict = fmt::format("two processes are rank {}: pid {} and pid {}", member.rank,
                             members_[size_t(member.rank)].pid, member.pid);
    }
    if (!conflict.empty()) {
      refuse(stranger, conflict);
      return Status(Code::kInvalidArgument, conflict);
    }
    members_[size_t(member.rank)] = member;
    joined_.emplace(member.rank, std::move(stranger));
    return false;
  }

  void refuse(Connection& stranger, const std::string& why) {
    spdlog::warn("refused a process: {}", why);
    stranger.send(FrameType::kRefuse, why);
    send_last(stranger);
  }

  Status missing(double waited) const {
    constexpr int kNamed = 16;
    std::string names;
    int count = 0;
    for (int rank = 1; rank < spec_.size; ++rank) {
      if (joined_.count(rank) || ++count > kNamed) continue;
      names += fmt::format("{}{}", names.empty() ? "" : ", ", rank);
    }
    if (count > kNamed) names += fmt::format(" and {} more", count - kNamed);
    return error(Code::kDeadlineExceeded, "start-up waited {:.1f} s at {} for {} {}", waited, spec_.rendezvous.text(),
                 count == 1 ? "rank" : "ranks", names);
  }

  Status give_up(Status why) {
    for (auto& [rank, connection] : joined_) {
      connection.send(FrameType::kRefuse, why.message());
      send_last(connection);
    }
    return why;
  }

  const WorldSpec& spec_;
  Fd listener_;
  Member self_;
  std::vector<Member> members_;
  std::map<int, Connection> joined_;
  std::list<Connection> strangers_;
};

// Any other rank: introduce ourselves, then wait for rank 0's verdict.
Result<Membership> enter(const WorldSpec& spec, Deadline deadline) {
  const auto start = Clock::now();
  auto connected = connect_to(spec.rendezvous, deadline);
  if (!connected.ok()) {
    if (connected.status().code() != Code::kDeadlineExceeded) return connected.status();
    return connected.status().with_context(
        fmt::format("rank {} waited {:.1f} s for rank 0", spec.rank, seconds_since(start)));
  }
  Connection hub(std::move(*connected));
  if (!peer_is_ours(hub.fd())) {
    return error(Code::kUnavailable, "{} belongs to another user", spec.rendezvous.text());
  }
  Hello hello;
  hello.size = spec.size;
  hello.member = this_process(spec.rank);
  spec.job.copy(hello.job, sizeof hello.job - 1);
  hub.send(FrameType::kHello, bytes_of(hello));

  // Rank 0's own deadline may end a little later, and only rank 0 can say who is missing.
  const Deadline verdict = Deadline::after(deadline.left() + kVerdictGrace);
  const size_t longest = std::max(kMaxText, size_t(spec.size) * sizeof(Member));
  while (!verdict.expired()) {
    pollfd wait{hub.fd(), hub.events(), 0};
    ::poll(&wait, 1, verdict.poll_ms());
    const bool alive = hub.flush().ok() && hub.receive().ok();
    auto next = hub.next(longest);
    if (!next.ok()) {
      return error(Code::kDataLoss, "{} does not speak weft's start-up protocol", spec.rendezvous.text());
    }
    if (next->has_value()) {
      const Frame& frame = **next;
      if (frame.type == FrameType::kRefuse) return Status(Code::kUnavailable, printable(frame.payload));
      std::string_view payload(frame.payload);
      Membership world;
      world.rank = spec.rank;
      world.members.resize(size_t(spec.size));
      for (Member& member : world.members) {
        if (frame.type != FrameType::kWelcome || !take(payload, member)) {
          return error(Code::kDataLoss, "{} does not speak weft's start-up protocol", spec.rendezvous.text());
        }
      }
      world.connections.emplace(0, std::move(hub));
      return world;
    }
    if (!alive) {
      return error(Code::kUnavailable, "rank 0 at {} ended before the world was complete", spec.rendezvous.text());
    }
  }
  return error(Code::kDeadlineExceeded, "rank {} waited {:.1f} s for rank 0 at {}: connected, but no answer", spec.rank,
               seconds_since(start), spec.rendezvous.text());
}

}  // namespace

Result<Membership> meet(const WorldSpec& spec, Deadline deadline) {
  if (spec.size == 1) return Membership{0, {this_process(0)}, {}};
  if (spec.rank != 0) return enter(spec, deadline);
  WEFT_ASSIGN(Fd listener, listen_at(spec.rendezvous));
  return Lobby(spec, std::move(listener)).gather(deadline);
}

}  // namespace weft
