// What ranks tell each other about their processes, and what one can see of a neighbour on the same host.
#pragma once
#include <optional>
#include <string>

#include "base/types.h"

namespace weft {

// One rank's process as it introduces itself. Fixed layout: it travels as these bytes between builds of one protocol
// version on machines of one byte order.
struct Member {
  i32 rank = -1;
  i32 pid = 0;
  u64 start_ticks = 0;     // start time of the process: tells it from a later one with the same pid
  char host_id[144] = {};  // boot id, pid and network namespace: equal where signals and unix sockets reach
  char host_name[64] = {};

  bool same_host(const Member& other) const { return std::string_view(host_id) == other.host_id; }
  // "rank 2 (pid 123)", with the host's name when it is not `from`'s.
  std::string text(const Member& from) const;
};

Member this_process(int rank);

struct ProcessState {
  char state;  // as in /proc/<pid>/stat: R, S, D, T (stopped), t (traced), Z ...
  u64 start_ticks;
};
// nullopt when there is no such process.
std::optional<ProcessState> process_state(i32 pid);

// The state of a member on this host; 'X' once it has ended, even if its pid lives again.
char member_state(const Member& member);
// SIGKILLs a member on this host; no effect once it has ended.
void kill_member(const Member& member);

}  // namespace weft
