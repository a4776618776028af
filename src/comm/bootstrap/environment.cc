#include "comm/bootstrap/environment.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <optional>

namespace weft {
namespace {

// The variables of one launcher; null where it has none.
struct Names {
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};
constexpr Names kLaunchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "WORLD_LOCAL_SIZE"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr},
};

// Absent: nullopt. Present: a whole decimal number in [low, high], or an error.
Result<std::optional<int>> number(const Lookup& get, const char* name, int low, int high) {
  const char* text = name ? get(name) : nullptr;
  if (!text) return std::optional<int>();
  const std::string_view value(text);
  int parsed = 0;
  const auto [end, fault] = std::from_chars(value.data(), value.data() + value.size(), parsed);
  if (fault != std::errc() || end != value.data() + value.size() || parsed < low || parsed > high) {
    return error(Code::kInvalidArgument, "{}='{}': expected a number from {} to {}", name, value, low, high);
  }
  return std::optional<int>(parsed);
}

Result<int> needed(const Lookup& get, const char* name, int low, int high, const char* because) {
  WEFT_ASSIGN(const auto value, number(get, name, low, high));
  if (!value) return error(Code::kInvalidArgument, "{} is set but {} is not", because, name);
  return *value;
}

Status below(const char* name, int value, const char* limit_name, int limit) {
  if (value < limit) return {};
  return error(Code::kInvalidArgument, "{}={} is not below {}={}", name, value, limit_name, limit);
}

std::string job_name(const Lookup& get) {
  for (const char* name : {"WEFT_JOB", "PMIX_NAMESPACE"}) {
    if (const char* job = get(name); job && *job) return job;
  }
  if (const char* run = get("TORCHELASTIC_RUN_ID")) {
    const char* port = get("MASTER_PORT");
    const char* restart = get("TORCHELASTIC_RESTART_COUNT");
    return fmt::format("torchrun-{}-{}-{}", run, port ? port : "", restart ? restart : "");
  }
  const char* job = get("SLURM_JOB_ID");
  const char* step = get("SLURM_STEP_ID");
  return job && step ? fmt::format("slurm-{}.{}", job, step) : "";
}

// Fills rendezvous and job. A world of one rank meets nobody and needs neither.
Status find_rendezvous(const Lookup& get, unsigned uid, bool one_host, WorldSpec& spec) {
  const char* host = get("MASTER_ADDR");
  WEFT_ASSIGN(const auto port, number(get, "MASTER_PORT", 1, 65535));
  if (host && !*host) return error(Code::kInvalidArgument, "MASTER_ADDR='': expected a host name or address");
  if (host && !port) return error(Code::kInvalidArgument, "MASTER_ADDR='{}' is set but MASTER_PORT is not", host);
  if (port && !host) return error(Code::kInvalidArgument, "MASTER_PORT={} is set but MASTER_ADDR is not", *port);
  spec.job = job_name(get);
  // torchrun itself listens on MASTER_PORT.
  const bool taken = get("TORCHELASTIC_RUN_ID") != nullptr && one_host;
  if (host && !taken) {
    spec.rendezvous = {.host = host, .port = *port, .socket = {}};
    return {};
  }
  if (spec.size == 1) return {};
  if (!one_host) {
    return error(Code::kInvalidArgument, "{} ranks on several hosts need MASTER_ADDR and MASTER_PORT", spec.size);
  }
  if (spec.kind == WorldSpec::Kind::kSpawn) return {};  // the launcher names the socket
  if (spec.job.empty()) {
    return error(Code::kInvalidArgument,
                 "nothing says where the {} ranks meet: set MASTER_ADDR and MASTER_PORT, or start them with weft "
                 "launch, mpirun or srun",
                 spec.size);
  }
  spec.rendezvous.socket = job_socket(uid, spec.job);
  return {};
}

