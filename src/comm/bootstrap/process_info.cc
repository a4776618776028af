#include "comm/bootstrap/process_info.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/file.h"

namespace weft {
namespace {

template <size_t kSize>
void copy_text(char (&target)[kSize], std::string_view text) {
  const size_t bytes = std::min(text.size(), kSize - 1);
  std::memcpy(target, text.data(), bytes);
  target[bytes] = 0;
}

std::string link_text(const char* path) {
  std::error_code fault;
  return std::filesystem::read_symlink(path, fault).string();
}

}  // namespace

std::string Member::text(const Member& from) const {
  if (same_host(from)) return fmt::format("rank {} (pid {})", rank, pid);
  return fmt::format("rank {} (pid {} on {})", rank, pid, host_name);
}

Member this_process(int rank) {
  Member self;
  self.rank = rank;
  self.pid = ::getpid();
  if (const auto state = process_state(self.pid)) self.start_ticks = state->start_ticks;
  char name[sizeof self.host_name] = "unknown";
  ::gethostname(name, sizeof name - 1);
  copy_text(self.host_name, name);
  std::string boot = read_file("/proc/sys/kernel/random/boot_id").ok()
                         ? read_file("/proc/sys/kernel/random/boot_id").value()
                         : std::string(name);
  while (!boot.empty() && boot.back() == '\n') boot.pop_back();
  copy_text(self.host_id,
            fmt::format("{} {} {}", boot, link_text("/proc/self/ns/pid"), link_text("/proc/self/ns/net")));
  return self;
}

std::optional<ProcessState> process_state(i32 pid) {
  auto stat = read_file(fmt::format("/proc/{}/stat", pid));
  if (!stat.ok()) return std::nullopt;
  // proc(5): "pid (name) state ppid ...": the name may hold anything, so count fields from the last ')'.
  const size_t name_end = stat->rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::string_view rest(*stat);
  rest.remove_prefix(name_end + 2);
  const char state = rest.empty() ? '?' : rest[0];
  constexpr int kStartTime = 22 - 3;  // field 22, and `rest` starts at field 3
  for (int field = 0; field < kStartTime; ++field) {
    const size_t space = rest.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    rest.remove_prefix(space + 1);
  }
  u64 start = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), start);
  return ProcessState{state, start};
}

char member_state(const Member& member) {
  const auto state = process_state(member.pid);
  return state && state->start_ticks == member.start_ticks ? state->state : 'X';
}

void kill_member(const Member& member) {
  if (member_state(member) != 'X') ::kill(member.pid, SIGKILL);
}

}  // namespace weft
