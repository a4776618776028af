#include "layers/vocabulary.h"

#include "ops/embedding/embedding.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/take_rows/take_rows.h"

namespace weft {

Status embed_tokens(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch, const Weight& table,
                    Range vocab, const TensorView& residual) {
  const bool sharded_rows = tp.mode() == LayerMode::kAgRs && tp.size() > 1;
  const TensorView mine = sharded_rows ? leading(workspace.all_rows, batch.tokens(), residual.dim(1)) : residual;
  WEFT_TRY(embedding(exec, {.token_ids = batch.token_ids, .table = table, .vocab_begin = vocab.begin, .y = mine}));
  return tp.sum(exec, mine, residual);
}

Status compute_logits(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch,
                      const HeadArgs& args, const Residual& residual, const TensorView& logits) {
  const i64 wanted = batch.wanted(), hidden = residual.rows.dim(1);
  if (wanted == 0) return {};
  if (residual.addend.data) return error(Code::kUnimplemented, "logits of a residual with an addend");
  WEFT_ASSIGN(const TensorView rows,
              tp.all_rows(exec, residual.rows, leading(workspace.all_rows, batch.tokens(), hidden)));
  const TensorView chosen = leading(workspace.wanted, wanted, hidden);
  WEFT_TRY(take_rows(exec, rows, batch.logits_at, chosen));
  const ActivationView x = workspace.head.view(wanted);
  WEFT_TRY(rms_norm(exec, {.x = chosen, .weight = args.norm, .epsilon = args.norm_epsilon, .y = x}));
  const TensorView shard = tp.size() == 1 ? logits : leading(workspace.logits_shard, wanted, args.head.n());
  WEFT_TRY(gemm(exec, {.x = x, .w = args.head, .y = shard}));
  return tp.gather_columns(exec, shard, logits);
}

}  // namespace weft
