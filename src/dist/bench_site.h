// BenchSite: what the bench.cc of each operator fills with the calls to measure.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "comm/communicator.h"
#include "dist/bench.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

// One operator and algorithm at one size on one rank.
struct BenchCall {
  std::string op, algorithm;
  std::function<Status(Exec&)> run;
  std::function<float(i64)> expected;  // element i of y; empty = not checked
  TensorView y;                        // f32, dense
  std::vector<double> micros;          // of the slowest rank
};

// The experts of a step: owned by the site.
struct BenchExperts {
  const GroupedWeight* w;
  const ExpertGroups* groups;  // of gemm.m tokens, the same on every rank
};

// The memory and calls of one size on one rank. All tensors are f32.
class BenchSite {
 public:
  // Collectives are measured at n elements, GEMMs at `gemm`.
  BenchSite(Communicator& comm, i64 n, const CommBenchGemm& gemm) : comm(comm), n(n), gemm(gemm) {}

  Communicator& comm;
  const i64 n;
  const CommBenchGemm gemm;
  std::vector<BenchCall> calls;

  // Small whole numbers, whose sums over ranks are exact in any order.
  static float number(int rank, i64 i) { return float(rank + 1 + i % 61); }
  float sum(i64 i) const {
    float total = 0;
    for (int r = 0; r < comm.size(); ++r) total += number(r, i);
    return total;
  }
  // This rank's numbers, [rows, 1].
  TensorView x(i64 rows) {
    const TensorView view = y(rows);
    for (i64 i = 0; i < rows; ++i) view.as<float>()[i] = number(comm.rank(), i);
    return view;
  }
  TensorView y(i64 rows, i64 columns = 1) {
    return tensors_.emplace_back(Tensor::zeros(DType::kF32, {rows, columns})).view;
  }
  // A random weight [n, k] in gemm.format, and random activations for it; they differ from rank to rank.
  Result<const Weight*> weight(i64 n, i64 k);
  ActivationView activations(const Weight& w, i64 rows);

  // kBenchExperts random weights [n, k] in gemm.format, kBenchPerToken of which each of gemm.m tokens chooses.
  Result<BenchExperts> experts(i64 n, i64 k);

  // Adds a call that runs call(op, exec), and keeps `op`.
  template <class Op, class Call>
  void push(const char* name, const std::string& algorithm, Op op, const TensorView& out,
            std::function<float(i64)> expected, Call call) {
    auto shared = std::make_shared<Op>(std::move(op));
    calls.push_back(
        {name, algorithm, [shared, call](Exec& exec) { return call(*shared, exec); }, std::move(expected), out, {}});
  }
  // Adds the three ways to measure a GEMM with communication: the product alone, product and collective one after the
  // other, and `fused`, whose output must have the bits of the second.
  void push_gemm(const char* name, std::function<Status(Exec&)> alone, std::function<Status(Exec&)> unfused,
                 const TensorView& unfused_y, std::function<Status(Exec&)> fused, const TensorView& fused_y);

 private:
  std::deque<Tensor> tensors_;
  std::deque<Weight> weights_;
  std::deque<ActivationBuffer> activations_;
  std::deque<GroupedWeight> experts_;
  std::deque<ExpertGroups> groups_;
};

// Each stands in the bench.cc of its operator's folder. Collective.
Status bench_barrier(BenchSite& site);
Status bench_broadcast(BenchSite& site);
Status bench_all_reduce(BenchSite& site);
Status bench_all_gather(BenchSite& site);
Status bench_reduce_scatter(BenchSite& site);
Status bench_all_to_all(BenchSite& site);
Status bench_expert_parallel(BenchSite& site);
Status bench_send_recv(BenchSite& site);
Status bench_ag_gemm(BenchSite& site);
Status bench_gemm_rs(BenchSite& site);
Status bench_gemm_ar(BenchSite& site);
Status bench_ag_moe(BenchSite& site);
Status bench_moe_rs(BenchSite& site);
Status bench_moe_ar(BenchSite& site);

}  // namespace weft
