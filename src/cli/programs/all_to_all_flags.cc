#include "cli/programs/all_to_all_flags.h"

#include <fmt/format.h>

#include <thread>

#include "base/log.h"
#include "comm/bootstrap/launcher.h"
#include "comm/bootstrap/rank_host.h"
#include "device/cpu_features.h"
#include "ops/quantise/quantise.h"

namespace weft {
namespace {

constexpr std::chrono::seconds kStartDeadline{60};

Result<DType> dtype_of(const std::string& name) {
  if (name == "fp8") return DType::kU8;  // bytes are moved, whatever they mean
  if (name == "bf16") return DType::kBF16;
  if (name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  return error(Code::kInvalidArgument, "dtype '{}' is not one of fp8, bf16, f16, f32", name);
}

// Room for everything at these sizes: address space, resident only where it is used.
i64 arena_bytes(const AllToAllFlags& f, int ranks) {
  const i64 rows = 2 * (f.tokens + 1) * ranks;
  const i64 bytes = rows * (f.hidden * 4 + 8 * f.top_k + 512) + 2 * (f.tokens + 1) * (ranks + f.top_k) * f.hidden * 4;
  return 2 * bytes + (i64(64) << 20);
}

Status run_rank(World& world, const AllToAllFlags& flags, const AllToAllWork& work) {
  const std::chrono::milliseconds deadline(i64(flags.deadline_s * 1000));
  if (flags.device == "cuda") return work.cuda(world, deadline);
  CommunicatorOptions options;
  options.deadline = deadline;
  options.arena_bytes = arena_bytes(flags, world.size());
  WEFT_ASSIGN(auto comm, Communicator::create(world, options));
  const bool fits = comm.size() * flags.threads <= usable_cpu_count();
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = flags.threads, .cpus = {}, .spin = fits ? 20000 : 200}));
  return work.cpu(comm, *pool);
}

Status run_world(const AllToAllFlags& flags, const WorldSpec& spec, const AllToAllWork& work) {
  const MonitorTiming timing = flags.device == "cuda" ? MonitorTiming::for_gpus() : MonitorTiming{};
  if (spec.kind == WorldSpec::Kind::kAlone)
    return RankHost(spec, timing).run(flags.ranks, [&](World& world) { return run_rank(world, flags, work); });
  WEFT_ASSIGN(const auto world, join_world(spec, Deadline::after(kStartDeadline), timing));
  const Status status = run_rank(*world, flags, work);
  if (!status.ok()) world->fail(status);
  return status;
}

}  // namespace

void AllToAllFlags::declare(CLI::App& app) {
  const CLI::Range size(i64(1), i64(1) << 20);
  app.add_option("--tokens", tokens, "Tokens of a rank (of a DP group), at most")->capture_default_str()->check(size);
  app.add_option("--experts", experts, "Experts of all ranks")->capture_default_str()->check(size);
  app.add_option("--top-k", top_k, "Experts of a token")->capture_default_str()->check(CLI::Range(1, 32));
  app.add_option("--hidden", hidden, "Elements of a token")->capture_default_str()->check(size);
  app.add_option("--device", device, "cpu, or cuda: rank r on the r-th GPU, in turn where there are fewer")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--dtype", dtype, "What dispatch moves")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp8", "bf16", "f16", "f32"}));
  app.add_option("--scale-block", scale_block, "fp8: elements per f32 scale; 0 = no scales")
      ->capture_default_str()
      ->check(CLI::Range(i64(0), i64(1) << 20));
  app.add_option("--cast", cast, "fp8 with scales: dispatch takes x in this type and casts it on the way")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app.add_option("--out-dtype", out_dtype, "What combine moves and returns")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app.add_option("--combine", combine, "pre_reduced: one row per token and rank; exact: one per token and expert")
      ->capture_default_str()
      ->check(CLI::IsMember({"pre_reduced", "exact"}));
  app.add_option("--dp-size", dp_size, "Ranks that hold the same tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  app.add_option("--capacity", capacity, "Rows of an expert; 0 = as many as can come")
      ->capture_default_str()
      ->check(CLI::Range(i64(0), i64(1) << 24));
  app.add_option("--routing", routing, "uniform, zipf, one_hot, holes, mixed")->capture_default_str();
  app.add_flag("--split", split, "Send and receive as calls of their own");
  app.add_flag("--early-weights", early_weights, "Dispatch takes the weights along");
  app.add_flag("--map", map, "A row map instead of copied rows");
  app.add_option("--ranks", ranks, "Outside a world: ranks, as threads of this process")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  app.add_option("--threads", threads, "Threads per rank (cpu)")->capture_default_str()->check(CLI::Range(1, 128));
  app.add_option("--deadline", deadline_s, "Longest wait for another rank, in seconds")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app.add_flag("--json", json, "Print one JSON object");
}

Result<ep::CheckCase> AllToAllFlags::check_case() const {
  ep::CheckCase check;
  check.shape.max_num_tokens = tokens;
  check.shape.num_experts = experts;
  check.shape.experts_per_token = top_k;
  check.shape.dp_size = dp_size;
  check.shape.hidden_dim = hidden;
  check.options.expert_capacity = capacity;
  check.options.combine = combine == "exact" ? ep::CombineMode::kExact : ep::CombineMode::kPreReduced;
  WEFT_ASSIGN(check.x_dtype, dtype_of(dtype));
  WEFT_ASSIGN(check.out_dtype, dtype_of(out_dtype));
  check.options.combine_dtype = check.out_dtype;
  check.scale_block = dtype == "fp8" ? scale_block : 0;
  if (!cast.empty()) {
    if (dtype != "fp8" || scale_block != kFp8Block)
      return error(Code::kInvalidArgument, "--cast: goes with --dtype fp8 --scale-block {}", kFp8Block);
    check.options.cast_x_to_fp8 = true;
    WEFT_ASSIGN(check.cast_from, dtype_of(cast));
  }
  WEFT_ASSIGN(check.routing, ep::parse_routing(routing));
  check.split = split;
  check.early = early_weights;
  check.map = map;
  return check;
}

int run_all_to_all_ranks(const AllToAllFlags& flags, const AllToAllWork& work) {
  const auto outcome = [&]() -> Result<int> {
    WEFT_TRY(check_cpu_isa());
    WEFT_ASSIGN(const WorldSpec spec, world_spec_from_environment());
    WEFT_ASSIGN(const std::optional<int> spawned, maybe_spawn_local_ranks(spec));
    if (spawned) return *spawned;  // this process was only the launcher of its host's ranks
    WEFT_TRY(run_world(flags, spec, work));
    return 0;
  }();
  if (outcome.ok()) return *outcome;
  fmt::print(stderr, "all_to_all: {}\n", outcome.status().message());
  return 1;
}

int all_to_all_main(CLI::App& app, int argc, char** argv, const std::function<int()>& run) {
  try {
    app.parse(argc, argv);
    const Status logging = init_logging("warn");
    if (!logging.ok()) return 1;
    return run();
  } catch (const CLI::ParseError& fault) {
    return app.exit(fault) == 0 ? 0 : 2;
  } catch (const std::exception& fault) {  // a library's: bad_alloc and the like
    fmt::print(stderr, "all_to_all: {}\n", fault.what());
    return 1;
  }
}

}  // namespace weft
