#include "ops/gemm/bench.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/clock.h"
#include "device/thread_pool.h"
#include "ops/gemm/cases.h"
#include "ops/gemm/dispatch.h"

namespace weft {
namespace {

constexpr i64 kColdBytes = 256 << 20;  // several times the caches of the machines at hand
constexpr i64 kColdSampleBytes = 16 << 20;
constexpr double kSampleSeconds = 0.004;  // short, so that some samples pass undisturbed on a busy machine
constexpr i64 kCheckedRows = 4;

GemmKernels::Peak peak_of(const GemmKernels& kernels, DType format) {
  switch (format) {
    case DType::kQ4_0:
    case DType::kQ4_1: return kernels.peak_4bit;
    case DType::kQ8_0: return kernels.peak_8bit;
    case DType::kBF16: return kernels.peak_bf16;
    default: return kernels.peak_f32;
  }
}

Status check_output(const TensorView& raw, const Weight& w, const ActivationView& x, const TensorView& y) {
  const i64 rows = std::min(x.rows, kCheckedRows);
  const ActivationView some = x.slice(0, rows);
  const Tensor expected = Tensor::zeros(DType::kF32, {rows, w.n()});
  gemm_reference(some, w, expected.view);
  const std::vector<double> bounds = gemm_error_bounds(some, raw);
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < w.n(); ++j) {
      const double found = double(y.row<float>(i)[j]), wanted = double(expected.view.row<float>(i)[j]);
      if (!(std::abs(found - wanted) <= bounds[size_t(i * w.n() + j)])) {
        return error(Code::kDataLoss, "gemm: row {}, column {}: expected {}, found {}", i, j, wanted, found);
      }
    }
  }
  return {};
}

Status check_options(const GemmBenchOptions& options) {
  const auto positive = [](const char* name, i64 value) {
    return value > 0 ? Status() : error(Code::kInvalidArgument, "{}: expected at least 1, found {}", name, value);
  };
  WEFT_TRY(positive("m", options.m));
  WEFT_TRY(positive("n", options.n));
  WEFT_TRY(positive("k", options.k));
  WEFT_TRY(positive("samples", options.samples));
  const i64 block = dtype_layout(options.format).block;
  if (options.k % block != 0) {
    return error(Code::kInvalidArgument, "k: expected a multiple of {} for {}, found {}", block,
                 dtype_name(options.format), options.k);
  }
  return {};
}

// Seconds from when all threads are ready until all are done with `work`.
Result<double> timed(ThreadPool& pool, const std::function<Status(Exec&)>& work) {
  double seconds = 0;
  WEFT_TRY(pool.run([&](Exec& exec) -> Status {
    WEFT_TRY(exec.sync());
    const auto start = Clock::now();
    WEFT_TRY(work(exec));
    WEFT_TRY(exec.sync());
    if (exec.thread() == 0) seconds = seconds_since(start);
    return {};
  }));
  return seconds;
}

}  // namespace

Result<Ceilings> Ceilings::create(DType format, int threads) {
  Ceilings ceilings;
  ceilings.peak_ = peak_of(gemm_kernels(cpu_isa()), format);
  WEFT_ASSIGN(ceilings.pool_, ThreadPool::create({.num_threads = threads, .cpus = allowed_cpus()}));
  ceilings.memory_ = HugeBuffer(size_t(kColdBytes));
  std::memset(ceilings.memory_.data(), 1, size_t(kColdBytes));
  return ceilings;
}

Result<double> Ceilings::bytes_per_s() {
  constexpr i64 kBytes = 32 << 20;
  const std::byte* from = memory_.data() + at_;
  at_ = (at_ + kBytes) % kColdBytes;
  WEFT_ASSIGN(const double seconds, timed(*pool_, [&](Exec& exec) -> Status {
                const Range lines = exec.share(kBytes / 64);
                gemm_kernels(cpu_isa()).read(from + lines.begin * 64, lines.size() * 64);
                return {};
              }));
  return double(kBytes) / seconds;
}

Result<double> Ceilings::ops_per_s() {
  constexpr i64 kRounds = 20000;
  std::atomic<i64> done{0};
  WEFT_ASSIGN(const double seconds, timed(*pool_, [&](Exec&) -> Status {
                done.fetch_add(peak_(memory_.data(), kRounds), std::memory_order_relaxed);
                return {};
              }));
  return double(done.load(std::memory_order_relaxed)) / seconds;
}

