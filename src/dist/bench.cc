#include "dist/bench.h"

#include <algorithm>

#include "dist/barrier/barrier.h"
#include "dist/bench_site.h"
#include "dist/exchange/thread_ranks.h"
#include "ops/grouped_gemm/cases.h"

namespace weft {
namespace {

enum class Size { kNone, kBytes, kRows };  // what an operator is measured by

struct Entry {
  const char* name;
  Status (*fill)(BenchSite&);
  Size size;
  i64 products = 1;  // of a row of a GEMM
};
constexpr Entry kEntries[] = {
    {"barrier", bench_barrier, Size::kNone},
    {"broadcast", bench_broadcast, Size::kBytes},
    {"all_reduce", bench_all_reduce, Size::kBytes},
    {"all_gather", bench_all_gather, Size::kBytes},
    {"reduce_scatter", bench_reduce_scatter, Size::kBytes},
    {"all_to_all", bench_all_to_all, Size::kBytes},
    {"send_recv", bench_send_recv, Size::kBytes},
    {"expert_parallel", bench_expert_parallel, Size::kBytes},
    {"ag_gemm", bench_ag_gemm, Size::kRows},
    {"gemm_rs", bench_gemm_rs, Size::kRows},
    {"gemm_ar", bench_gemm_ar, Size::kRows},
    {"ag_moe", bench_ag_moe, Size::kRows, kBenchPerToken},
    {"moe_rs", bench_moe_rs, Size::kRows, kBenchPerToken},
    {"moe_ar", bench_moe_ar, Size::kRows, kBenchPerToken},
};

Status check_output(const BenchCall& call, int rank) {
  for (i64 i = 0; call.expected && i < call.y.shape.elements(); ++i) {
    const float expected = call.expected(i), found = call.y.as<const float>()[i];
    if (expected != found) {
      return error(Code::kDataLoss, "{} {}: rank {} [{}]: expected {}, found {}", call.op, call.algorithm, rank, i,
                   expected, found);
    }
  }
  return {};
}

// Microseconds per call of the slowest rank; every rank gets the same answer.
Result<double> time_calls(Communicator& comm, Exec& exec, Barrier& barrier, const BenchCall& call, i64 repeats) {
  WEFT_TRY(barrier.run(exec));
  const auto start = Clock::now();
  for (i64 i = 0; i < repeats; ++i) WEFT_TRY(call.run(exec));
  const double seconds = seconds_since(start);
  WEFT_ASSIGN(const auto all, comm.exchange(u64(seconds * 1e9)));
  return double(*std::max_element(all.begin(), all.end())) / 1e3 / double(repeats);
}

// All calls of one size, sample by sample in turn.
Status measure(Communicator& comm, Exec& exec, Barrier& barrier, std::vector<BenchCall>& calls, int samples) {
  constexpr double kSampleMicros = 2000;
  std::vector<i64> repeats;
  for (BenchCall& call : calls) {
    WEFT_TRY(call.run(exec));
    WEFT_TRY(check_output(call, comm.rank()));
    WEFT_TRY(time_calls(comm, exec, barrier, call, 4).status());  // warm-up
    WEFT_ASSIGN(const double micros, time_calls(comm, exec, barrier, call, 4));
    repeats.push_back(std::clamp(i64(kSampleMicros / std::max(micros, 0.05)), i64(1), i64(10000)));
  }
  for (int sample = 0; sample < samples; ++sample) {
    for (size_t c = 0; c < calls.size(); ++c) {
      WEFT_ASSIGN(const double micros, time_calls(comm, exec, barrier, calls[c], repeats[c]));
      calls[c].micros.push_back(micros);
    }
  }
  return {};
}

i64 products_of(const std::string& op) {
  const auto* entry =
      std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) { return op == e.name; });
  return entry == std::end(kEntries) ? 1 : entry->products;  // an entry may measure several operators
}

CommBenchRow row_of(BenchCall& call, i64 bytes, const CommBenchGemm& gemm) {
  std::sort(call.micros.begin(), call.micros.end());
  CommBenchRow row;
  row.op = call.op;
  row.algorithm = call.algorithm;
  row.bytes = bytes;
  row.m = gemm.m;
  row.median_us = call.micros[call.micros.size() / 2];
  row.low_us = call.micros.front();
  row.high_us = call.micros.back();
  row.gb_per_s = double(bytes) / row.median_us / 1e3;
  row.giga_ops = 2e-3 * double(products_of(call.op) * gemm.m) * double(gemm.n) * double(gemm.k) / row.median_us;
  return row;
}

Status expect_each(const char* option, const std::vector<i64>& values, i64 multiple, i64 most) {
  for (const i64 value : values) {
    if (value < multiple || value % multiple != 0 || value > most) {
      return error(Code::kInvalidArgument, "{}: expected multiples of {} up to {}, found {}", option, multiple, most,
                   value);
    }
  }
  return {};
}

Status check_options(const CommBenchOptions& options) {
  if (options.ranks < 1 || options.ranks > 64) {
    return error(Code::kInvalidArgument, "ranks: expected 1 to 64, found {}", options.ranks);
  }
  if (options.samples < 1) {
    return error(Code::kInvalidArgument, "samples: expected at least 1, found {}", options.samples);
  }
  WEFT_TRY(expect_each("bytes", options.bytes, 4, i64(64) << 20));
  WEFT_TRY(expect_each("m", options.m, 1, 1 << 16));
  WEFT_TRY(expect_each("n", {options.gemm.n}, 1, 1 << 16));
  WEFT_TRY(expect_each("k", {options.gemm.k}, dtype_layout(options.gemm.format).block, 1 << 16));
  const auto known = comm_bench_ops();
  for (const std::string& op : options.ops) {
    if (std::find(known.begin(), known.end(), op) == known.end()) {
      return error(Code::kInvalidArgument, "op: expected one of {}, found {}", fmt::join(known, ", "), op);
    }
  }
  return {};
}

