#include "dist/bench.h"

#include <algorithm>
#include <functional>
#include <memory>

#include "base/aligned_buffer.h"
#include "dist/all_gather/all_gather.h"
#include "dist/all_reduce/all_reduce.h"
#include "dist/all_to_all/all_to_all.h"
#include "dist/barrier/barrier.h"
#include "dist/broadcast/broadcast.h"
#include "dist/exchange/thread_ranks.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {
namespace {

// Small whole numbers, whose sums over ranks are exact in any order.
float number(int rank, i64 i) {
  return float(rank + 1 + i % 61);
}

// One operator at one size on one rank.
struct Contender {
  std::string op, algorithm;
  std::function<Status(Exec&)> run;
  std::function<float(i64)> expected;  // element i of y
  TensorView y;
  std::vector<double> micros;  // of the slowest rank
};

// The memory and operators of one size. Everything is f32.
class Bench {
 public:
  Bench(Communicator& comm, i64 bytes) : comm_(comm), n_(bytes / 4), ranks_(comm.size()), rank_(comm.rank()) {}

  Status add(const std::string& op) {
    if (op == "all_reduce") return add_all_reduce();
    if (op == "all_gather") return add_all_gather();
    if (op == "reduce_scatter") return add_reduce_scatter();
    if (op == "all_to_all") return add_all_to_all();
    if (op == "broadcast") return add_broadcast();
    return add_barrier();
  }
  std::vector<Contender>& contenders() { return contenders_; }

 private:
  TensorView x(i64 n) {
    Tensor& tensor = tensors_.emplace_back(Tensor::zeros(DType::kF32, {n, 1}));
    for (i64 i = 0; i < n; ++i) tensor.view.as<float>()[i] = number(rank_, i);
    return tensor.view;
  }
  TensorView y(i64 n) { return tensors_.emplace_back(Tensor::zeros(DType::kF32, {n, 1})).view; }
  float sum(i64 i) const {
    float total = 0;
    for (int r = 0; r < ranks_; ++r) total += number(r, i);
    return total;
  }
  // Keeps `op` alive in the contender's function.
  template <class Op, class Call>
  void push(const char* name, const std::string& algorithm, Op op, TensorView out, std::function<float(i64)> expected,
            Call call) {
    auto shared = std::make_shared<Op>(std::move(op));
    contenders_.push_back(
        {name, algorithm, [shared, call](Exec& exec) { return call(*shared, exec); }, std::move(expected), out, {}});
  }

  Status add_barrier() {
    WEFT_ASSIGN(auto op, Barrier::create(comm_));
    push("barrier", "flags", std::move(op), {}, {}, [](Barrier& b, Exec& exec) { return b.run(exec); });
    return {};
  }
  Status add_all_reduce() {
    const TensorView in = x(n_);
    for (const char* name : {"auto", "ll", "one_shot", "two_shot"}) {
      WEFT_ASSIGN(auto op, AllReduce::create(comm_, {n_, DType::kF32}, {name}));
      const TensorView out = y(n_);
      push(
          "all_reduce", name, std::move(op), out, [this](i64 i) { return sum(i); },
          [in, out](AllReduce& a, Exec& exec) { return a.run(exec, in, out); });
    }
    return {};
  }
  Status add_all_gather() {
    const Range mine = split_range(n_, ranks_, rank_);
    WEFT_ASSIGN(auto op, AllGather::create(comm_, {split_range(n_, ranks_, 0).size() * 4}));
    const TensorView in = x(mine.size()), out = y(n_);
    const auto expected = [this](i64 i) {
      int r = 0;
      while (i >= split_range(n_, ranks_, r).end) ++r;
      return number(r, i - split_range(n_, ranks_, r).begin);
    };
    push("all_gather", "push", std::move(op), out, expected,
         [in, out](AllGather& a, Exec& exec) { return a.run(exec, in, out); });
    return {};
  }
  Status add_reduce_scatter() {
    const Range mine = split_range(n_, ranks_, rank_);
    WEFT_ASSIGN(auto op, ReduceScatter::create(comm_, {n_, 1, DType::kF32}));
    const TensorView in = x(n_), out = y(mine.size());
    push(
        "reduce_scatter", "push", std::move(op), out, [this, mine](i64 i) { return sum(mine.begin + i); },
        [in, out](ReduceScatter& a, Exec& exec) { return a.run(exec, in, out); });
    return {};
  }
  Status add_all_to_all() {
    const i64 rows = n_ / ranks_;
    WEFT_ASSIGN(auto op, AllToAll::create(comm_, {rows * 4}));
    const TensorView in = x(rows * ranks_), out = y(rows * ranks_);
    const auto expected = [this, rows](i64 i) { return number(int(i / rows), rank_ * rows + i % rows); };
    push("all_to_all", "push", std::move(op), out, expected,
         [in, out](AllToAll& a, Exec& exec) { return a.run(exec, in, out); });
    return {};
  }
  Status add_broadcast() {
    WEFT_ASSIGN(auto op, Broadcast::create(comm_, {n_ * 4, 0}));
    const TensorView data = x(n_);
    push(
        "broadcast", "push", std::move(op), data, [](i64 i) { return number(0, i); },
        [data](Broadcast& b, Exec& exec) { return b.run(exec, data); });
    return {};
  }

