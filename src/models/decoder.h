// Decoder: the transformer that all supported architectures are cases of; its ModelConfig says which.
#pragma once
#include "models/model.h"

namespace weft {

Result<std::unique_ptr<Model>> make_decoder(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                            const ModelOptions& options);

}  // namespace weft
