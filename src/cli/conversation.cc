#include "cli/conversation.h"

namespace weft {

void SamplingFlags::declare(CLI::App& command) {
  command.add_option("--temperature", params.temperature, "Randomness; 0 = always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", params.top_k, "Keep the k likeliest tokens; 0 = all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command.add_option("--top-p", params.top_p, "Keep the likeliest tokens that together reach this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command.add_option("--min-p", params.min_p, "Keep tokens with this share of the likeliest one's probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--repetition-penalty", params.repetition_penalty, "Above 1 makes seen tokens less likely")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  command.add_option("--seed", params.seed, "The same seed and prompt give the same answer")->capture_default_str();
  command.add_option("--max-tokens", max_tokens, "Longest answer, in tokens")
      ->check(CLI::Range(i64(1), i64(1) << 30))
      ->capture_default_str();
  command.add_flag("--ignore-eos", ignore_eos, "Go on after the model ended its answer");
}

WorkerShape one_sequence_shape(const ModelConfig& config) {
  WorkerShape shape{.max_rows = 1, .max_logits = 1};
  shape.max_pages = shape.pages = (config.context + shape.page_tokens - 1) / shape.page_tokens;
  return shape;
}

Result<Generated> generate_text(Generator& generator, const Tokenizer& tokenizer, std::span<const i32> prompt,
                                const GenerateOptions& options, const std::function<void(std::string_view)>& emit,
                                const std::function<bool()>& keep_on, std::string* text) {
  Detokenizer detokenizer(tokenizer);
  Status fault;
  auto show = [&](Result<std::string> piece) {
    if (!piece.ok()) {
      fault = piece.status();
      return false;
    }
    *text += *piece;
    if (!piece->empty()) emit(*piece);
    return true;
  };
  auto answer = generator.generate(prompt, options, [&](i32 id) { return show(detokenizer.push(id)) && keep_on(); });
  if (answer.ok()) show(detokenizer.finish());
  WEFT_TRY(fault);
  return answer;
}

std::string format_bytes(i64 bytes) {
  if (bytes >= i64(10) << 30) return fmt::format("{} GiB", bytes >> 30);
  return fmt::format("{} MiB", bytes >> 20);
}

}  // namespace weft
