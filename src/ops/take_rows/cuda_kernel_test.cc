// The kernel of cuda_take_rows() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/take_rows/cases.h"
#include "ops/take_rows/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaTakeRowsEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const TensorView&, i64, const TensorView&, const TensorView&)> take =
      [&](const auto&... args) { return on.run(take_rows_launch(args...)); };
};

TEST_F(CudaTakeRowsEmulated, CopiesTheNamedRowsOfAnyPlainType) {
  WEFT_NEED_EMULATOR();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kU8, DType::kI32})
    for (const Place& place : kPlaces)
      for (const i64 width : {1, 5, 16, 264})
        WEFT_ASSERT_OK(
            check_take_rows(on, take, dtype, place, width)
                .with_context(fmt::format("{} {}, pad {} shift {}", dtype_name(dtype), width, place.pad, place.shift)));
}

}  // namespace
}  // namespace weft
