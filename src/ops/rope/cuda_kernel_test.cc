// The kernels of cuda_rope_angles() and cuda_rope_kv_write() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/rope/cases.h"
#include "ops/rope/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaRopeEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const TensorView&, const TensorView&, const TensorView&)> turn = [&](const auto&... args) {
    return on.run(rope_angles_launch(args...));
  };
  const std::function<Status(const RopeKvWriteArgs&)> write = [&](const auto& args) {
    return on.run(rope_kv_write_launch(args));
  };
};

TEST_F(CudaRopeEmulated, HasTheBitsOfTheCpu) {
  WEFT_NEED_EMULATOR();
  for (const FloatTypes& types : kFloatTypes)
    for (const Place& place : kPlaces)
      for (const i64 tokens : {0, 1, 5}) {
        const auto check = [&](const RopeCase& c) {
          return check_rope(on, turn, write, c, types, place)
              .with_context(fmt::format("{}, {} tokens, {} + {} heads of {}", describe(types, place), c.tokens,
                                        c.q_heads, c.kv_heads, c.head_dim));
        };
        WEFT_ASSERT_OK(check({tokens, 3, 1, 128, 16}));
        WEFT_ASSERT_OK(check({tokens, 5, 2, 6, 3}));
        WEFT_ASSERT_OK(check({tokens, 1, 1, 80, 1}));
        if (types.from == types.to) WEFT_ASSERT_OK(check({tokens, 2, 0, 8, 4}));
      }
}

}  // namespace
}  // namespace weft
