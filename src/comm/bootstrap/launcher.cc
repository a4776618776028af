#include "comm/bootstrap/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "base/file.h"
#include "comm/bootstrap/exec.h"
#include "comm/bootstrap/line_relay.h"
#include "comm/bootstrap/process_info.h"

namespace weft {
namespace {

constexpr auto kLastWords = std::chrono::milliseconds(500);     // from the first failure to SIGTERM
constexpr auto kTermination = std::chrono::milliseconds(1000);  // from SIGTERM to SIGKILL
constexpr int kSignals[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};

struct Pipe {
  Fd read, write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return error(Code::kResourceExhausted, "pipe: {}", errno_text());
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

struct Child {
  int rank = 0;
  pid_t pid = 0;
  bool running = true;
  Fd out, err;  // our ends of the pipes; invalid without prefixes
  std::unique_ptr<LineRelay> out_lines, err_lines;
};

// The ranks' environment: ours, less what describes another world, plus theirs.
std::vector<std::string> rank_environment(int rank, int local_rank, int ranks, const LaunchOptions& options,
                                          const std::string& job) {
  std::vector<std::pair<std::string, std::string>> set = options.environment;
  set.emplace_back("RANK", std::to_string(rank));
  set.emplace_back("LOCAL_RANK", std::to_string(local_rank));
  set.emplace_back("WORLD_SIZE", std::to_string(options.world_size ? options.world_size : ranks));
  set.emplace_back("WORLD_LOCAL_SIZE", std::to_string(ranks));
  std::vector<std::string> dropped = {"NODE_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"};
  if (options.rendezvous && options.rendezvous->is_tcp()) {
    set.emplace_back("MASTER_ADDR", options.rendezvous->host);
    set.emplace_back("MASTER_PORT", std::to_string(options.rendezvous->port));
  } else {
    set.emplace_back("WEFT_JOB", job);
  }
  for (const auto& [name, value] : set) dropped.push_back(name);
  std::vector<std::string> all = environment_without(
      [&](std::string_view name) { return std::find(dropped.begin(), dropped.end(), name) != dropped.end(); });
  for (const auto& [name, value] : set) all.push_back(name + "=" + value);
  return all;
}

class Launcher {
 public:
  explicit Launcher(const LaunchOptions& options) : options_(options), out_(STDOUT_FILENO), err_(STDERR_FILENO) {
    sigset_t watched;
    ::sigemptyset(&watched);
    for (const int signal : kSignals) ::sigaddset(&watched, signal);
    ::sigprocmask(SIG_BLOCK, &watched, &mask_before_);
    signals_ = Fd(::signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
    pipe_action_before_ = ::signal(SIGPIPE, SIG_IGN);
  }
  ~Launcher() {
    kill_all(SIGKILL);
    for (Child& child : children_) {
      if (child.running) ::waitpid(child.pid, nullptr, 0);
    }
    ::signal(SIGPIPE, pipe_action_before_);
    ::sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
  }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  Status start(int ranks, std::vector<std::string> arguments) {
    const Member self = this_process(-1);
    const std::string job = fmt::format("launch-{}-{}", self.pid, self.start_ticks);
    for (int i = 0; i < ranks; ++i) {
      auto environment = rank_environment(options_.first_rank + i, i, ranks, options_, job);
      WEFT_TRY(start_rank(options_.first_rank + i, arguments, environment));
    }
    return {};
  }

  // Until every rank has ended and all their output is written.
  int run() {
    while (running() > 0) {
      poll_once();
      reap();
      escalate();
    }
    for (Child& child : children_) {
      while (read_some(child.out, child.out_lines) || read_some(child.err, child.err_lines)) flush();
      if (child.out_lines) child.out_lines->finish();
      if (child.err_lines) child.err_lines->finish();
    }
    report_failure();
    flush();
    return exit_code_;
  }

 private:
  Status start_rank(int rank, std::vector<std::string>& arguments, std::vector<std::string>& environment) {
    Child child;
    child.rank = rank;
    Pipe out, err;
    if (options_.prefix) {
      WEFT_ASSIGN(out, make_pipe());
      WEFT_ASSIGN(err, make_pipe());
    }
    WEFT_ASSIGN(Pipe fault, make_pipe());
    Fd input;
    if (rank == 0 && ::isatty(STDIN_FILENO)) {  // a rank is in the background of the terminal and may not read it
      WEFT_ASSIGN(Pipe pipe, make_pipe());
      input = std::move(pipe.read);
      to_stdin_ = std::move(pipe.write);
    } else if (rank != 0) {
      input = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    std::vector<char*> argv = exec_pointers(arguments), envp = exec_pointers(environment);
    const char* program = arguments[0] == "weft" ? "/proc/self/exe" : argv[0];
    const pid_t parent = ::getpid();
    child.pid = ::fork();
    if (child.pid < 0) return error(Code::kResourceExhausted, "fork of rank {}: {}", rank, errno_text());
    if (child.pid == 0) {
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);
      if (input.valid()) ::dup2(input.get(), STDIN_FILENO);
      if (out.write.valid()) ::dup2(out.write.get(), STDOUT_FILENO);
      if (err.write.valid()) ::dup2(err.write.get(), STDERR_FILENO);
      ::signal(SIGPIPE, pipe_action_before_);
      ::sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
      ::execvpe(program, argv.data(), envp.data());
      const int reason = errno;
      (void)!::write(fault.write.get(), &reason, sizeof reason);
      ::_exit(127);
    }
    ::setpgid(child.pid, child.pid);  // whichever comes first, here or there
    fault.write.reset();
    int reason = 0;
    const bool failed = ::read(fault.read.get(), &reason, sizeof reason) > 0;  // ends at exec
    if (options_.prefix) {
      const std::string prefix = fmt::format("[{}] ", rank);
      child.out_lines = std::make_unique<LineRelay>(prefix, out_);
      child.err_lines = std::make_unique<LineRelay>(prefix, err_);
      child.out = std::move(out.read);
      child.err = std::move(err.read);
      for (const Fd* fd : {&child.out, &child.err}) ::fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    }
    children_.push_back(std::move(child));
    if (failed) return error(Code::kNotFound, "{}: {}", arguments[0], std::strerror(reason));
    return {};
  }

  int running() const {
    return int(std::count_if(children_.begin(), children_.end(), [](const Child& child) { return child.running; }));
  }

  void kill_all(int signal) {
    for (const Child& child : children_) {
      if (child.running) ::kill(-child.pid, signal);
    }
  }

  void poll_once() {
    std::vector<pollfd> polled{{signals_.get(), POLLIN, 0}};
    std::vector<std::pair<Fd*, LineRelay*>> pipes;
    pollfd room{to_stdin_.get(), POLLOUT, 0};
    if (to_stdin_.valid() && ::poll(&room, 1, 0) > 0 && ::tcgetpgrp(STDIN_FILENO) == ::getpgrp()) {
      polled.push_back({STDIN_FILENO, POLLIN, 0});
    }
    const bool reads_terminal = polled.size() == 2;
    const size_t outputs = polled.size();
    polled.push_back({out_.empty() ? -1 : out_.fd(), POLLOUT, 0});
    polled.push_back({err_.empty() ? -1 : err_.fd(), POLLOUT, 0});
    for (Child& child : children_) {
      if (child.out.valid() && !out_.full()) pipes.emplace_back(&child.out, child.out_lines.get());
      if (child.err.valid() && !err_.full()) pipes.emplace_back(&child.err, child.err_lines.get());
    }
    for (auto& [fd, lines] : pipes) polled.push_back({fd->get(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), 100);
    if (polled[0].revents) take_signals();
    if (reads_terminal && polled[1].revents) relay_input();
    if (polled[outputs].revents) out_.write_some();
    if (polled[outputs + 1].revents) err_.write_some();
    for (size_t i = 0; i < pipes.size(); ++i) {
      if (polled[outputs + 2 + i].revents) read_some(*pipes[i].first, pipes[i].second);
    }
    if (out_.broken()) failed(128 + SIGPIPE, true, {});
  }

  // One read; returns whether there may be more. The end closes the pipe.
  bool read_some(Fd& fd, LineRelay* lines) {
    if (!fd.valid()) return false;
    char buffer[64 * 1024];
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got > 0) lines->push({buffer, size_t(got)});
    if (got == 0) fd.reset();
    return got > 0;
  }
  bool read_some(Fd& fd, const std::unique_ptr<LineRelay>& lines) { return read_some(fd, lines.get()); }

  void relay_input() {
    char buffer[PIPE_BUF];
    const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (got <= 0 || ::write(to_stdin_.get(), buffer, size_t(got)) != got) to_stdin_.reset();
  }

  void take_signals() {
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      kill_all(int(info.ssi_signo));
      if (info.ssi_signo != SIGINT && ++terminations_ > 1) kill_all(SIGKILL);  // asked twice
    }
  }

