// StepBatch: one forward step over any mix of prefill chunks and decode rows.
#pragma once
#include "base/tensor.h"

namespace weft {

// A row is one sequence's part in this step: its next `row_starts[r + 1] - row_starts[r]` tokens, which end at position
// kv_lens[r] - 1. Buffers belong to the caller and are read during the step only. Token ids, positions and page numbers
// have been checked by the caller (the engine), operators trust them.
struct StepBatch {
  TensorView token_ids;   // [tokens] i32
  TensorView positions;   // [tokens] i32
  TensorView row_starts;  // [rows + 1] i32, ascending from 0 to tokens
  TensorView kv_lens;     // [rows] i32: length of the row's sequence after this step
  TensorView page_table;  // [rows, max_pages] i32: page p of a row holds its positions [p * page_tokens, (p + 1) *
                          // page_tokens)
  TensorView
      slots;  // [tokens] i32: page * page_tokens + offset where K and V are written; -1 = padding, nothing is written
  TensorView logits_at;  // [wanted] i32: the tokens whose logits are needed, ascending

  i64 tokens() const { return token_ids.dim(0); }
  i64 rows() const { return kv_lens.dim(0); }
  i64 wanted() const { return logits_at.dim(0); }
};

}  // namespace weft
