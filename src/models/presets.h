// Presets: the shapes of published models by name, for runs with random weights, and what models of any shape need.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.h"
#include "weights/checkpoint.h"

namespace weft {

// The names that preset_config() knows, in order of family and size.
std::vector<std::string_view> preset_names();
bool is_preset(std::string_view name);
// A preset with its first `layers` layers; 0 = all. Errors: kInvalidArgument naming the choices.
Result<ModelConfig> preset_config(std::string_view name, i64 layers);

// Every parameter of a model by Hugging Face's name, experts one by one.
struct ParameterShape {
  std::string name;
  Shape shape;
};
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);
i64 count_parameters(const ModelConfig& config);
// Bytes that one token's keys and values take in all layers and on all ranks but copies, in bf16.
i64 kv_bytes_per_token(const ModelConfig& config);
// Bytes of weights in bf16, norms and routers in f32, on the rank that holds most, and of one token's keys and values
// there, of tp * ep ranks: a mixture's experts are spread over `ep` groups, each cut over `tp` ranks. Errors:
// kInvalidArgument for ep > 1 without experts; those of make_shard_plan().
struct RankMemory {
  i64 weight_bytes = 0, kv_bytes_per_token = 0;
};
Result<RankMemory> rank_memory(const ModelConfig& config, int tp, int ep);

// Random bf16 weights of deviation 1 / sqrt(columns), norms of 1, the same for the same config on every rank and for
// every size of the world. Takes a few MB: rows are overlapping runs of one random sequence per width.
std::unique_ptr<Checkpoint> make_random_checkpoint(const ModelConfig& config);

}  // namespace weft
