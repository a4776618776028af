#include "comm/bootstrap/monitor.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace weft {
namespace {

constexpr auto kGoodbyeWait = std::chrono::milliseconds(1000);
constexpr auto kVerdictGrace = std::chrono::seconds(1);

double seconds(Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

Monitor::Monitor(Membership membership, std::shared_ptr<Failure> failure, MonitorTiming timing)
    : rank_(membership.rank),
      members_(std::move(membership.members)),
      failure_(std::move(failure)),
      timing_(timing),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  WEFT_CHECK(wake_.valid());
  for (auto& [rank, connection] : membership.connections) peers_[rank].connection = std::move(connection);
  // Signals are for the program's own threads.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_setname_np(thread_.native_handle(), "weft-monitor");
}

Monitor::~Monitor() {
  {
    std::lock_guard lock(mutex_);
    leave_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
  thread_.join();
}

Result<std::vector<std::string>> Monitor::all_gather(const std::string& bytes, Deadline deadline) {
  if (bytes.size() > kMaxGatherBytes) {
    return error(Code::kInvalidArgument, "all_gather of {} bytes: at most {} bytes per rank", bytes.size(),
                 kMaxGatherBytes);
  }
  if (failure_->raised()) return failure_->reason();
  // Rank 0 keeps the deadline, for it knows who is missing; the grace is for its answer to arrive.
  const Deadline answer = Deadline::after(deadline.left() + kVerdictGrace);
  std::unique_lock lock(mutex_);
  gathered_.reset();
  request_ = Request{bytes, deadline};
  ::eventfd_write(wake_.get(), 1);
  while (!gathered_) {
    if (failure_->raised()) return failure_->reason();
    if (answer.expired()) {
      lock.unlock();
      fail(error(Code::kDeadlineExceeded, "rank {}: no answer from {} in all_gather", rank_, name(0)));
      return failure_->reason();
    }
    // The failure may be raised by another thread that does not know of this condition.
    gathered_changed_.wait_for(lock, std::min<Clock::duration>(answer.left(), std::chrono::milliseconds(50)));
  }
  return std::move(*gathered_);
}

void Monitor::fail(Status reason) {
  failure_->raise(std::move(reason));
  ::eventfd_write(wake_.get(), 1);
}

void Monitor::run() {
  auto last = Clock::now();
  auto next_tick = last;
  for (auto& [rank, peer] : peers_) handle_frames(rank, peer);  // may have come right behind the welcome
  while (!(leave_by_ && (leave_by_->expired() || all_closed()))) {
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next_tick - Clock::now()).count();
    const int longest = gather_.deadline ? gather_.deadline->poll_ms() : 1 << 30;
    poll_connections(int(std::clamp<i64>(std::min<i64>(wait, longest), 0, timing_.heartbeat.count())));
    take_requests();
    judge_gather();
    const auto now = Clock::now();
    if (now >= next_tick) {
      // Where this thread itself was held up, its neighbours may have been too: such time counts as one late tick.
      tick(std::min<Clock::duration>(now - last, 2 * timing_.heartbeat));
      last = now;
      next_tick = now + timing_.heartbeat;
    }
    for (auto& [rank, peer] : peers_) {
      if (peer.connection.open()) (void)peer.connection.flush();  // reading reports the end of a connection
    }
  }
}

bool Monitor::all_closed() const {
  return std::none_of(peers_.begin(), peers_.end(), [](const auto& entry) { return entry.second.connection.open(); });
}

void Monitor::take_requests() {
  std::optional<Request> request;
  bool leave;
  {
    std::lock_guard lock(mutex_);
    std::swap(request, request_);
    leave = leave_;
  }
  if (request && is_hub()) {
    add_part(0, std::move(request->bytes), request->deadline);
  } else if (request) {
    const GatherHeader header{sequence_, request->deadline.left().count()};
    peers_[0].connection.send(FrameType::kGather, std::string(bytes_of(header)) + request->bytes);
    if (!peers_[0].connection.open()) lost(0, "left the world before all_gather", false);
  }
  if (failure_->raised() && !announced_) announce(failure_->reason(), -1, false, -1);
  if (leave && !leave_by_) {
    leave_by_ = Deadline::after(kGoodbyeWait);
    send_goodbyes();
  }
}

void Monitor::send_goodbyes() {
  for (auto& [rank, peer] : peers_) {
    if (peer.connection.open()) peer.connection.send(FrameType::kGoodbye);
  }
}

void Monitor::poll_connections(int timeout_ms) {
  std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}};
  std::vector<int> ranks;
  for (auto& [rank, peer] : peers_) {
    if (!peer.connection.open()) continue;
    polled.push_back({peer.connection.fd(), peer.connection.events(), 0});
    ranks.push_back(rank);
  }
  ::poll(polled.data(), polled.size(), timeout_ms);
  eventfd_t ignored;
  if (polled[0].revents != 0) ::eventfd_read(wake_.get(), &ignored);
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (polled[i + 1].revents & ~POLLOUT) read_from(ranks[i], peers_[ranks[i]]);
  }
}

