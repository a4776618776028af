// `weft generate`: one prompt, one answer, one line of figures.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/conversation.h"

namespace weft {
namespace {

struct GenerateFlags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string prompt, prompt_file, system;
  std::vector<i32> prompt_ids;
  bool raw = false;
  bool json = false;
};

// The prompt as the user gave it: argument, file or standard input.
Result<std::string> prompt_text(const GenerateFlags& flags) {
  if (!flags.prompt_file.empty()) return read_file(flags.prompt_file);
  if (!flags.prompt.empty()) return flags.prompt;
  if (::isatty(STDIN_FILENO)) {
    return error(Code::kInvalidArgument, "no prompt: give it as an argument, with --prompt-file or on standard input");
  }
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

Result<std::vector<i32>> prompt_tokens(const GenerateFlags& flags, const Pretrained& model,
                                       const Tokenizer& tokenizer) {
  if (!flags.prompt_ids.empty()) return flags.prompt_ids;
  WEFT_ASSIGN(const std::string text, prompt_text(flags));
  if (flags.raw) return tokenizer.encode(text, {.add_special = true, .parse_special = true});
  WEFT_ASSIGN(const ChatTemplate chat, model.load_chat_template(tokenizer));
  ChatRequest request;
  if (!flags.system.empty()) request.messages.push_back({{"role", "system"}, {"content", flags.system}});
  request.messages.push_back({{"role", "user"}, {"content", text}});
  WEFT_ASSIGN(const std::string prompt, chat.render(request));
  return tokenizer.encode(prompt, {.add_special = false, .parse_special = true});
}

struct Figures {
  double load_s, ttft_s, prefill_tokens_per_s, decode_tokens_per_s;
  i64 peak_memory_bytes;
};

Figures figures_of(const Generated& answer, const Leader& leader, i64 memory) {
  return {.load_s = leader.load_s,
          .ttft_s = answer.first_token_s,
          .prefill_tokens_per_s = double(answer.prompt_tokens - answer.cached_tokens) / answer.first_token_s,
          .decode_tokens_per_s = answer.decode_s > 0 ? double(answer.completion_tokens - 1) / answer.decode_s : 0,
          .peak_memory_bytes = memory};
}

void print_json(const Generated& answer, const std::string& text, const Leader& leader, const Figures& figures) {
  const nlohmann::ordered_json all = {{"text", text},
                                      {"token_ids", answer.ids},
                                      {"finish_reason", answer.finish_reason},
                                      {"prompt_tokens", answer.prompt_tokens},
                                      {"completion_tokens", answer.completion_tokens},
                                      {"tp", leader.tp},
                                      {"ep", leader.ep},
                                      {"threads", leader.threads},
                                      {"load_s", figures.load_s},
                                      {"ttft_s", figures.ttft_s},
                                      {"prefill_tokens_per_s", figures.prefill_tokens_per_s},
                                      {"decode_tokens_per_s", figures.decode_tokens_per_s},
                                      {"peak_memory_bytes", figures.peak_memory_bytes}};
  fmt::print("{}\n", all.dump());
}

void print_figures(const Generated& answer, const Leader& leader, const Figures& figures) {
  fmt::print(stderr,
             "{} rank{} x {} thread{} | load {:.2f} s | first token {:.0f} ms | prefill {} tokens at {:.0f} tokens/s | "
             "decode {} tokens at {:.1f} tokens/s | peak memory {}\n",
             leader.ranks, leader.ranks == 1 ? "" : "s", leader.threads, leader.threads == 1 ? "" : "s", figures.load_s,
             1000 * figures.ttft_s, answer.prompt_tokens, figures.prefill_tokens_per_s, answer.completion_tokens,
             figures.decode_tokens_per_s, format_bytes(figures.peak_memory_bytes));
}

Status run_generate(const GenerateFlags& flags) {
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  options.shape = one_sequence_shape(model.config);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    WEFT_ASSIGN(const Tokenizer tokenizer, model.load_tokenizer());
    WEFT_ASSIGN(const std::vector<i32> prompt, prompt_tokens(flags, model, tokenizer));
    Generator generator(leader.worker);
    WEFT_TRY(generator.warm_up());
    const i64 loaded = leader.memory_bytes();
    std::string text;
    auto stream = [&](std::string_view piece) {
      if (flags.json) return;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    WEFT_ASSIGN(
        const Generated answer,
        generate_text(generator, tokenizer, prompt, flags.sampling.options(), stream, [] { return true; }, &text));
    const Figures figures = figures_of(answer, leader, std::max(loaded, leader.memory_bytes()));
    if (flags.json) {
      print_json(answer, text, leader, figures);
    } else {
      fmt::print("\n");
      std::fflush(stdout);
      print_figures(answer, leader, figures);
    }
    return {};
  });
}

}  // namespace

void add_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* generate = app.add_subcommand("generate", "Answer one prompt");
  flags->model.declare(*generate);
  flags->sampling.declare(*generate);
  auto* prompt = generate->add_option("prompt", flags->prompt, "The prompt; without it standard input is read");
  auto* file = generate->add_option("--prompt-file", flags->prompt_file, "Read the prompt from a file");
  auto* ids = generate->add_option("--prompt-ids", flags->prompt_ids, "Token ids of the prompt, for instance 1,2,3")
                  ->delimiter(',');
  auto* raw = generate->add_flag("--raw", flags->raw, "Take the prompt as it is, without the chat template");
  generate->add_option("--system", flags->system, "System message")->excludes(raw)->excludes(ids);
  file->excludes(prompt);
  ids->excludes(prompt)->excludes(file);
  generate->add_flag("--json", flags->json, "Print one JSON object with text and figures");
  generate->callback([flags] { finish(run_generate(*flags)); });
}

}  // namespace weft
