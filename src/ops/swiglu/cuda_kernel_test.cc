// The kernel of cuda_swiglu() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/swiglu/cases.h"
#include "ops/swiglu/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaSwigluEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const CudaSwigluArgs&)> swiglu = [&](const auto& args) {
    return on.run(swiglu_launch(args));
  };
};

TEST_F(CudaSwigluEmulated, AgreesWithTheReference) {
  WEFT_NEED_EMULATOR();
  for (const FloatTypes& types : kFloatTypes)
    for (const Place& place : kPlaces)
      for (const auto& [rows, width] : {std::pair<i64, i64>{0, 8}, {1, 1}, {3, 31}, {5, 544}})
        WEFT_ASSERT_OK(check_swiglu(on, swiglu, types, place, rows, width)
                           .with_context(fmt::format("{}, {} x {}", describe(types, place), rows, width)));
}

TEST_F(CudaSwigluEmulated, RowsBehindANumberInDeviceMemoryStay) {
  WEFT_NEED_EMULATOR();
  for (const i64 width : {7, 64}) WEFT_ASSERT_OK(check_some_rows_of_swiglu(on, swiglu, width));
}

TEST_F(CudaSwigluEmulated, ExtremeGatesAndNan) {
  WEFT_NEED_EMULATOR();
  WEFT_ASSERT_OK(check_extremes_of_swiglu(on, swiglu));
}

}  // namespace
}  // namespace weft
