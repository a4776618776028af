// grouped_gemm: rows times the weights of the experts they were routed to, and the weighted sum back.
#pragma once
#include "ops/gemm/gemm.h"
#include "ops/grouped_gemm/expert_groups.h"

namespace weft {

// One matrix [n, k] per expert, all of one activation format.
class GroupedWeight {
 public:
  // Errors: kInvalidArgument naming an expert whose shape or format differs from the first one's; no experts.
  static Result<GroupedWeight> create(const std::string& name, std::vector<Weight> experts);
  i64 experts() const { return i64(experts_.size()); }
  i64 n() const { return experts_.front().n(); }
  i64 k() const { return experts_.front().k(); }
  ActivationFormat activation_format() const { return experts_.front().activation_format(); }
  const Weight& expert(i64 e) const { return experts_[size_t(e)]; }
  const std::string& name() const { return name_; }
  size_t bytes() const;

 private:
  std::string name_;
  std::vector<Weight> experts_;
};

// y [groups.pairs(), n] f32, row stride allowed: row r = x[groups.token(r)] times its expert's weight. x [tokens, k].
// Every thread of the team calls it; work is cut by experts and columns; ends with exec.sync(). No allocation. The bits
// of a row are gemm()'s. Errors: kInvalidArgument naming the tensor.
Status grouped_gemm(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                    const TensorView& y);

// The same for rows that lie in the order of groups already: row r = a[r] times its expert's weight. a [pairs, k].
Status grouped_gemm_pairs(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                          const TensorView& y);

// y [tokens, n] f32, row stride allowed: row t = (or +=, if accumulate) the sum over its rows r in `groups`, experts
// ascending, of weights[pair(r)] * (a[r] times its expert's weight). a [pairs, k], weights [tokens, per_token] f32.
// Otherwise as grouped_gemm(): a token's bits depend on its own rows alone.
Status grouped_gemm_sum(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const TensorView& weights,
                        const GroupedWeight& w, const TensorView& y, bool accumulate = false);

// What operators of many ranks are made of: on the calling thread, no synchronisation.
// This thread's share of grouped_gemm() for tokens [begin, end), of which x holds those from `first` on.
struct GroupedRows {
  const ActivationView& x;
  i64 first, begin, end;
};
void grouped_gemm_share(const Exec& exec, const GroupedRows& rows, const ExpertGroups& groups, const GroupedWeight& w,
                        const TensorView& y);
// out [tile.m_end - tile.m_begin, tile.n_end - tile.n_begin] f32 += a tile of grouped_gemm_sum()'s sums; its rows are
// tokens. tile.n_begin must be a multiple of Weight::kPanel.
void grouped_sum_tile(const ActivationView& a, const ExpertGroups& groups, const TensorView& weights,
                      const GroupedWeight& w, const GemmTile& tile, float* out, i64 out_stride);

// Checks of operators built from these. Errors name `op` and the tensor.
Status check_grouped_input(const char* op, const ActivationView& x, i64 rows, const ExpertGroups& groups,
                           const GroupedWeight& w);

}  // namespace weft
