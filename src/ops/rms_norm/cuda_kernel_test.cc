// The kernels of cuda_rms_norm() and cuda_head_rms_norm() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/rms_norm/cases.h"
#include "ops/rms_norm/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaRmsNormEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const CudaRmsNormArgs&)> rms_norm = [&](const auto& args) {
    return on.run(rms_norm_launch(args));
  };
  const std::function<Status(const HeadRmsNormArgs&)> head_rms_norm = [&](const auto& args) {
    return on.run(head_rms_norm_launch(args));
  };
};

TEST_F(CudaRmsNormEmulated, AgreesWithTheReference) {
  WEFT_NEED_EMULATOR();
  for (const FloatTypes& types : kFloatTypes)
    for (const bool adds : {false, true}) {
      const auto check = [&](i64 rows, i64 hidden, Place place) {
        return check_rms_norm(on, rms_norm, types, adds, rows, hidden, place)
            .with_context(fmt::format("{}, residual {}, {} x {}", describe(types, place), adds, rows, hidden));
      };
      for (const i64 hidden : {1, 7, 96, 200})
        for (const Place& place : kPlaces) WEFT_ASSERT_OK(check(2, hidden, place));
      WEFT_ASSERT_OK(check(1, adds ? 2053 : 16400, {0, 0}));  // more than registers keep
      WEFT_ASSERT_OK(check(0, 64, {0, 0}));
    }
}

TEST_F(CudaRmsNormEmulated, HeadsAreNormalisedInPlaceAndNothingElseChanges) {
  WEFT_NEED_EMULATOR();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const i64 head_dim : {3, 24, 128, 256, 320})
      for (const i64 offset : {0, 8, 5})
        WEFT_ASSERT_OK(check_head_rms_norm(on, head_rms_norm, dtype, head_dim, offset)
                           .with_context(fmt::format("{}, {} from {}", dtype_name(dtype), head_dim, offset)));
}

}  // namespace
}  // namespace weft
