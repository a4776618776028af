#include "serve/rank_processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"
#include "comm/bootstrap/exec.h"
#include "comm/bootstrap/process_info.h"

namespace weft {
namespace {

constexpr auto kStoppedTooLong = std::chrono::milliseconds(500);

// Our environment without another world's: what launchers set, by name or by prefix.
std::vector<std::string> environment_of(int rank, int ranks, const std::string& job) {
  static constexpr std::string_view kNames[] = {"RANK",       "LOCAL_RANK", "WORLD_SIZE",       "WORLD_LOCAL_SIZE",
                                                "WEFT_JOB",   "NODE_RANK",  "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                                                "MASTER_PORT"};
  std::vector<std::string> all = environment_without([](std::string_view name) {
    return std::ranges::find(kNames, name) != std::end(kNames) || name.starts_with("OMPI_") ||
           name.starts_with("PMIX_") || name.starts_with("SLURM_");
  });
  if (ranks > 1) {  // one rank alone needs no world
    all.push_back(fmt::format("RANK={}", rank));
    all.push_back(fmt::format("LOCAL_RANK={}", rank));
    all.push_back(fmt::format("WORLD_SIZE={}", ranks));
    all.push_back(fmt::format("WORLD_LOCAL_SIZE={}", ranks));
    all.push_back("WEFT_JOB=" + job);
  }
  return all;
}

}  // namespace

struct RankProcesses::Rank {
  int rank = 0;
  pid_t pid = 0;
  Fd pidfd;
  bool running = true;
  std::optional<Clock::time_point> stopped_since;
};

RankProcesses::RankProcesses() = default;

Result<std::unique_ptr<RankProcesses>> RankProcesses::start(const RankCommand& command) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return error(Code::kResourceExhausted, "socketpair: {}", errno_text());
  }
  Fd ours(ends[0]), theirs(ends[1]);
  static int starts = 0;
  const std::string job = fmt::format("serve-{}-{}", ::getpid(), ++starts);
  std::unique_ptr<RankProcesses> all(new RankProcesses);
  for (int rank = 0; rank < command.ranks; ++rank) {
    WEFT_TRY(all->start_rank(rank, command, job, theirs));
    all->pids_.push_back(all->children_.back().pid);
  }
  theirs.reset();  // the ranks' end alone keeps it open
  all->socket_ = std::move(ours);
  return all;
}

Status RankProcesses::start_rank(int rank, const RankCommand& command, const std::string& job, const Fd& executor) {
  // Between fork and exec only system calls: other threads may hold any lock.
  std::vector<std::string> arguments = {fmt::format("weft rank {}/{}", rank, command.ranks)};
  arguments.insert(arguments.end(), command.arguments.begin(), command.arguments.end());
  if (rank == 0) {
    arguments.emplace_back("--executor-fd");
    arguments.push_back(std::to_string(executor.get()));
  }
  std::vector<std::string> environment = environment_of(rank, command.ranks, job);
  std::vector<char*> argv = exec_pointers(arguments), envp = exec_pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return error(Code::kResourceExhausted, "fork of rank {}: {}", rank, errno_text());
  if (pid == 0) {
    ::setpgid(0, 0);  // the terminal's Ctrl-C is the server's to handle
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    if (rank == 0) ::fcntl(executor.get(), F_SETFD, 0);
    ::execve("/proc/self/exe", argv.data(), envp.data());
    ::_exit(127);
  }
  ::setpgid(pid, pid);
  Rank child;
  child.rank = rank;
  child.pid = pid;
  child.pidfd = Fd(int(::syscall(SYS_pidfd_open, pid, 0)));
  children_.push_back(std::move(child));
  return {};
}

RankProcesses::~RankProcesses() {
  end(std::chrono::milliseconds(0));
}

int RankProcesses::running() const {
  int count = 0;
  for (const Rank& rank : children_) count += rank.running;
  return count;
}

Status RankProcesses::look_at(Rank& rank) {
  if (!rank.running) return {};
  int status = 0;
  const pid_t ended = ::waitpid(rank.pid, &status, WNOHANG);
  if (ended == rank.pid) {
    rank.running = false;
    if (rank.stopped_since) {  // the other ranks noticed first
      return error(Code::kUnavailable, "rank {} (pid {}) was stopped, and then ended by signal {}", rank.rank, rank.pid,
                   WTERMSIG(status));
    }
    if (WIFSIGNALED(status)) {
      return error(Code::kUnavailable, "rank {} (pid {}) was ended by signal {} ({})", rank.rank, rank.pid,
                   WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    }
    return error(Code::kUnavailable, "rank {} (pid {}) exited with status {}", rank.rank, rank.pid,
                 WEXITSTATUS(status));
  }
  const auto state = process_state(rank.pid);
  const bool stopped = state && (state->state == 'T' || state->state == 't');
  if (!stopped) {
    rank.stopped_since.reset();
  } else if (!rank.stopped_since) {
    rank.stopped_since = Clock::now();
  } else if (Clock::now() - *rank.stopped_since > kStoppedTooLong) {
    return error(Code::kUnavailable, "rank {} (pid {}) is stopped", rank.rank, rank.pid);
  }
  return {};
}

Status RankProcesses::watch(std::chrono::milliseconds wait) {
  std::vector<pollfd> polled;
  for (const Rank& rank : children_) polled.push_back({rank.running ? rank.pidfd.get() : -1, POLLIN, 0});
  ::poll(polled.data(), polled.size(), int(wait.count()));
  Status first;
  for (Rank& rank : children_) {
    const Status status = look_at(rank);
    const bool killed = status.message().find("by signal") != std::string::npos;
    if (!status.ok() && (first.ok() || killed)) first = status;
  }
  return first;
}

void RankProcesses::end(std::chrono::milliseconds grace) {
  const Deadline deadline = Deadline::after(grace);
  auto reap = [&](int options) {
    for (Rank& rank : children_) {
      if (rank.running && ::waitpid(rank.pid, nullptr, options) == rank.pid) rank.running = false;
    }
  };
  while (running() > 0 && !deadline.expired()) {
    reap(WNOHANG);
    if (running() > 0) ::poll(nullptr, 0, 10);
  }
  for (const Rank& rank : children_) {
    if (rank.running) ::kill(-rank.pid, SIGKILL);
  }
  reap(0);
}

void set_process_title(const std::string& title) {
  ::prctl(PR_SET_NAME, title.substr(0, 15).c_str());
}

}  // namespace weft