void Monitor::read_from(int rank, Peer& peer) {
  const bool alive = peer.connection.receive().ok();
  const auto silence = std::exchange(peer.silence, {});
  handle_frames(rank, peer);
  if (alive || !peer.connection.open()) return;
  peer.connection.close();
  if (peer.left || leave_by_) return;
  if (silence < timing_.silence / 2) return lost(rank, "died (its connection closed without a goodbye)", false);
  // Stopped, and the first to notice has killed it.
  lost(rank, fmt::format("stopped responding (no heartbeat for {:.1f} s) and then died", seconds(silence)), false);
}

void Monitor::handle_frames(int rank, Peer& peer) {
  const size_t longest = (kMaxGatherBytes + sizeof(u32)) * members_.size() + sizeof(GatherHeader);
  while (peer.connection.open()) {
    auto frame = peer.connection.next(longest);
    if (!frame.ok()) {
      peer.connection.close();
      return lost(rank, "sent something that is " + frame.status().message(), false);
    }
    if (!frame->has_value()) return;
    handle(rank, peer, **frame);
  }
}

void Monitor::handle(int rank, Peer& peer, const Frame& frame) {
  std::string_view payload(frame.payload);
  switch (frame.type) {
    case FrameType::kHeartbeat: return;
    case FrameType::kGoodbye:
      peer.left = true;
      (void)peer.connection.flush();
      if (!leave_by_) return peer.connection.close();  // the other end waits for this
      return peer.connection.end_sending();            // both leave: our goodbye is on its way, or sent
    case FrameType::kFail: {
      FailHeader header;
      if (!take(payload, header)) break;
      const bool valid = header.code > int(Code::kOk) && header.code <= int(Code::kIo);
      const Status reason(valid ? Code(header.code) : Code::kAborted, std::string(payload));
      if (failure_->raise(reason)) announce(reason, header.culprit, header.kill != 0, rank);
      gathered_changed_.notify_all();
      return;
    }
    case FrameType::kGather: {
      GatherHeader header;
      if (!is_hub() || !take(payload, header) || header.sequence != sequence_) break;
      return add_part(rank, std::string(payload), Deadline::after(std::chrono::nanoseconds(header.left_ns)));
    }
    case FrameType::kGathered: {
      GatherHeader header;
      if (is_hub() || !take(payload, header) || header.sequence != sequence_) break;
      std::vector<std::string> parts;
      u32 length = 0;
      while (take(payload, length) && payload.size() >= length) {
        parts.emplace_back(payload.substr(0, length));
        payload.remove_prefix(length);
      }
      if (parts.size() != members_.size()) break;
      ++sequence_;
      std::lock_guard lock(mutex_);
      gathered_ = std::move(parts);
      gathered_changed_.notify_all();
      return;
    }
    default: break;
  }
  lost(rank, fmt::format("sent an unexpected message (type {}, sequence {})", u32(frame.type), sequence_), false);
}