Result<GemmBenchResult> bench_gemm(const GemmBenchOptions& options) {
  WEFT_TRY(check_options(options));
  const auto [m, n, k] = GemmShape{options.m, options.n, options.k};
  GemmBenchResult result;
  result.isa = cpu_isa();
  result.cold = m == 1 || options.cold;
  const GemmKernels& kernels = gemm_kernels(result.isa);
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = options.threads, .cpus = allowed_cpus()}));

  const Tensor raw = random_raw_weight(options.format, n, k, 1);
  const WeightPart part{.raw = raw.view, .rows = {}};
  std::vector<Weight> weights(1);
  WEFT_ASSIGN(weights[0], Weight::pack("weight", std::span(&part, 1)));
  const i64 weight_bytes = i64(weights[0].bytes());
  const i64 copies = result.cold ? (kColdBytes + weight_bytes - 1) / weight_bytes : 1;
  for (i64 i = 1; i < copies; ++i) {
    WEFT_ASSIGN(Weight copy, Weight::pack("weight", std::span(&part, 1)));
    weights.push_back(std::move(copy));
  }
  const ActivationBuffer x = random_activations(weights[0].activation_format(), m, k, 2);
  const Tensor y = Tensor::zeros(DType::kF32, {m, n});

  i64 calls = 1;    // per sample
  i64 current = 0;  // the weight that a sample begins with: each is read again only after all others
  const auto multiply = [&](Exec& exec) -> Status {
    for (i64 i = 0; i < calls; ++i) {
      WEFT_TRY(gemm(exec, {.x = x.view(m), .w = weights[size_t((current + i) % copies)], .y = y.view}));
    }
    return {};
  };
  WEFT_ASSIGN(double first, timed(*pool, multiply));
  WEFT_TRY(check_output(raw.view, weights[0], x.view(m), y.view));
  calls = std::max<i64>(1, m == 1 ? kColdSampleBytes / weight_bytes : i64(kSampleSeconds / first));

  // Ceilings do one sample's worth of the same operations, and of the same bytes.
  std::vector<std::byte> operands(4096, std::byte(1));
  const GemmKernels::Peak peak = peak_of(kernels, options.format);
  const i64 ops_per_round = peak(operands.data(), 1);
  const double sample_ops = 2.0 * double(m) * double(n) * double(k) * double(calls);
  const i64 rounds = std::max<i64>(1000, i64(sample_ops / double(ops_per_round) / options.threads));
  const auto compute = [&](Exec&) -> Status {
    peak(operands.data(), rounds);
    return {};
  };
  const auto read = [&](Exec& exec) -> Status {
    for (i64 i = 0; i < calls; ++i) {
      const HugeBuffer& data = weights[size_t((current + i) % copies)].segments()[0].data;
      const Range blocks = exec.share(i64(data.size()) / 64);
      kernels.read(data.data() + blocks.begin * 64, blocks.size() * 64);
    }
    return {};
  };

  std::vector<double> micros, ops, bytes, peak_ops, reading;
  for (int i = 0; i < options.samples; ++i) {
    WEFT_ASSIGN(const double compute_s, timed(*pool, compute));
    WEFT_ASSIGN(const double read_s, timed(*pool, read));
    current += calls;
    WEFT_ASSIGN(const double gemm_s, timed(*pool, multiply));
    current += calls;
    micros.push_back(gemm_s / double(calls) * 1e6);
    ops.push_back(sample_ops / gemm_s * 1e-9);
    bytes.push_back(double(weight_bytes * calls) / gemm_s * 1e-9);
    peak_ops.push_back(double(ops_per_round * rounds * options.threads) / compute_s * 1e-9);
    reading.push_back(double(weight_bytes * calls) / read_s * 1e-9);
  }
  result.micros = spread_of(micros);
  result.giga_ops = spread_of(ops);
  result.gigabytes = spread_of(bytes);
  result.ceiling_ops = spread_of(peak_ops);
  result.ceiling_reading = spread_of(reading);
  const Spread& found = m == 1 ? result.gigabytes : result.giga_ops;
  const Spread& ceiling = m == 1 ? result.ceiling_reading : result.ceiling_ops;
  const bool halves = m > 1 && weights[0].activation_format() == ActivationFormat::kQ16;
  result.percent = 100 * found.median / ceiling.median * (halves ? 2 : 1);
  result.percent_best = 100 * found.high / ceiling.high * (halves ? 2 : 1);
  return result;
}

}  // namespace weft
