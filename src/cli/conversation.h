// What `weft generate` and `weft chat` share: sampling flags, prompts, and the answer's way to the terminal.
#pragma once
#include "cli/model_flags.h"
#include "engine/generate.h"

namespace weft {

struct SamplingFlags {
  SamplingParams params;
  i64 max_tokens = 256;
  bool ignore_eos = false;

  void declare(CLI::App& command);
  GenerateOptions options() const { return {.sampling = params, .max_tokens = max_tokens, .ignore_eos = ignore_eos}; }
};

// The worker that one sequence of at most the model's context needs.
WorkerShape one_sequence_shape(const ModelConfig& config);

// Generates on `generator`, passing text to `emit` as it becomes whole; the text of the answer in `text`.
// `keep_on` is asked before every token; false ends the answer.
Result<Generated> generate_text(Generator& generator, const Tokenizer& tokenizer, std::span<const i32> prompt,
                                const GenerateOptions& options, const std::function<void(std::string_view)>& emit,
                                const std::function<bool()>& keep_on, std::string* text);

// "512 MiB" and the like.
std::string format_bytes(i64 bytes);

}  // namespace weft
