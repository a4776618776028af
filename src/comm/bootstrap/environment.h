// From environment variables to the part that this process plays in a world. Pure: no system call.
#pragma once
#include <functional>
#include <string>

#include "base/status.h"

namespace weft {

// Largest world that start-up accepts.
inline constexpr int kMaxWorldSize = 4096;

// Where rank 0 listens while a world starts: TCP when `host` is set, else an abstract unix socket.
struct Rendezvous {
  std::string host;
  int port = 0;
  std::string socket;  // name in the abstract namespace, without the leading zero byte

  bool is_tcp() const { return !host.empty(); }
  // "127.0.0.1:29500", or "unix socket @name".
  std::string text() const;
};

struct WorldSpec {
  enum class Kind {
    kAlone,  // no variable speaks of a world
    kRank,   // this process is one rank
    kSpawn,  // this process starts the ranks [rank, rank + local_size) of this host
  };
  Kind kind = Kind::kAlone;
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;  // ranks of this host; `size` where the variables do not say
  Rendezvous rendezvous;
  std::string job;  // ranks of one world agree on it; empty where only the address identifies the world
};

// The value of a variable, or null.
using Lookup = std::function<const char*(const char* name)>;

// Reads, first match wins:
//   RANK WORLD_SIZE [LOCAL_RANK] [WORLD_LOCAL_SIZE | LOCAL_WORLD_SIZE]               torchrun, weft launch -> kRank
//   OMPI_COMM_WORLD_RANK _SIZE [_LOCAL_RANK] [_LOCAL_SIZE]                           mpirun -> kRank
//   SLURM_PROCID SLURM_NTASKS [SLURM_LOCALID]                                        srun -> kRank
//   NODE_RANK WORLD_SIZE WORLD_LOCAL_SIZE                                            one command per host -> kSpawn
// MASTER_ADDR and MASTER_PORT say where rank 0 listens. Without them, on one host, a unix socket is named after the
// user and the job: WEFT_JOB, PMIX_NAMESPACE, or SLURM_JOB_ID and SLURM_STEP_ID. So also under torchrun
// (TORCHELASTIC_RUN_ID), which listens at MASTER_PORT itself.
// Errors: kInvalidArgument with the variable and its value.
Result<WorldSpec> world_spec(const Lookup& get, unsigned uid);

// The same for this process's environment and user.
Result<WorldSpec> world_spec_from_environment();

// The name of a job's unix socket. Short enough for sun_path; the end of a long job name counts.
std::string job_socket(unsigned uid, const std::string& job);

}  // namespace weft
