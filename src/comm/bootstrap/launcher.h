// Starts the ranks of one host as child processes and stays with them until all have ended.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "comm/bootstrap/environment.h"

namespace weft {

struct LaunchOptions {
  // true: every line of the ranks' output comes out whole, behind "[rank] ". false: they write to our own stdout and
  // stderr themselves.
  bool prefix = true;
  int first_rank = 0;
  int world_size = 0;  // 0: the ranks started here are all
  // Where the ranks meet; nullopt: at a unix socket of their own, this host only.
  std::optional<Rendezvous> rendezvous;
  // Further variables for every rank; these win over inherited ones.
  std::vector<std::pair<std::string, std::string>> environment;
};

// Runs `ranks` processes of `arguments` (the program, looked up in PATH, and its arguments; "weft" means this very
// program), each with RANK, LOCAL_RANK, WORLD_SIZE, WORLD_LOCAL_SIZE and WEFT_JOB or MASTER_ADDR and MASTER_PORT. Rank
// 0 of the world reads our stdin, the others /dev/null. Each rank leads a process group of its own, which ends with it.
// SIGINT, SIGTERM and SIGHUP are passed on. When a rank fails the others get half a second to say so themselves, then
// SIGTERM, and SIGKILL a second later. The ranks die with this process, however it ends.
// Must run on the main thread while no other thread exists: it blocks signals and forks.
// Returns 0, or the first failing rank's exit status (128 + n when signal n ended it). Errors: the program does not
// exist, no more processes or descriptors.
Result<int> launch_local_ranks(int ranks, const std::vector<std::string>& arguments, const LaunchOptions& options = {});

// The same for this program with the arguments it was started with.
Result<int> spawn_ranks(int ranks, const LaunchOptions& options);

// For every command that runs in a world: when the variables ask for the ranks of this host (NODE_RANK), runs this
// command as those ranks and returns the exit status to end with; nullopt when this process is to go on itself.
// arguments: the command, where it is not this program with the arguments it was started with.
Result<std::optional<int>> maybe_spawn_local_ranks(const WorldSpec& spec,
                                                   const std::vector<std::string>& arguments = {});

}  // namespace weft
