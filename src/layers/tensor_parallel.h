// TensorParallel: how activations move between the ranks that share a layer. Layers call it and never see the mode.
#pragma once
#include <array>
#include <optional>

#include "comm/communicator.h"
#include "dist/ag_gemm/ag_gemm.h"
#include "dist/all_gather/all_gather.h"
#include "dist/all_reduce/all_reduce.h"
#include "dist/gemm_ar/gemm_ar.h"
#include "dist/gemm_rs/gemm_rs.h"
#include "dist/reduce_scatter/reduce_scatter.h"
#include "layers/layer_mode.h"
#include "layers/residual.h"

namespace weft {

struct TensorParallelShape {
  i64 max_tokens;  // of one step
  i64 max_logits;  // rows of logits of one step
  i64 hidden;
  i64 vocab;  // 0 = layers alone: neither sum() nor all_rows() nor gather_columns()
  std::array<bool, kActivationFormats> column_formats;  // by ActivationFormat: which ones column-parallel weights read
  // GPUs: the most rows of a column-parallel and columns of a row-parallel weight, of any rank.
  i64 column_n = 0, row_k = 0;
};

struct TensorParallelOptions {
  std::string variant = "auto";  // GPUs: of the fused operators
  // GPUs, for auto: the variants that are fastest here, measured now or before; rank 0's memory of it, "" = none.
  std::optional<std::string> tuning = {};
  // Mode kAr: instead of gemm_ar a GEMM followed by all_reduce with this algorithm.
  std::string all_reduce = "";
};

class TensorParallel {
 public:
  // Plans every operator once for all layers, on the communicator's device. All ranks of `comm` must call it with the
  // same arguments; `mode` is not kAuto. `comm` must outlive it. Errors: kInvalidArgument for all_reduce in mode kAgRs;
  // those of the operators.
  static Result<std::unique_ptr<TensorParallel>> create(Communicator& comm, const TensorParallelShape& shape,
                                                        LayerMode mode, const TensorParallelOptions& options = {});
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  LayerMode mode() const { return mode_; }

  // Which of `tokens` tokens' residual this rank holds.
  Range local_tokens(i64 tokens) const;
  // Where this rank writes its normalised rows before column(): [local rows, hidden]. Valid until that column()
  // returns.
  ActivationView column_input(ActivationFormat format, i64 tokens);
  // y [tokens, w.n()] f32 (on GPUs bf16) = all tokens' rows times a column-parallel weight [n_r, hidden] (+ bias [n_r]
  // f32, if given).
  // `x` is what column_input() returned, filled in by the whole team.
  Status column(Exec& exec, const ActivationView& x, i64 tokens, const Weight& w, const TensorView& y,
                const TensorView& bias = {});
  // residual += sum over ranks of a [tokens, k_r] times a row-parallel weight [hidden, k_r] (+ bias [hidden] f32, if
  // given). What waits as the residual's addend is this object's, until the next row().
  Status row(Exec& exec, const ActivationView& a, const Weight& w, Residual& residual, const TensorView& bias = {});
  // Sums x [tokens, hidden] f32 over ranks into residual [local rows, hidden] f32; in mode kAr x may be the residual,
  // for one rank it must be.
  Status sum(Exec& exec, const TensorView& x, const TensorView& residual);
  // All tokens' rows of the residual: y [tokens, hidden] f32, or `residual` itself where every rank holds them all.
  Result<TensorView> all_rows(Exec& exec, const TensorView& residual, const TensorView& y);
  // y [rows, vocab] f32 from every rank's columns: shard [rows, vocab_r] f32. For one rank shard must be y.
  Status gather_columns(Exec& exec, const TensorView& shard, const TensorView& y);

 private:
  TensorParallel(Communicator& comm, LayerMode mode) : comm_(comm), mode_(mode) {}
  Status plan_columns(const TensorParallelShape& shape, const FusedOptions& fused);
  Status plan_rows(const TensorParallelShape& shape, const FusedOptions& fused, const std::string& all_reduce);
  Status plan_ends(const TensorParallelShape& shape);
  bool sharded() const { return size() > 1 && mode_ == LayerMode::kAgRs; }
  Communicator& comm_;
  const LayerMode mode_;
  // Present as mode and size need them; none for one rank.
  std::array<std::optional<AgGemm>, kActivationFormats> ag_gemm_;
  // Where column_input() is not symmetric memory.
  std::array<std::optional<ActivationBuffer>, kActivationFormats> local_input_;
  std::optional<GemmRs> gemm_rs_;
  std::optional<GemmAr> gemm_ar_;
  std::optional<AllReduce> row_reduce_;  // behind a GEMM, in gemm_ar's place
  std::optional<Tensor> row_output_;     // where row() neither adds to the residual nor has gemm_ar's own output
  std::optional<AllReduce> all_reduce_;
  std::optional<ReduceScatter> reduce_scatter_;
  std::optional<AllGather> gather_rows_, gather_columns_;
};

}  // namespace weft
