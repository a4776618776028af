#include "layers/workspace.h"

#include <algorithm>

namespace weft {

Result<Workspace> Workspace::create(const WorkspaceShape& shape, DeviceKind device) {
  const i64 tokens = shape.max_tokens, logits = shape.max_logits;
  const DType product = device == DeviceKind::kCpu ? DType::kF32 : DType::kBF16;
  Workspace w;
  WEFT_ASSIGN(w.residual, make_tensor(device, DType::kF32, {tokens, shape.hidden}));
  WEFT_ASSIGN(w.all_rows, make_tensor(device, DType::kF32, {tokens, shape.hidden}));
  WEFT_ASSIGN(w.wide, make_tensor(device, product, {tokens, std::max(shape.qkv, 2 * shape.ffn)}));
  WEFT_ASSIGN(w.wanted, make_tensor(device, DType::kF32, {logits, shape.hidden}));
  WEFT_ASSIGN(w.logits_shard, make_tensor(device, product, {logits, shape.vocab}));
  WEFT_ASSIGN(w.angles, make_tensor(device, DType::kF32, {tokens, shape.head_dim}));
  WEFT_ASSIGN(w.parts, make_tensor(device, DType::kF32, {kAttentionParts}));
  WEFT_ASSIGN(w.attention, ActivationBuffer::create(device, shape.attention_format, tokens, shape.attention));
  WEFT_ASSIGN(w.ffn, ActivationBuffer::create(device, shape.ffn_format, tokens, shape.ffn));
  WEFT_ASSIGN(w.head, ActivationBuffer::create(device, shape.head_format, logits, shape.hidden));
  return w;
}

}  // namespace weft
