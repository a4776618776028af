// The ranks of one model as child processes of the server: started, watched, ended.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace weft {

struct RankCommand {
  int ranks = 1;
  std::vector<std::string> arguments;  // of this program, for every rank; "--executor-fd N" is added for rank 0
};

class RankProcesses {
 public:
  // Starts the ranks: this program with `arguments`, RANK and WORLD_SIZE in the environment, the process title
  // "weft rank 0/2". They stay in our session, and die with the calling thread, however it ends. All calls must come
  // from that thread.
  static Result<std::unique_ptr<RankProcesses>> start(const RankCommand& command);
  ~RankProcesses();  // end()

  // The stream socket to rank 0, once.
  Fd take_socket() { return std::move(socket_); }
  const std::vector<int>& pids() const { return pids_; }

  // Waits up to `wait` for a rank to end. Ok while all are there; else which one is lost, and how: ended, or stopped
  // for more than half a second. One that a signal ended goes before those that exited because of it.
  Status watch(std::chrono::milliseconds wait);
  // Gives the ranks `grace` to end, and kills what is left.
  void end(std::chrono::milliseconds grace);

 private:
  struct Rank;
  RankProcesses();
  Status start_rank(int rank, const RankCommand& command, const std::string& job, const Fd& executor);
  Status look_at(Rank& rank);
  int running() const;

  std::vector<Rank> children_;
  std::vector<int> pids_;
  Fd socket_;
};

// Names this process, for instance "weft rank 0/2", in process lists.
void set_process_title(const std::string& title);

}  // namespace weft
