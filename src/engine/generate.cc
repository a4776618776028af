#include "engine/generate.h"

#include <algorithm>
#include <numeric>

#include "base/clock.h"

namespace weft {

Generator::Generator(Worker& worker) : worker_(worker), pages_(size_t(worker.shape().max_pages)) {
  std::iota(pages_.begin(), pages_.end(), 0);
}

i64 Generator::max_context() const {
  const WorkerShape& shape = worker_.shape();
  return std::min(worker_.model().config().context, std::min(shape.pages, shape.max_pages) * shape.page_tokens);
}

Result<TensorView> Generator::extend(std::span<const i32> tokens) {
  const WorkerShape& shape = worker_.shape();
  for (;;) {
    const auto chunk = tokens.first(std::min(tokens.size(), size_t(shape.max_tokens)));
    tokens = tokens.subspan(chunk.size());
    plan_.clear();
    plan_.add_row(chunk, i64(cached_.size()), pages_, shape.page_tokens, shape.max_pages);
    if (tokens.empty()) plan_.logits_at.push_back(i32(chunk.size()) - 1);
    WEFT_ASSIGN(const TensorView logits, worker_.step(plan_));
    cached_.insert(cached_.end(), chunk.begin(), chunk.end());
    if (tokens.empty()) return logits;
  }
}

Status Generator::warm_up() {
  const i32 token = 0;
  const Status status = extend({&token, 1}).status();
  cached_.clear();
  return status;
}

Result<Generated> Generator::generate(std::span<const i32> prompt, const GenerateOptions& options,
                                      const std::function<bool(i32)>& on_token) {
  const ModelConfig& config = worker_.model().config();
  WEFT_TRY(check_sampling_params(options.sampling));
  if (prompt.empty()) return error(Code::kInvalidArgument, "the prompt is empty");
  if (i64(prompt.size()) >= max_context()) {
    return error(Code::kInvalidArgument,
                 "the prompt has {} tokens, the context holds {} with at least one for the answer", prompt.size(),
                 max_context());
  }
  for (i32 id : prompt) {
    if (id < 0 || id >= config.vocab) {
      return error(Code::kInvalidArgument, "prompt: token id {} is outside the vocabulary of {}", id, config.vocab);
    }
  }
  const auto start = Clock::now();
  // The last prompt token is always computed: its logits are needed.
  size_t common = 0;
  while (common + 1 < prompt.size() && common < cached_.size() && cached_[common] == prompt[common]) ++common;
  cached_.resize(common);

  Generated answer;
  answer.prompt_tokens = i64(prompt.size());
  answer.cached_tokens = i64(common);
  std::vector<i32> sequence(prompt.begin(), prompt.end());
  WEFT_ASSIGN(TensorView logits, extend(prompt.subspan(common)));
  auto first = Clock::now();
  while (answer.finish_reason.empty()) {
    if (answer.completion_tokens >= options.max_tokens || i64(sequence.size()) >= max_context()) {
      answer.finish_reason = "length";
      break;
    }
    WEFT_ASSIGN(const i32 token, sample({logits.as<float>(), size_t(config.vocab)}, options.sampling, sequence,
                                        sequence.size(), scratch_));
    ++answer.completion_tokens;
    if (answer.completion_tokens == 1) {
      first = Clock::now();
      answer.first_token_s = seconds_since(start);
    }
    answer.decode_s = seconds_since(first);
    const bool ends = std::find(config.eos_ids.begin(), config.eos_ids.end(), token) != config.eos_ids.end();
    if (ends && !options.ignore_eos) {
      answer.finish_reason = "stop";
      break;
    }
    answer.ids.push_back(token);
    sequence.push_back(token);
    if (!on_token(token)) {
      answer.finish_reason = "cancelled";
    } else if (answer.completion_tokens < options.max_tokens && i64(sequence.size()) < max_context()) {
      WEFT_ASSIGN(logits, extend({&sequence.back(), 1}));
    }
  }
  return answer;
}

}  // namespace weft
