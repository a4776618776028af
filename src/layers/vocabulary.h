// VocabParallelEmbedding and VocabParallelHead: the two ends of a model, their rows split over ranks.
#pragma once
#include "layers/loader.h"
#include "layers/tensor_parallel.h"
#include "layers/workspace.h"
#include "ops/attention/step_batch.h"

namespace weft {

// residual [local rows, hidden] f32 = the embeddings of the step's tokens. `table` holds this rank's rows, [plan.vocab,
// hidden].
Status embed_tokens(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch, const Weight& table,
                    Range vocab, const TensorView& residual);

struct HeadArgs {
  const Weight& head;      // this rank's rows, [vocab_r, hidden]
  const TensorView& norm;  // [hidden] f32, applied before the head
  float norm_epsilon;
};
// logits [batch.wanted(), vocab] f32 on every rank: final norm and head of the rows that the step asks for, and of no
// others. kUnimplemented for a residual with an addend.
Status compute_logits(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch,
                      const HeadArgs& args, const Residual& residual, const TensorView& logits);

}  // namespace weft