  Communicator& comm_;
  const i64 n_;
  const int ranks_, rank_;
  std::vector<Tensor> tensors_;
  std::vector<Contender> contenders_;
};

Status check_output(const Contender& contender, int rank) {
  for (i64 i = 0; contender.expected && i < contender.y.shape.elements(); ++i) {
    const float expected = contender.expected(i), found = contender.y.as<const float>()[i];
    if (expected != found) {
      return error(Code::kDataLoss, "{} {}: rank {} [{}]: expected {}, found {}", contender.op, contender.algorithm,
                   rank, i, expected, found);
    }
  }
  return {};
}

// Microseconds per call of the slowest rank; every rank gets the same answer.
Result<double> time_calls(Communicator& comm, Exec& exec, Barrier& barrier, const Contender& contender, i64 repeats) {
  WEFT_TRY(barrier.run(exec));
  const auto start = Clock::now();
  for (i64 i = 0; i < repeats; ++i) WEFT_TRY(contender.run(exec));
  const double seconds = seconds_since(start);
  WEFT_ASSIGN(const auto all, comm.exchange(u64(seconds * 1e9)));
  return double(*std::max_element(all.begin(), all.end())) / 1e3 / double(repeats);
}

// All contenders of one size, sample by sample in turn.
Status measure(Communicator& comm, Exec& exec, Barrier& barrier, std::vector<Contender>& contenders, int samples) {
  constexpr double kSampleMicros = 2000;
  std::vector<i64> repeats;
  for (Contender& contender : contenders) {
    WEFT_TRY(contender.run(exec));
    WEFT_TRY(check_output(contender, comm.rank()));
    WEFT_TRY(time_calls(comm, exec, barrier, contender, 4).status());  // warm-up
    WEFT_ASSIGN(const double micros, time_calls(comm, exec, barrier, contender, 4));
    repeats.push_back(std::clamp(i64(kSampleMicros / std::max(micros, 0.05)), i64(1), i64(10000)));
  }
  for (int sample = 0; sample < samples; ++sample) {
    for (size_t c = 0; c < contenders.size(); ++c) {
      WEFT_ASSIGN(const double micros, time_calls(comm, exec, barrier, contenders[c], repeats[c]));
      contenders[c].micros.push_back(micros);
    }
  }
  return {};
}

CommBenchRow row_of(Contender& contender, i64 bytes) {
  std::sort(contender.micros.begin(), contender.micros.end());
  CommBenchRow row{contender.op, contender.algorithm, bytes};
  row.median_us = contender.micros[contender.micros.size() / 2];
  row.low_us = contender.micros.front();
  row.high_us = contender.micros.back();
  row.gb_per_s = double(bytes) / row.median_us / 1e3;
  return row;
}

const std::vector<std::string>& all_ops() {
  static const std::vector<std::string> ops = {"barrier",    "broadcast",      "all_reduce",
                                               "all_gather", "reduce_scatter", "all_to_all"};
  return ops;
}

Status check_options(const CommBenchOptions& options) {
  if (options.ranks < 1 || options.ranks > 64) {
    return error(Code::kInvalidArgument, "ranks: expected 1 to 64, found {}", options.ranks);
  }
  if (options.samples < 1)
    return error(Code::kInvalidArgument, "samples: expected at least 1, found {}", options.samples);
  constexpr i64 kMost = i64(64) << 20;
  for (const i64 bytes : options.bytes) {
    if (bytes < 4 || bytes % 4 != 0 || bytes > kMost) {
      return error(Code::kInvalidArgument, "bytes: expected multiples of 4 up to {}, found {}", kMost, bytes);
    }
  }
  for (const std::string& op : options.ops) {
    if (std::find(all_ops().begin(), all_ops().end(), op) == all_ops().end()) {
      return error(Code::kInvalidArgument,
                   "op: expected barrier, broadcast, all_reduce, all_gather, reduce_scatter or "
                   "all_to_all, found {}",
                   op);
    }
  }
  return {};
}

}  // namespace

Result<CommBenchResult> run_comm_bench(const CommBenchOptions& options) {
  WEFT_TRY(check_options(options));
  CommBenchResult result;
  result.ranks = options.ranks;
  result.samples = options.samples;
  result.pinned = options.ranks <= usable_cpu_count();
  const std::vector<int>& cpus = allowed_cpus();
  const auto& ops = options.ops.empty() ? all_ops() : options.ops;
  CommunicatorOptions comm_options;
  comm_options.arena_bytes = i64(4) << 30;  // address space: only what is used becomes resident
  const auto outcomes = run_thread_ranks(
      options.ranks,
      [&](Communicator& comm) -> Status {
        if (result.pinned) pin_this_thread(cpus[size_t(comm.rank())]);
        Team team(1, 0);
        Exec exec(team, 0);
        WEFT_ASSIGN(auto barrier, Barrier::create(comm));
        const auto measure_ops = [&](i64 bytes, bool barrier_row) -> Status {
          Bench bench(comm, bytes);
          for (const std::string& op : ops) {
            if ((op == "barrier") == barrier_row) WEFT_TRY(bench.add(op));
          }
          WEFT_TRY(measure(comm, exec, barrier, bench.contenders(), options.samples));
          if (comm.rank() != 0) return {};
          for (Contender& contender : bench.contenders()) result.rows.push_back(row_of(contender, bytes));
          return {};
        };
        WEFT_TRY(measure_ops(0, true));
        for (const i64 bytes : options.bytes) WEFT_TRY(measure_ops(bytes, false));
        return {};
      },
      comm_options);
  for (const Status& outcome : outcomes) WEFT_TRY(outcome);
  return result;
}

}  // namespace weft
