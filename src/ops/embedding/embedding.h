// embedding: rows of a vocabulary shard by token id.
#pragma once
#include "device/exec.h"
#include "ops/gemm/weight.h"

namespace weft {

struct EmbeddingArgs {
  TensorView token_ids;  // [tokens] i32
  const Weight& table;   // rows [vocab_begin, vocab_begin + table.n()) of the vocabulary, [n, hidden]
  i64 vocab_begin = 0;
  TensorView y;  // [tokens, hidden] f32, row stride allowed
};

// Writes the table's row of each token, and zeros for tokens outside the shard: the sum over ranks is the embedding.
// Ends with exec.sync(). The caller has checked that ids lie in the whole vocabulary.
Status embedding(Exec& exec, const EmbeddingArgs& args);

}  // namespace weft
