#include "models/llama.h"

namespace weft {

Result<std::unique_ptr<Model>> make_model(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                          const ModelOptions& options) {
  if (config.architecture == "llama") return make_llama(config, checkpoint, plan, options);
  return error(Code::kUnimplemented, "architecture '{}' is not supported (supported: llama)", config.architecture);
}

}  // namespace weft
