// The thread by which a process takes part in its world: it carries heartbeats, gathers and the news of a failure over
// the star of connections to rank 0. It computes nothing and prints nothing, so it answers while the rank is busy.
#pragma once
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "comm/bootstrap/rendezvous.h"
#include "comm/bootstrap/world.h"

namespace weft {

struct MonitorTiming {
  std::chrono::milliseconds heartbeat{200};
  // A rank this long silent is lost if it is stopped or on another host ...
  std::chrono::milliseconds silence{1200};
  // ... and this long if it can be seen not to be stopped: its threads may be waiting for a core.
  std::chrono::milliseconds starvation{5000};
  // After a failure the process has this long to leave by itself; then the monitor ends it with exit status 1. Zero:
  // never.
  std::chrono::milliseconds exit_after{5000};

  // For ranks with a GPU: until the driver has ended a kernel that trapped, releasing its memory waits; 6 s were seen.
  static MonitorTiming for_gpus() {
    MonitorTiming timing;
    timing.exit_after = std::chrono::seconds(30);
    return timing;
  }
};

class Monitor {
 public:
  static constexpr size_t kMaxGatherBytes = 1 << 20;  // per rank

  Monitor(Membership membership, std::shared_ptr<Failure> failure, MonitorTiming timing);
  // Leaves the world: says goodbye, so that the others do not take the end of this process for a death.
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  const std::vector<Member>& members() const { return members_; }
  // See World.
  Result<std::vector<std::string>> all_gather(const std::string& bytes, Deadline deadline);
  void fail(Status reason);

 private:
  struct Peer {
    Connection connection;
    Clock::duration silence{};  // time that this thread was awake and heard nothing
    bool left = false;          // said goodbye
  };
  struct Request {  // of the owner to the monitor thread
    std::string bytes;
    Deadline deadline;
  };
  struct Gather {  // rank 0: the one under way
    std::map<int, std::string> parts;
    std::optional<Deadline> deadline;  // the earliest of those who wait
    Clock::time_point start;
  };

  // All below run on the monitor thread.
  void run();
  void take_requests();
  void poll_connections(int timeout_ms);
  void read_from(int rank, Peer& peer);
  void handle_frames(int rank, Peer& peer);
  void handle(int rank, Peer& peer, const Frame& frame);
  void tick(Clock::duration awake);
  void judge_silence(int rank, Peer& peer);
  void judge_gather();
  void add_part(int rank, std::string bytes, Deadline deadline);
  void finish_gather();
  void lost(int rank, const std::string& what, bool kill);
  void announce(const Status& reason, int culprit, bool kill, int except);
  void send_goodbyes();
  std::string name(int rank) const { return members_[size_t(rank)].text(members_[size_t(rank_)]); }
  std::string names_of_missing() const;
  bool all_closed() const;
  bool is_hub() const { return rank_ == 0; }

  const int rank_;
  const std::vector<Member> members_;
  const std::shared_ptr<Failure> failure_;
  const MonitorTiming timing_;
  const Fd wake_;  // eventfd

  // Owned by the monitor thread.
  std::map<int, Peer> peers_;
  Gather gather_;
  u64 sequence_ = 0;  // of the gather under way
  bool announced_ = false;
  std::optional<Deadline> exit_at_;
  std::optional<Deadline> leave_by_;

  std::mutex mutex_;
  std::condition_variable gathered_changed_;
  std::optional<Request> request_;                    // guarded by mutex_
  std::optional<std::vector<std::string>> gathered_;  // guarded by mutex_
  bool leave_ = false;                                // guarded by mutex_

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace weft