  void reap() {
    for (Child& child : children_) {
      siginfo_t info{};
      if (!child.running || ::waitid(P_PID, id_t(child.pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0) continue;
      if (info.si_pid == 0) continue;
      ::kill(-child.pid, SIGKILL);  // what the rank left behind; as long as it is a zombie the group is surely its own
      ::waitpid(child.pid, nullptr, 0);
      child.running = false;
      const bool killed = info.si_code != CLD_EXITED;
      if (!killed && info.si_status == 0) continue;
      const std::string what =
          killed ? fmt::format("was ended by signal {} ({})", info.si_status, ::strsignal(info.si_status))
                 : fmt::format("exited with status {}", info.si_status);
      failed(killed ? 128 + info.si_status : info.si_status, killed,
             fmt::format("weft: rank {} (pid {}) {}\n", child.rank, child.pid, what));
    }
  }

  // The first failure counts. But a killed process closes its sockets before it can be reaped: ranks that end because
  // of that may be seen first, so until we kill ourselves, a killed rank goes before one that exited.
  void failed(int exit_code, bool killed, std::string report) {
    if (exit_code_ != 0 && !(killed && !was_killed_ && terminate_at_)) return;
    if (exit_code_ == 0) terminate_at_ = Deadline::after(kLastWords);
    exit_code_ = exit_code;
    was_killed_ = killed;
    report_ = std::move(report);
  }

  void report_failure() {
    if (terminations_ == 0) err_.push(report_);
    report_.clear();
  }

  void escalate() {
    if (terminate_at_ && terminate_at_->expired()) {
      report_failure();
      kill_all(SIGTERM);
      terminate_at_.reset();
      kill_at_ = Deadline::after(kTermination);
    }
    if (kill_at_ && kill_at_->expired()) kill_all(SIGKILL);
  }

  void flush() {
    for (OutputQueue* queue : {&out_, &err_}) {
      while (!queue->empty()) {
        pollfd wait{queue->fd(), POLLOUT, 0};
        if (::poll(&wait, 1, 1000) > 0) queue->write_some();
      }
    }
  }

  const LaunchOptions& options_;
  OutputQueue out_, err_;
  std::vector<Child> children_;
  Fd signals_, to_stdin_;
  sigset_t mask_before_{};
  sighandler_t pipe_action_before_ = SIG_DFL;
  int exit_code_ = 0;  // of the failure that counts
  bool was_killed_ = false;
  std::string report_;
  int terminations_ = 0;
  std::optional<Deadline> terminate_at_, kill_at_;
};

}  // namespace

Result<int> launch_local_ranks(int ranks, const std::vector<std::string>& arguments, const LaunchOptions& options) {
  if (ranks < 1 || ranks > kMaxWorldSize) {
    return error(Code::kInvalidArgument, "{} ranks: expected 1 to {}", ranks, kMaxWorldSize);
  }
  if (arguments.empty()) return error(Code::kInvalidArgument, "no command to launch");
  Launcher launcher(options);
  WEFT_TRY(launcher.start(ranks, arguments));
  return launcher.run();
}

Result<int> spawn_ranks(int ranks, const LaunchOptions& options) {
  WEFT_ASSIGN(const std::string line, read_file("/proc/self/cmdline"));  // each argument ends with a zero byte
  std::vector<std::string> arguments;
  for (size_t start = 0; start < line.size(); start = line.find('\0', start) + 1) arguments.emplace_back(&line[start]);
  arguments.at(0) = "weft";
  return launch_local_ranks(ranks, arguments, options);
}

Result<std::optional<int>> maybe_spawn_local_ranks(const WorldSpec& spec, const std::vector<std::string>& arguments) {
  if (spec.kind != WorldSpec::Kind::kSpawn) return std::optional<int>();
  LaunchOptions options;
  options.prefix = false;
  options.first_rank = spec.rank;
  options.world_size = spec.size;
  if (spec.rendezvous.is_tcp()) options.rendezvous = spec.rendezvous;
  WEFT_ASSIGN(const int code, arguments.empty() ? spawn_ranks(spec.local_size, options)
                                                : launch_local_ranks(spec.local_size, arguments, options));
  return std::optional<int>(code);
}

}  // namespace weft