Result<WorldSpec> one_rank(const Lookup& get, unsigned uid, const Names& names) {
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kRank;
  WEFT_ASSIGN(spec.rank, needed(get, names.rank, 0, kMaxWorldSize - 1, names.rank));
  WEFT_ASSIGN(spec.size, needed(get, names.size, 1, kMaxWorldSize, names.rank));
  WEFT_TRY(below(names.rank, spec.rank, names.size, spec.size));
  WEFT_ASSIGN(const auto stated, number(get, "WORLD_SIZE", 1, kMaxWorldSize));
  if (stated && *stated != spec.size) {
    return error(Code::kInvalidArgument, "WORLD_SIZE={} contradicts {}={}", *stated, names.size, spec.size);
  }

  const char* local_size_name = names.local_size;
  if (&names == &kLaunchers[0] && !get(local_size_name) && get("LOCAL_WORLD_SIZE"))
    local_size_name = "LOCAL_WORLD_SIZE";
  WEFT_ASSIGN(const auto local_size, number(get, local_size_name, 1, kMaxWorldSize));
  if (local_size) WEFT_TRY(below(local_size_name, *local_size - 1, names.size, spec.size));
  spec.local_size = local_size.value_or(spec.size);
  WEFT_ASSIGN(const auto local_rank, number(get, names.local_rank, 0, kMaxWorldSize - 1));
  if (local_rank) {
    WEFT_TRY(below(names.local_rank, *local_rank, local_size ? local_size_name : names.size, spec.local_size));
  }
  spec.local_rank = local_rank.value_or(spec.rank % spec.local_size);

  bool one_host = spec.local_size == spec.size;
  if (&names == &kLaunchers[2]) {
    for (const char* nodes_name : {"SLURM_STEP_NUM_NODES", "SLURM_NNODES"}) {
      WEFT_ASSIGN(const auto nodes, number(get, nodes_name, 1, 1 << 20));
      if (!nodes) continue;
      one_host = *nodes == 1;
      break;
    }
  }
  WEFT_TRY(find_rendezvous(get, uid, one_host, spec));
  return spec;
}

Result<WorldSpec> one_node(const Lookup& get, unsigned uid) {
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kSpawn;
  WEFT_ASSIGN(spec.size, needed(get, "WORLD_SIZE", 1, kMaxWorldSize, "NODE_RANK"));
  WEFT_ASSIGN(spec.local_size, needed(get, "WORLD_LOCAL_SIZE", 1, kMaxWorldSize, "NODE_RANK"));
  if (spec.size % spec.local_size != 0) {
    return error(Code::kInvalidArgument, "WORLD_SIZE={} is not a multiple of WORLD_LOCAL_SIZE={}", spec.size,
                 spec.local_size);
  }
  WEFT_ASSIGN(const int node, needed(get, "NODE_RANK", 0, kMaxWorldSize - 1, "NODE_RANK"));
  if (node >= spec.size / spec.local_size) {
    return error(Code::kInvalidArgument,
                 "NODE_RANK={} is not below the number of nodes, WORLD_SIZE={} / WORLD_LOCAL_SIZE={}", node, spec.size,
                 spec.local_size);
  }
  spec.rank = node * spec.local_size;
  WEFT_TRY(find_rendezvous(get, uid, spec.local_size == spec.size, spec));
  return spec;
}

}  // namespace

std::string Rendezvous::text() const {
  if (!is_tcp()) return "unix socket @" + socket;
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

std::string job_socket(unsigned uid, const std::string& job) {
  constexpr size_t kLongest = 80;  // sun_path holds 108 bytes
  return fmt::format("weft-{}-{}", uid, job.size() <= kLongest ? job : job.substr(job.size() - kLongest));
}

Result<WorldSpec> world_spec(const Lookup& get, unsigned uid) {
  for (const Names& names : kLaunchers) {
    if (get(names.rank)) return one_rank(get, uid, names);
  }
  if (get("NODE_RANK")) return one_node(get, uid);
  WEFT_ASSIGN(const auto size, number(get, "WORLD_SIZE", 1, kMaxWorldSize));
  if (size.value_or(1) > 1) {
    return error(Code::kInvalidArgument, "WORLD_SIZE={} is set but neither RANK nor NODE_RANK is", *size);
  }
  return WorldSpec();
}

Result<WorldSpec> world_spec_from_environment() {
  return world_spec([](const char* name) { return std::getenv(name); }, ::geteuid());
}

}  // namespace weft
