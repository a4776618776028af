// Workspace: every intermediate of a forward pass, planned once; forward allocates nothing.
#pragma once
#include "device/allocate.h"
#include "ops/attention/attention.h"
#include "ops/gemm/activation.h"

namespace weft {

struct WorkspaceShape {
  i64 max_tokens, max_logits;
  i64 hidden;
  i64 head_dim;
  i64 qkv;                                                     // columns of this rank's fused QKV projection
  i64 attention;                                               // columns of this rank's attention output
  i64 ffn;                                                     // columns of this rank's FFN shard
  i64 vocab;                                                   // rows of this rank's vocabulary shard
  ActivationFormat attention_format, ffn_format, head_format;  // what o_proj, down_proj and the head read
};

// Buffers shared by all layers of a model, in its device's memory; each but `angles` is used by one operator at a time,
// in the order of the forward pass. GEMMs write f32 on CPUs and bf16 on GPUs.
struct Workspace {
  Tensor residual;      // [max_tokens, hidden] f32
  Tensor all_rows;      // [max_tokens, hidden] f32: every token's row, where the residual is sharded
  Tensor wide;          // [max_tokens, max(qkv, 2 ffn)] as GEMMs write: QKV, later gate and up
  Tensor wanted;        // [max_logits, hidden] f32
  Tensor logits_shard;  // [max_logits, vocab] as GEMMs write
  Tensor angles;        // [max_tokens, head_dim] f32: rope_angles() of the step
  Tensor parts;         // [kAttentionParts] f32: where threads share a sequence's KV blocks
  ActivationBuffer attention, ffn, head;

  // Errors: those of allocate().
  static Result<Workspace> create(const WorkspaceShape& shape, DeviceKind device = DeviceKind::kCpu);
};

// The first rows x columns of a buffer, dense.
inline TensorView leading(const Tensor& buffer, i64 rows, i64 columns) {
  return buffer.storage.view(buffer.view.dtype, {rows, columns});
}

// The rows as they travel: [rows, bytes of a row].
inline TensorView as_bytes(const ActivationView& x) {
  return TensorView::dense(x.data, DType::kU8, {x.rows, x.row_bytes()}, x.device);
}

}  // namespace weft
