// Llama: grouped-query attention with RoPE, SwiGLU, RMSNorm. Llama 2 and 3, SmolLM2.
// Source: Touvron et al., Llama 2, 2023; Hugging Face's modeling_llama for the exact semantics.
#pragma once
#include "models/model.h"

namespace weft {

Result<std::unique_ptr<Model>> make_llama(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                          const ModelOptions& options);

}  // namespace weft
