// The flags that every command with a model has.
#pragma once
#include <string>

#include "cli/commands.h"
#include "engine/ranks.h"

namespace weft {

struct ModelFlags {
  std::string model;
  std::string mode = "auto";
  std::string device = "cpu";
  int tp = 0, ep = 1;
  int layers = 0;
  bool random_weights = false;
  int threads = 0;
  double deadline_s = 10;

  void declare(CLI::App& command);
  // Call it first: where the environment asks for the ranks of this host, it runs this command as those ranks and ends
  // the program with their exit status. Errors: kInvalidArgument naming the flag or the environment variable.
  Result<RankOptions> rank_options() const;
  // Opens the model: a name known to `weft fetch`, a .gguf file, a folder, or a preset with --random-weights.
  Result<Pretrained> open() const;
};

}  // namespace weft
