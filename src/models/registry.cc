#include "models/architecture.h"
#include "models/decoder.h"

namespace weft {

Result<std::unique_ptr<Model>> make_model(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                          const ModelOptions& options) {
  if (find_model_type(config.architecture)) return make_decoder(config, checkpoint, plan, options);
  return error(Code::kUnimplemented, "architecture '{}' is not supported (supported: {})", config.architecture,
               supported_model_types());
}

}  // namespace weft
