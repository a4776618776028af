#include "engine/check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace weft {
namespace {

constexpr i64 kPageTokens = 16;

i64 pages_for(i64 tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

float element(const TensorView& view, i64 index) {
  return view.dtype == DType::kF16 ? float(view.as<f16>()[index]) : view.as<float>()[index];
}

// Pools errors of single rows.
class ErrorPool {
 public:
  void add(std::span<const float> golden, std::span<const float> measured) {
    const double log_golden = log_sum_exp(golden), log_measured = log_sum_exp(measured);
    for (size_t i = 0; i < golden.size(); ++i) {
      const double difference = double(measured[i]) - double(golden[i]);
      squares_ += difference * difference;
      // Not std::max: a NaN must show.
      if (!(std::abs(difference) <= error_.largest)) error_.largest = std::abs(difference);
      const double p = std::exp(double(golden[i]) - log_golden);
      kl_ += p * ((double(golden[i]) - log_golden) - (double(measured[i]) - log_measured));
    }
    top1_ += top(golden) == top(measured);
    elements_ += i64(golden.size());
    ++error_.positions;
  }
  LogitError result() const {
    LogitError error = error_;
    if (error.positions == 0) return error;
    error.rms = std::sqrt(squares_ / double(elements_));
    error.mean_kl = kl_ / double(error.positions);
    error.top1_agreement = double(top1_) / double(error.positions);
    return error;
  }

 private:
  static double log_sum_exp(std::span<const float> x) {
    const double largest = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (float value : x) sum += std::exp(double(value) - largest);
    return largest + std::log(sum);
  }
  static i64 top(std::span<const float> x) { return std::max_element(x.begin(), x.end()) - x.begin(); }
  LogitError error_;
  double squares_ = 0, kl_ = 0;
  i64 elements_ = 0, top1_ = 0;
};

u64 hash_bytes(u64 hash, const void* data, size_t bytes) {  // FNV-1a, 64 bits
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const u8*>(data)[i]) * 0x100000001b3u;
  return hash;
}

// Runs golden sequences through the worker and keeps the logits of the golden's positions.
class Runner {
 public:
  Runner(Worker& worker, const Golden& golden)
      : worker_(worker), golden_(golden), max_pages_(pages_for(golden.tokens())) {}

  // Starts a pass: forgets all logits.
  void begin() { rows_.assign(size_t(golden_.batch() * golden_.wanted()), {}); }
  void start_step() {
    plan_.clear();
    targets_.clear();
  }
  // Adds tokens [begin, end) of a sequence to the step.
  void add(i64 sequence, i64 begin, i64 end) {
    const std::vector<i32> ids = golden_.ids(sequence);
    std::vector<i32> pages;
    for (i64 p = 0; p < pages_for(end); ++p) pages.push_back(i32(sequence * max_pages_ + p));
    const i32 first = plan_.add_row({ids.data() + begin, size_t(end - begin)}, begin, pages, kPageTokens, max_pages_);
    for (i64 position = begin; position < end; ++position) {
      std::vector<i64> wanted;  // a golden may give one position twice
      for (i64 k = 0; k < golden_.wanted(); ++k) {
        if (golden_.position(sequence, k) == position) wanted.push_back(sequence * golden_.wanted() + k);
      }
      if (wanted.empty()) continue;
      plan_.logits_at.push_back(first + i32(position - begin));
      targets_.push_back(std::move(wanted));
    }
  }
  Status run_step() {
    WEFT_ASSIGN(const TensorView logits, worker_.step(plan_));
    for (size_t i = 0; i < targets_.size(); ++i) {
      const float* row = logits.row<float>(i64(i));
      for (i64 target : targets_[i]) rows_[size_t(target)].assign(row, row + golden_.vocab());
    }
    return {};
  }
  CheckPass finish(const std::string& name, const LogitError& bf16) const {
    CheckPass pass{.name = name, .error = {}, .hash = 0xcbf29ce484222325u, .passed = false};
    ErrorPool pool;
    for (i64 sequence = 0; sequence < golden_.batch(); ++sequence) {
      for (i64 k = 0; k < golden_.wanted(); ++k) {
        const std::vector<float>& row = rows_[size_t(sequence * golden_.wanted() + k)];
        if (row.empty()) continue;  // beyond this pass's length
        pool.add(golden_.logits(sequence, k), row);
        pass.hash = hash_bytes(pass.hash, row.data(), row.size() * sizeof(float));
      }
    }
    pass.error = pool.result();
    pass.passed = pass.error.positions > 0 && pass.error.rms <= kCheckRmsRatio * bf16.rms;
    return pass;
  }

