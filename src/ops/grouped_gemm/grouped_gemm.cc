#include "ops/grouped_gemm/grouped_gemm.h"

#include <algorithm>
#include <cstring>

#include "device/allocate.h"
#include "ops/gpu.h"
#include "ops/swiglu/swiglu.h"

namespace weft {
namespace {

constexpr i64 kGatherBytes = 128 << 10;  // of scattered rows that one pass over an expert's columns multiplies
constexpr i64 kSumRows = 64, kSumColumns = 256;
// Reading a panel costs about as much as multiplying it with this many rows.
constexpr i64 kReadRows = 8;

// Rows `rows` of one expert times its columns [begin, end).
void multiply_expert(const GroupedRows& tokens, const ExpertGroups& groups, const Weight& w, Range rows, i64 begin,
                     i64 end, const TensorView& y) {
  const ActivationView& x = tokens.x;
  const i64 row_bytes = x.row_bytes();
  const i64 fit = row_bytes ? std::max<i64>(1, kGatherBytes / row_bytes) : rows.size();
  const auto source = [&](i64 row) { return groups.token(row) - tokens.first; };
  alignas(64) std::byte gathered[kGatherBytes];
  for (i64 row = rows.begin; row < rows.end;) {
    i64 run = 1;  // neighbours in x need no copy
    while (row + run < rows.end && source(row + run) == source(row) + run) ++run;
    i64 count = run;
    ActivationView from = x.slice(source(row), source(row) + run);
    if (run < fit && row + run < rows.end) {
      count = std::min(fit, rows.end - row);
      for (i64 i = 0; i < count; ++i) {
        std::memcpy(gathered + i * row_bytes, x.row(source(row + i)), size_t(row_bytes));
      }
      from = {gathered, x.format, DeviceKind::kCpu, count, x.k};
    }
    gemm_tile(from, w, {0, count, begin, end}, y.row<float>(row) + begin, y.byte_strides[0] / i64(sizeof(float)));
    row += count;
  }
}

// This thread's share of the products: multiply(expert, begin, end) for columns [begin, end) of an expert that has
// rows_of(expert) rows.
template <class RowsOf, class Multiply>
void share_experts(const Exec& exec, const GroupedWeight& w, RowsOf&& rows_of, Multiply&& multiply) {
  const i64 panels = (w.n() + Weight::kPanel - 1) / Weight::kPanel;
  const auto panel_cost = [&](i64 e) {
    const i64 count = rows_of(e);
    return count > 0 ? count + kReadRows : 0;
  };
  i64 total = 0;
  for (i64 e = 0; e < w.experts(); ++e) total += panels * panel_cost(e);
  const i64 lo = total * exec.thread() / exec.num_threads(), hi = total * (exec.thread() + 1) / exec.num_threads();
  i64 before = 0;
  for (i64 e = 0; e < w.experts() && before < hi; ++e) {
    const i64 cost = panel_cost(e);
    if (cost == 0) continue;
    // The expert's first panel that starts at or after `at`.
    const auto panel = [&](i64 at) { return std::clamp<i64>((at - before + cost - 1) / cost, 0, panels); };
    const i64 begin = panel(lo) * Weight::kPanel, end = std::min(panel(hi) * Weight::kPanel, w.n());
    before += panels * cost;
    if (begin < end) multiply(e, begin, end);
  }
}

}  // namespace

Result<GroupedWeight> GroupedWeight::create(const std::string& name, std::vector<Weight> experts) {
  if (experts.empty()) return error(Code::kInvalidArgument, "{}: expected at least one expert", name);
  GroupedWeight grouped;
  grouped.name_ = name;
  grouped.count_ = i64(experts.size());
  grouped.n_ = experts.front().n();
  grouped.k_ = experts.front().k();
  grouped.activation_format_ = experts.front().activation_format();
  grouped.experts_ = std::move(experts);
  for (i64 e = 1; e < grouped.experts(); ++e) {
    const Weight& w = grouped.expert(e);
    if (w.n() == grouped.n() && w.k() == grouped.k() && w.activation_format() == grouped.activation_format()) continue;
    return error(Code::kInvalidArgument, "{}: expert {} is [{}, {}] for {}, expert 0 is [{}, {}] for {}", name, e,
                 w.n(), w.k(), activation_format_name(w.activation_format()), grouped.n(), grouped.k(),
                 activation_format_name(grouped.activation_format()));
  }
  return grouped;
}

Result<GroupedWeight> GroupedWeight::on_gpu(std::string name, Tensor matrices) {
  const TensorView& view = matrices.view;
  const bool plain = view.dtype == DType::kBF16 || view.dtype == DType::kF16;
  if (view.device != DeviceKind::kCuda || !plain || view.shape.rank() != 3 || !view.is_dense()) {
    return error(Code::kInvalidArgument, "{}: expected bf16 or f16 [experts, n, k], dense, in CUDA memory, found {}",
                 name, view.describe());
  }
  GroupedWeight grouped;
  grouped.name_ = std::move(name);
  grouped.count_ = view.dim(0);
  grouped.n_ = view.dim(1);
  grouped.k_ = view.dim(2);
  grouped.activation_format_ = plain_format(view.dtype);
  grouped.matrices_ = std::move(matrices);
  return grouped;
}

Result<GroupedWeight> GroupedWeight::copy_to_gpu() const {
  const Tensor all = Tensor::zeros(DType::kBF16, {count_, n_, k_});
  for (i64 e = 0; e < count_; ++e) expert(e).round_to_bf16(all.view.as<bf16>() + e * n_ * k_);
  WEFT_ASSIGN(Tensor matrices, copy_to(DeviceKind::kCuda, all.view));
  return on_gpu(name_, std::move(matrices));
}

std::string GroupedWeight::describe() const {
  return fmt::format("{} experts [{}, {}, {}]{}", activation_format_name(activation_format_), count_, n_, k_,
                     device() == DeviceKind::kCuda ? " on a GPU" : "");
}

size_t GroupedWeight::bytes() const {
  size_t total = matrices_.storage.size();
  for (const Weight& w : experts_) total += w.bytes();
  return total;
}

Status check_grouped_input(const char* op, const ActivationView& x, i64 rows, const ExpertGroups& groups,
                           const GroupedWeight& w) {
  if (w.device() == DeviceKind::kCuda) {
    return error(Code::kInvalidArgument, "{}: {}: expected weights of a CPU, found {}", op, w.name(), w.describe());
  }
  WEFT_TRY(check_gemm_input(x, w.expert(0)).with_context(op));
  if (x.rows == rows && groups.experts() == w.experts()) return {};
  return error(Code::kInvalidArgument, "{}: x [{}, {}] and {} experts of {} do not go with {} rows and {} experts", op,
               x.rows, x.k, w.experts(), w.name(), rows, groups.experts());
}

void grouped_gemm_share(const Exec& exec, const GroupedRows& rows, const ExpertGroups& groups, const GroupedWeight& w,
                        const TensorView& y) {
  const auto rows_of = [&](i64 e) { return groups.rows_of_tokens(e, rows.begin, rows.end); };
  share_experts(
      exec, w, [&](i64 e) { return rows_of(e).size(); },
      [&](i64 e, i64 begin, i64 end) { multiply_expert(rows, groups, w.expert(e), rows_of(e), begin, end, y); });
}

void grouped_sum_tile(const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w, const GemmTile& tile,
                      float* out, i64 out_stride) {
  alignas(64) float products[kSumRows * kSumColumns];
  for (i64 begin = tile.n_begin; begin < tile.n_end; begin += kSumColumns) {
    const i64 columns = std::min(kSumColumns, tile.n_end - begin);
    for (i64 e = 0; e < w.experts(); ++e) {
      const Range rows = groups.rows_of_tokens(e, tile.m_begin, tile.m_end);
      for (i64 row = rows.begin; row < rows.end; row += kSumRows) {
        const i64 count = std::min(kSumRows, rows.end - row);
        gemm_tile(a, w.expert(e), {row, row + count, begin, begin + columns}, products, columns);
        for (i64 i = 0; i < count; ++i) {
          const float factor = groups.weight(row + i);
          float* sum = out + (groups.token(row + i) - tile.m_begin) * out_stride + begin - tile.n_begin;
          const float* product = products + i * columns;
          for (i64 j = 0; j < columns; ++j) sum[j] += factor * product[j];
        }
      }
    }
  }
}

Status grouped_gemm(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                    const TensorView& y) {
  if (exec.device() == DeviceKind::kCuda) return gpu::grouped_gemm(exec, {"grouped_gemm", x, groups, w, y});
  WEFT_TRY(check_grouped_input("grouped_gemm", x, groups.tokens(), groups, w));
  WEFT_TRY(expect_tensor("grouped_gemm: y", y, DType::kF32, {groups.pairs(), w.n()}));
  grouped_gemm_share(exec, {x, 0, 0, groups.tokens()}, groups, w, y);
  return exec.sync();
}

Status grouped_gemm_pairs(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                          const TensorView& y) {
  if (exec.device() == DeviceKind::kCuda)
    return gpu::grouped_gemm(exec, {"grouped_gemm_pairs", a, groups, w, y, false, true});
  WEFT_TRY(check_grouped_input("grouped_gemm_pairs", a, groups.pairs(), groups, w));
  WEFT_TRY(expect_tensor("grouped_gemm_pairs: y", y, DType::kF32, {groups.pairs(), w.n()}));
  share_experts(
      exec, w, [&](i64 e) { return groups.rows(e).size(); },
      [&](i64 e, i64 begin, i64 end) {
        const Range rows = groups.rows(e);
        gemm_tile(a.slice(rows.begin, rows.end), w.expert(e), {0, rows.size(), begin, end},
                  y.row<float>(rows.begin) + begin, y.byte_strides[0] / i64(sizeof(float)));
      });
  return exec.sync();
}

Status grouped_gemm_swiglu(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                           const TensorView& products, const ActivationView& y) {
  if (exec.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(const TensorView rows, activation_matrix("grouped_gemm_swiglu: y", y));
    return gpu::grouped_gemm(exec, {"grouped_gemm_swiglu", x, groups, w, rows, true});
  }
  WEFT_TRY(grouped_gemm(exec, x, groups, w, products));
  return swiglu(exec, {.gate_up = products, .y = y});
}

Status grouped_gemm_sum(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                        const TensorView& y, bool accumulate) {
  WEFT_TRY(expect_cpu("grouped_gemm_sum", exec));
  WEFT_TRY(check_grouped_input("grouped_gemm_sum", a, groups.pairs(), groups, w));
  WEFT_TRY(expect_tensor("grouped_gemm_sum: y", y, DType::kF32, {groups.tokens(), w.n()}));
  const Range panels = exec.share((w.n() + Weight::kPanel - 1) / Weight::kPanel);
  const i64 begin = std::min(panels.begin * Weight::kPanel, w.n()), end = std::min(panels.end * Weight::kPanel, w.n());
  for (i64 t = 0; t < groups.tokens() && !accumulate; ++t)
    std::fill(y.row<float>(t) + begin, y.row<float>(t) + end, 0.f);
  if (begin < end && groups.pairs() > 0) {
    grouped_sum_tile(a, groups, w, {0, groups.tokens(), begin, end}, y.row<float>(0) + begin,
                     y.byte_strides[0] / i64(sizeof(float)));
  }
  return exec.sync();
}

}  // namespace weft