// What one rank measures, in the order of rows.
class Session {
 public:
  Session(Communicator& comm, Exec& exec, Barrier& barrier, const CommBenchOptions& options, CommBenchResult& result)
      : comm_(comm), exec_(exec), barrier_(barrier), options_(options), result_(result) {}

  Status run() {
    WEFT_TRY(measure_size(Size::kNone, 0, {.m = 0}));
    for (const i64 bytes : options_.bytes) WEFT_TRY(measure_size(Size::kBytes, bytes, {.m = 0}));
    for (const i64 m : options_.m) {
      CommBenchGemm gemm = options_.gemm;
      gemm.m = m;
      WEFT_TRY(measure_size(Size::kRows, 0, gemm));
    }
    return {};
  }

 private:
  bool wanted(const char* op) const {
    const auto& ops = options_.ops;
    return ops.empty() || std::find(ops.begin(), ops.end(), op) != ops.end();
  }
  Status measure_size(Size size, i64 bytes, const CommBenchGemm& gemm) {
    BenchSite site(comm_, bytes / 4, gemm);
    for (const Entry& entry : kEntries) {
      if (entry.size == size && wanted(entry.name)) WEFT_TRY(entry.fill(site));
    }
    WEFT_TRY(measure(comm_, exec_, barrier_, site.calls, options_.samples));
    if (comm_.rank() != 0) return {};
    for (BenchCall& call : site.calls) result_.rows.push_back(row_of(call, bytes, gemm));
    return {};
  }

  Communicator& comm_;
  Exec& exec_;
  Barrier& barrier_;
  const CommBenchOptions& options_;
  CommBenchResult& result_;
};

}  // namespace

i64 CommBenchGemm::k_share(int ranks, int rank) const {
  const i64 block = dtype_layout(format).block;
  return split_range(k / block, ranks, rank).size() * block;
}

Result<const Weight*> BenchSite::weight(i64 n, i64 k) {
  const Tensor raw = random_raw_weight(gemm.format, n, k, u32(comm.rank()));
  const WeightPart part{.raw = raw.view, .rows = {}};
  WEFT_ASSIGN(Weight packed, Weight::pack("weight", std::span(&part, 1)));
  return &weights_.emplace_back(std::move(packed));
}

ActivationView BenchSite::activations(const Weight& w, i64 rows) {
  return activations_.emplace_back(random_activations(w.activation_format(), rows, w.k(), u32(comm.rank()))).view(rows);
}

Result<BenchExperts> BenchSite::experts(i64 n, i64 k) {
  WEFT_ASSIGN(GroupedWeight w, random_experts(gemm.format, kBenchExperts, n, k, u32(comm.rank()) * kBenchExperts));
  std::vector<i32> ids = random_routing(gemm.m, kBenchExperts, kBenchPerToken, 0);
  ExpertGroups groups = ExpertGroups::create(i64(ids.size()), kBenchExperts);
  Team alone(1, 0);
  Exec exec(alone, 0);
  std::vector<float> weights(ids.size());
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 1.0f / float(1 + i % 7);
  WEFT_TRY(groups.sort(exec, TensorView::dense(ids.data(), DType::kI32, {gemm.m, kBenchPerToken}),
                       TensorView::dense(weights.data(), DType::kF32, {gemm.m, kBenchPerToken})));
  return BenchExperts{&experts_.emplace_back(std::move(w)), &groups_.emplace_back(std::move(groups))};
}

void BenchSite::push_gemm(const char* name, std::function<Status(Exec&)> alone, std::function<Status(Exec&)> unfused,
                          const TensorView& unfused_y, std::function<Status(Exec&)> fused, const TensorView& fused_y) {
  calls.push_back({name, "gemm", std::move(alone), {}, {}, {}});
  calls.push_back({name, "unfused", std::move(unfused), {}, {}, {}});
  calls.push_back(
      {name, "fused", std::move(fused), [unfused_y](i64 i) { return unfused_y.as<float>()[i]; }, fused_y, {}});
}

std::vector<std::string> comm_bench_ops() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

Result<CommBenchResult> run_comm_bench(const CommBenchOptions& options) {
  WEFT_TRY(check_options(options));
  CommBenchResult result;
  result.ranks = options.ranks;
  result.samples = options.samples;
  result.pinned = options.ranks <= usable_cpu_count();
  const std::vector<int>& cpus = allowed_cpus();
  CommunicatorOptions comm_options;
  comm_options.arena_bytes = i64(4) << 30;  // address space: only what is used becomes resident
  const auto outcomes = run_thread_ranks(
      options.ranks,
      [&](Communicator& comm) -> Status {
        if (result.pinned) pin_this_thread(cpus[size_t(comm.rank())]);
        Team team(1, 0);
        Exec exec(team, 0);
        WEFT_ASSIGN(auto barrier, Barrier::create(comm));
        return Session(comm, exec, barrier, options, result).run();
      },
      comm_options);
  for (const Status& outcome : outcomes) WEFT_TRY(outcome);
  return result;
}

}  // namespace weft