 private:
  Worker& worker_;
  const Golden& golden_;
  const i64 max_pages_;
  StepPlan plan_;
  std::vector<std::vector<i64>> targets_;  // of each row of the step's logits: indices into rows_
  std::vector<std::vector<float>> rows_;   // [batch * wanted]; empty = not computed
};

// Length of `sequence` in pass (d): every sequence another one, the first whole.
i64 ragged_length(const Golden& golden, i64 sequence) {
  return std::max<i64>(1, golden.tokens() - sequence * golden.tokens() / (2 * golden.batch()));
}

Status one_prefill(Runner& runner, const Golden& golden) {
  for (i64 s = 0; s < golden.batch(); ++s) {
    runner.start_step();
    runner.add(s, 0, golden.tokens());
    WEFT_TRY(runner.run_step());
  }
  return {};
}

Status chunked_prefill(Runner& runner, const Golden& golden) {
  static constexpr i64 kChunks[] = {1, 7, 16, 3, 32, 5, 64, 11};
  for (i64 s = 0; s < golden.batch(); ++s) {
    size_t chunk = size_t(s);
    for (i64 begin = 0; begin < golden.tokens(); ++chunk) {
      const i64 end = std::min(golden.tokens(), begin + kChunks[chunk % std::size(kChunks)]);
      runner.start_step();
      runner.add(s, begin, end);
      WEFT_TRY(runner.run_step());
      begin = end;
    }
  }
  return {};
}

Status decode_second_half(Runner& runner, const Golden& golden) {
  const i64 half = golden.tokens() / 2;
  for (i64 s = 0; s < golden.batch(); ++s) {
    runner.start_step();
    runner.add(s, 0, std::max<i64>(half, 1));
    WEFT_TRY(runner.run_step());
    for (i64 t = std::max<i64>(half, 1); t < golden.tokens(); ++t) {
      runner.start_step();
      runner.add(s, t, t + 1);
      WEFT_TRY(runner.run_step());
    }
  }
  return {};
}

Status all_at_once(Runner& runner, const Golden& golden) {
  runner.start_step();
  for (i64 s = 0; s < golden.batch(); ++s) runner.add(s, 0, ragged_length(golden, s));
  return runner.run_step();
}

}  // namespace

