// grouped_gemm: rows times the weights of the experts they were routed to, and the weighted sum back.
#pragma once
#include "ops/gemm/gemm.h"
#include "ops/grouped_gemm/expert_groups.h"

namespace weft {

// One matrix [n, k] per expert, all of one activation format.
class GroupedWeight {
 public:
  GroupedWeight() = default;
  // Packed matrices. Errors: kInvalidArgument naming an expert whose shape or format differs from the first one's; no
  // experts.
  static Result<GroupedWeight> create(const std::string& name, std::vector<Weight> experts);
  // [experts, n, k] bf16 or f16, dense, in CUDA memory: the form that operators on GPUs take. Errors: kInvalidArgument
  // naming `name` for another tensor.
  static Result<GroupedWeight> on_gpu(std::string name, Tensor matrices);
  // Packed matrices as such a tensor on the current GPU. What is no bf16 is rounded to it. Errors: those of copy_to().
  Result<GroupedWeight> copy_to_gpu() const;

  i64 experts() const { return count_; }
  i64 n() const { return n_; }
  i64 k() const { return k_; }
  ActivationFormat activation_format() const { return activation_format_; }
  const Weight& expert(i64 e) const { return experts_[size_t(e)]; }  // on the CPU
  const TensorView& matrices() const { return matrices_.view; }      // on a GPU; else an empty view
  DeviceKind device() const { return matrices_.view.device; }
  const std::string& name() const { return name_; }
  std::string describe() const;  // "bf16 experts [8, 64, 32]"
  size_t bytes() const;

 private:
  std::string name_;
  i64 count_ = 0, n_ = 0, k_ = 0;
  ActivationFormat activation_format_ = ActivationFormat::kF32;
  std::vector<Weight> experts_;
  Tensor matrices_;
};

// y [groups.pairs(), n] f32, row stride allowed: row r = x[groups.token(r)] times its expert's weight. x [tokens, k].
// Every thread of the team calls it; work is cut by experts and columns; ends with exec.sync(). No allocation. The bits
// of a row are gemm()'s. On GPUs: x, w and y bf16 or f16, y with room for all pairs; on exec.stream(), as
// cuda_grouped_gemm(). Errors: kInvalidArgument naming the tensor.
Status grouped_gemm(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                    const TensorView& y);

// The same for rows that lie in the order of groups already: row r = a[r] times its expert's weight. a [pairs, k].
Status grouped_gemm_pairs(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                          const TensorView& y);

// grouped_gemm(), then swiglu() to y [groups.pairs(), n / 2]: the products' first half of the columns is gate, the
// other up. `products` [groups.pairs(), n] f32 is where they go in between; on GPUs nothing does, and nothing is
// rounded there.
Status grouped_gemm_swiglu(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                           const TensorView& products, const ActivationView& y);

// y [tokens, n] f32, row stride allowed: row t = (or +=, if accumulate) the sum over its rows r in `groups`, experts
// ascending, of weight(r) * (a[r] times its expert's weight). a [pairs, k]. CPUs only. Otherwise as grouped_gemm(): a
// token's bits depend on its own rows alone.
Status grouped_gemm_sum(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                        const TensorView& y, bool accumulate = false);

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
void grouped_sum_tile(const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w, const GemmTile& tile,
                      float* out, i64 out_stride);

// Checks of operators built from these. Errors name `op` and the tensor.
Status check_grouped_input(const char* op, const ActivationView& x, i64 rows, const ExpertGroups& groups,
                           const GroupedWeight& w);

}  // namespace weft
