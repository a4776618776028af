// Starts a test of this very program again, as the ranks of a world, for tests in which processes die.
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "comm/bootstrap/exec.h"

namespace weft {

struct RankEnd {
  pid_t pid = 0;
  int status = -1;     // as waitpid() has it; -1 where the process had to be killed at the deadline
  std::string output;  // what it wrote to stdout and stderr

  bool exited(int code) const { return status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == code; }
  bool killed_by(int signal) const { return status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == signal; }
};

// Runs `test` (a DISABLED_ one, so that it runs only here) as `ranks` processes and waits until all have ended.
inline Result<std::vector<RankEnd>> spawn_test_ranks(int ranks, const std::string& test, Deadline deadline) {
  static int count = 0;
  const std::string job = fmt::format("spawned-{}-{}", ::getpid(), ++count);
  std::vector<std::string> arguments = {std::filesystem::read_symlink("/proc/self/exe").string(),
                                        "--gtest_filter=" + test, "--gtest_also_run_disabled_tests"};
  std::vector<RankEnd> ends(static_cast<size_t>(ranks));
  std::vector<Fd> outputs;
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<std::string> environment = environment_without([](std::string_view name) {
      return name == "RANK" || name == "WORLD_SIZE" || name == "WORLD_LOCAL_SIZE" || name == "LOCAL_RANK" ||
             name == "MASTER_ADDR" || name == "MASTER_PORT" || name == "WEFT_JOB" || name == "NODE_RANK" ||
             name.starts_with("GTEST_") || name.starts_with("TEST_");
    });
    environment.insert(environment.end(), {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", ranks),
                                           fmt::format("WORLD_LOCAL_SIZE={}", ranks), "WEFT_JOB=" + job});
    int ends_of_pipe[2];
    if (::pipe2(ends_of_pipe, O_CLOEXEC) != 0) return error(Code::kIo, "pipe: {}", errno_text());
    const Fd writer(ends_of_pipe[1]);
    outputs.emplace_back(ends_of_pipe[0]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, writer.get(), STDERR_FILENO);
    const int fault = ::posix_spawn(&ends[size_t(rank)].pid, arguments[0].c_str(), &actions, nullptr,
                                    exec_pointers(arguments).data(), exec_pointers(environment).data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (fault != 0) return error(Code::kIo, "posix_spawn: {}", std::strerror(fault));
  }
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    bool open = true;
    while (open && !deadline.expired()) {
      pollfd wait{outputs[rank].get(), POLLIN, 0};
      if (::poll(&wait, 1, deadline.poll_ms()) <= 0) continue;
      char bytes[4096];
      const ssize_t got = ::read(outputs[rank].get(), bytes, sizeof bytes);
      open = got > 0;
      if (open) ends[rank].output.append(bytes, size_t(got));
    }
    if (open) ::kill(ends[rank].pid, SIGKILL);
    int status = 0;
    ::waitpid(ends[rank].pid, &status, 0);
    ends[rank].status = open ? -1 : status;
  }
  return ends;
}

}  // namespace weft