Result<Golden> Golden::open(const std::string& path) {
  WEFT_ASSIGN(SafetensorsFile file, SafetensorsFile::open(path));
  Golden golden(std::move(file));
  auto bad = [&](const char* tensor, const TensorView& found, const char* expected) {
    return error(Code::kDataLoss, "{}: tensor '{}': expected {}, found {}", path, tensor, expected, found.describe());
  };
  WEFT_ASSIGN(golden.input_ids_, golden.file_.tensor("input_ids"));
  if (golden.input_ids_.dtype != DType::kI64 || golden.input_ids_.shape.rank() != 2 ||
      golden.input_ids_.shape.elements() == 0) {
    return bad("input_ids", golden.input_ids_, "i64 [batch, tokens]");
  }
  WEFT_ASSIGN(golden.logits_, golden.file_.tensor("logits"));
  WEFT_ASSIGN(golden.logits_bf16_, golden.file_.tensor("logits_bf16"));
  for (const TensorView* logits : {&golden.logits_, &golden.logits_bf16_}) {
    const bool is_float = logits->dtype == DType::kF32 || logits->dtype == DType::kF16;
    if (!is_float || logits->shape.rank() != 3 || logits->dim(0) != golden.batch() ||
        !(logits->shape == golden.logits_.shape) || logits->shape.elements() == 0) {
      return bad(logits == &golden.logits_ ? "logits" : "logits_bf16", *logits, "f32 or f16 [batch, k, vocab]");
    }
  }
  if (golden.file_.has("positions")) {
    WEFT_ASSIGN(golden.positions_, golden.file_.tensor("positions"));
    if (golden.positions_.dtype != DType::kI64 ||
        !(golden.positions_.shape == Shape{golden.batch(), golden.wanted()})) {
      return bad("positions", golden.positions_, "i64 [batch, k]");
    }
  } else if (golden.wanted() != golden.tokens()) {
    return bad("logits", golden.logits_, "logits of every token, since there is no tensor 'positions'");
  }
  for (i64 s = 0; s < golden.batch(); ++s) {
    for (i64 t = 0; t < golden.tokens(); ++t) {
      const i64 id = golden.input_ids_.row<i64>(s)[t];
      if (id < 0 || id >= golden.vocab()) {
        return error(Code::kDataLoss, "{}: tensor 'input_ids': token {} at [{}, {}] is outside the vocabulary of {}",
                     path, id, s, t, golden.vocab());
      }
    }
    for (i64 k = 0; k < golden.wanted(); ++k) {
      if (golden.position(s, k) < 0 || golden.position(s, k) >= golden.tokens()) {
        return error(Code::kDataLoss, "{}: tensor 'positions': {} at [{}, {}] is outside the {} tokens", path,
                     golden.position(s, k), s, k, golden.tokens());
      }
    }
  }
  return golden;
}

std::vector<i32> Golden::ids(i64 sequence) const {
  const i64* row = input_ids_.row<i64>(sequence);
  return {row, row + tokens()};
}

i64 Golden::position(i64 sequence, i64 k) const {
  return positions_.data ? positions_.row<i64>(sequence)[k] : k;
}

std::vector<float> Golden::row(const TensorView& logits, i64 sequence, i64 k) {
  const i64 vocab = logits.dim(2), start = (sequence * logits.dim(1) + k) * vocab;
  std::vector<float> values(static_cast<size_t>(vocab));
  for (i64 i = 0; i < vocab; ++i) values[size_t(i)] = element(logits, start + i);
  return values;
}

WorkerShape check_shape(const Golden& golden) {
  const i64 max_pages = pages_for(golden.tokens());
  i64 all = 0;
  for (i64 s = 0; s < golden.batch(); ++s) all += ragged_length(golden, s);
  return {.max_tokens = std::max(golden.tokens(), all),
          .max_rows = golden.batch(),
          .max_logits = golden.batch() * std::min(golden.wanted(), golden.tokens()),
          .pages = golden.batch() * max_pages,
          .page_tokens = kPageTokens,
          .max_pages = max_pages};
}

Result<CheckReport> check_logits(Worker& worker, const Golden& golden) {
  const i64 vocab = worker.model().config().vocab;
  if (vocab != golden.vocab()) {
    return error(Code::kInvalidArgument, "golden: logits of {} tokens, the model's vocabulary has {}", golden.vocab(),
                 vocab);
  }
  CheckReport report;
  ErrorPool bf16;
  for (i64 s = 0; s < golden.batch(); ++s) {
    for (i64 k = 0; k < golden.wanted(); ++k) bf16.add(golden.logits(s, k), golden.logits_bf16(s, k));
  }
  report.bf16 = bf16.result();
  report.passed = true;
  Runner runner(worker, golden);
  const std::pair<const char*, Status (*)(Runner&, const Golden&)> passes[] = {
      {"one prefill", one_prefill},
      {"uneven chunks", chunked_prefill},
      {"second half decoded", decode_second_half},
      {"all at once, ragged", all_at_once},
  };
  for (const auto& [name, pass] : passes) {
    runner.begin();
    WEFT_TRY(pass(runner, golden));
    report.passes.push_back(runner.finish(name, report.bf16));
    report.passed = report.passed && report.passes.back().passed;
  }
  return report;
}

}  // namespace weft
