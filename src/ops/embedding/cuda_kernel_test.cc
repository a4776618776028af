// The kernel of cuda_embedding() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/embedding/cases.h"
#include "ops/embedding/cuda_kernel.cuh"
#include "ops/emulated_testing.h"

namespace weft {
namespace {

using namespace testing;

class CudaEmbeddingEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const CudaEmbeddingArgs&)> embed = [&](const auto& args) {
    return on.run(embedding_launch(args));
  };
};

TEST_F(CudaEmbeddingEmulated, CopiesTheRowsOfItsShardAndZerosForOthers) {
  WEFT_NEED_EMULATOR();
  for (const FloatTypes& types : kFloatTypes) {
    if (types.from == types.to) continue;  // take_rows' kernel
    for (const Place& place : kPlaces)
      for (const auto& [tokens, hidden] : {std::pair<i64, i64>{0, 8}, {1, 1}, {7, 33}, {100, 96}})
        WEFT_ASSERT_OK(check_embedding(on, embed, types, place, tokens, hidden)
                           .with_context(fmt::format("{}, {} x {}", describe(types, place), tokens, hidden)));
  }
}

}  // namespace
}  // namespace weft
