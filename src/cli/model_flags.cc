#include "cli/model_flags.h"

#include "comm/bootstrap/launcher.h"
#include "models/presets.h"
#include "weights/registry.h"

namespace weft {

void ModelFlags::declare(CLI::App& command) {
  command.add_option("-m,--model", model, "Name of a fetched model, path of a .gguf file or of a model folder")
      ->required();
  auto* random = command.add_flag("--random-weights", random_weights,
                                  "Take --model for the name of a preset (weft models) and draw its weights at random");
  command.add_option("--layers", layers, "With --random-weights: only so many layers of the preset [all]")
      ->check(CLI::Range(1, 1024))
      ->needs(random);
  command
      .add_option("--tp", tp,
                  "Tensor-parallel ranks; in a world --tp times --ep must be its size [1, or what --ep leaves of it]")
      ->check(CLI::Range(1, 1024));
  command.add_option("--ep", ep, "Expert-parallel groups of --tp ranks: each holds some of a mixture's experts")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_option("--threads", threads, "Threads per rank [usable CPUs divided by the ranks of this host]")
      ->check(CLI::Range(1, 1024));
  command
      .add_option("--mode", mode,
                  "How activations lie on ranks: ar = replicated, ag_rs = sharded by token,\nauto = by each step's "
                  "number of tokens")
      ->check(CLI::IsMember({"auto", "ar", "ag_rs"}))
      ->capture_default_str();
  command.add_option("--device", device, "Where to compute")->check(CLI::IsMember({"cpu"}))->capture_default_str();
  command.add_option("--deadline", deadline_s, "Longest wait for another rank, in seconds")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
}

Result<RankOptions> ModelFlags::rank_options() const {
  RankOptions options;
  WEFT_ASSIGN(options.world, world_spec_from_environment());
  WEFT_ASSIGN(const std::optional<int> spawned, maybe_spawn_local_ranks(options.world));
  if (spawned) throw CLI::RuntimeError(*spawned);  // this process was only the launcher of its host's ranks
  options.tp = tp;
  options.ep = ep;
  options.threads = threads;
  WEFT_ASSIGN(options.mode, parse_layer_mode(mode));
  options.deadline = std::chrono::milliseconds(i64(deadline_s * 1000));
  return options;
}

Result<Pretrained> ModelFlags::open() const {
  if (random_weights) return Pretrained::random(model, layers);
  const auto path = resolve_model(model);
  if (!path.ok() && find_model(model) == nullptr && is_preset(model)) {
    return error(Code::kNotFound, "model {} is known by its shapes only: add --random-weights, or give its folder",
                 model);
  }
  WEFT_TRY(path.status());
  return Pretrained::open(*path);
}

}  // namespace weft
