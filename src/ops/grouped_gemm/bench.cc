#include "ops/grouped_gemm/bench.h"

#include "ops/grouped_gemm/cases.h"

namespace weft {
namespace {

Status check_options(const GroupedGemmBenchOptions& o) {
  for (auto [name, value] : {std::pair("tokens", o.tokens), {"experts", o.experts}, {"n", o.n}, {"k", o.k}}) {
    if (value < 1) return error(Code::kInvalidArgument, "{}: expected at least 1, found {}", name, value);
  }
  if (o.per_token < 1 || o.per_token > o.experts) {
    return error(Code::kInvalidArgument, "per_token: expected 1 to {}, found {}", o.experts, o.per_token);
  }
  if (o.k % dtype_layout(o.format).block != 0) {
    return error(Code::kInvalidArgument, "k: expected a multiple of {} for {}, found {}", dtype_layout(o.format).block,
                 dtype_name(o.format), o.k);
  }
  if (o.routing == "even" || o.routing == "one_hot") return {};
  return error(Code::kInvalidArgument, "routing: expected even or one_hot, found {}", o.routing);
}

// The first row of every expert.
Status check_output(const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                    const std::vector<Tensor>& raws, const TensorView& y) {
  const Tensor expected = Tensor::zeros(DType::kF32, {1, w.n()});
  for (i64 e = 0; e < w.experts(); ++e) {
    if (groups.rows(e).size() == 0) continue;
    const i64 row = groups.rows(e).begin, token = groups.token(row);
    const ActivationView one = x.slice(token, token + 1);
    gemm_reference(one, w.expert(e), expected.view);
    const std::vector<double> bounds = gemm_error_bounds(one, raws[size_t(e)].view);
    for (i64 j = 0; j < w.n(); ++j) {
      const float found = y.row<float>(row)[j], wanted = expected.view.as<float>()[j];
      if (!(std::abs(double(found) - double(wanted)) <= bounds[size_t(j)])) {
        return error(Code::kDataLoss, "grouped_gemm: row {}, column {}: expected {}, found {}", row, j, wanted, found);
      }
    }
  }
  return {};
}

}  // namespace

Result<GroupedGemmBenchResult> bench_grouped_gemm(const GroupedGemmBenchOptions& o) {
  WEFT_TRY(check_options(o));
  std::vector<Tensor> raws;
  WEFT_ASSIGN(const GroupedWeight w, random_experts(o.format, o.experts, o.n, o.k, 1, &raws));
  std::vector<i32> ids = random_routing(o.tokens, o.experts, o.per_token, o.routing == "even" ? 0 : 1);
  ExpertGroups groups = ExpertGroups::create(i64(ids.size()), o.experts);
  const TensorView chosen = TensorView::dense(ids.data(), DType::kI32, {o.tokens, o.per_token});
  const Tensor weights = random_tensor(o.tokens, o.per_token, 4);
  WEFT_TRY(run_once(1, [&](Exec& exec) { return groups.sort(exec, chosen, weights.view); }));

  const i64 pairs = groups.pairs();
  const ActivationBuffer x = random_activations(w.activation_format(), o.tokens, o.k, 2);
  const ActivationBuffer a = random_activations(w.activation_format(), pairs, o.k, 3);
  const Tensor y = Tensor::zeros(DType::kF32, {pairs, o.n}), sums = Tensor::zeros(DType::kF32, {o.tokens, o.n});
  const auto grouped = [&](Exec& exec) { return grouped_gemm(exec, x.view(o.tokens), groups, w, y.view); };
  WEFT_TRY(run_once(o.threads, grouped));
  WEFT_TRY(check_output(x.view(o.tokens), groups, w, raws, y.view));

  GroupedGemmBenchResult result;
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, grouped));
  WEFT_ASSIGN(result.sum_micros, time_op(o.threads, o.samples, [&](Exec& exec) {
                return grouped_gemm_sum(exec, a.view(pairs), groups, w, sums.view);
              }));
  WEFT_ASSIGN(result.dense_micros, time_op(o.threads, o.samples, [&](Exec& exec) {
                return gemm(exec, {.x = a.view(pairs), .w = w.expert(0), .y = y.view});
              }));
  result.giga_ops = 2e-3 * double(pairs * o.n) * double(o.k) / result.micros.median;
  double bytes = 0;
  for (i64 e = 0; e < o.experts; ++e) bytes += groups.rows(e).size() > 0 ? double(w.expert(e).bytes()) : 0;
  result.gigabytes = bytes * 1e-3 / result.micros.median;
  return result;
}

}  // namespace weft