void Monitor::add_part(int rank, std::string bytes, Deadline deadline) {
  if (gather_.parts.empty()) gather_.start = Clock::now();
  if (!gather_.deadline || deadline.left() < gather_.deadline->left()) gather_.deadline = deadline;
  gather_.parts.emplace(rank, std::move(bytes));
  if (gather_.parts.size() == members_.size()) finish_gather();
}

void Monitor::finish_gather() {
  std::string payload(bytes_of(GatherHeader{sequence_, 0}));
  std::vector<std::string> parts;
  for (auto& [rank, part] : gather_.parts) {
    payload.append(bytes_of(u32(part.size()))).append(part);
    parts.push_back(std::move(part));
  }
  for (auto& [rank, peer] : peers_) {
    if (peer.connection.open()) peer.connection.send(FrameType::kGathered, payload);
  }
  gather_ = {};
  ++sequence_;
  std::lock_guard lock(mutex_);
  gathered_ = std::move(parts);
  gathered_changed_.notify_all();
}

std::string Monitor::names_of_missing() const {
  std::string names;
  for (int rank = 0; rank < int(members_.size()); ++rank) {
    if (!gather_.parts.count(rank)) names += (names.empty() ? "" : ", ") + name(rank);
  }
  return names;
}

// Rank 0: fails the world when a gather can no longer complete.
void Monitor::judge_gather() {
  if (!gather_.deadline || failure_->raised()) return;
  if (gather_.deadline->expired()) {
    return fail(error(Code::kDeadlineExceeded, "all_gather waited {:.1f} s for {}",
                      seconds(Clock::now() - gather_.start), names_of_missing()));
  }
  for (auto& [rank, peer] : peers_) {
    if (peer.left && !gather_.parts.count(rank))
      return lost(rank, "left the world while others wait in all_gather", false);
  }
}

void Monitor::tick(Clock::duration awake) {
  if (exit_at_ && exit_at_->expired() && !leave_by_) {
    std::fprintf(stderr, "weft: rank %d did not stop within %.1f s after: %s\n", rank_, seconds(timing_.exit_after),
                 failure_->reason().message().c_str());
    ::_exit(1);
  }
  for (auto& [rank, peer] : peers_) {
    if (!peer.connection.open() || leave_by_) continue;
    peer.connection.send(FrameType::kHeartbeat);
    peer.silence += awake;
    judge_silence(rank, peer);
  }
}

void Monitor::judge_silence(int rank, Peer& peer) {
  if (peer.silence < timing_.silence || failure_->raised()) return;
  const Member& member = members_[size_t(rank)];
  if (member.same_host(members_[size_t(rank_)])) {
    const char state = member_state(member);
    if (state == 't') return;  // held by a debugger
    if (state != 'T' && peer.silence < timing_.starvation) return;
  }
  lost(rank, fmt::format("stopped responding (no heartbeat for {:.1f} s)", seconds(peer.silence)), true);
}

void Monitor::lost(int rank, const std::string& what, bool kill) {
  const Status reason = error(Code::kUnavailable, "{} {}", name(rank), what);
  if (failure_->raise(reason)) announce(reason, rank, kill, -1);
}

// Tells the others why the world failed, once, and ends those of this host that cannot end themselves.
void Monitor::announce(const Status& reason, int culprit, bool kill, int except) {
  announced_ = true;
  if (timing_.exit_after.count() > 0) exit_at_ = Deadline::after(timing_.exit_after);
  const FailHeader header{i32(reason.code()), culprit, kill ? 1 : 0};
  for (auto& [rank, peer] : peers_) {
    if (rank == except || rank == culprit || !peer.connection.open()) continue;
    peer.connection.send(FrameType::kFail, std::string(bytes_of(header)) + reason.message());
    (void)peer.connection.flush();
  }
  const Member& self = members_[size_t(rank_)];
  for (const Member& member : members_) {
    if (member.pid == self.pid || !member.same_host(self)) continue;
    if ((kill && member.rank == culprit) || member_state(member) == 'T') kill_member(member);
  }
  gathered_changed_.notify_all();
}

}  // namespace weft
