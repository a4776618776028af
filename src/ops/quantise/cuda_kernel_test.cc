// The kernel of cuda_quantise_fp8() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/quantise/cases.h"
#include "ops/quantise/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaQuantiseEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const CudaQuantiseArgs&)> quantise = [&](const auto& args) {
    return on.run(quantise_launch(args));
  };
};

TEST_F(CudaQuantiseEmulated, HasTheBitsOfTheReference) {
  WEFT_NEED_EMULATOR();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const Place& place : kPlaces)
      for (const auto& [rows, k] : {std::pair<i64, i64>{0, 128}, {1, 1}, {3, 127}, {3, 128}, {5, 1000}, {20, 640}})
        WEFT_ASSERT_OK(check_quantise(on, quantise, dtype, place, rows, k)
                           .with_context(fmt::format("{} {} x {}, pad {} shift {}", dtype_name(dtype), rows, k,
                                                     place.pad, place.shift)));
}

}  // namespace
}  // namespace weft
