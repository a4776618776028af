#include "ops/gpu.h"

#include "device/allocate.h"
#include "ops/attention/attention.h"
#include "ops/gemm/gemm.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/swiglu/swiglu.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

TEST(GpuForms, AreNamedWhereTheyAreMissing) {
  Exec exec = Exec::cuda(nullptr);
  const HeadMap heads;
  const StepBatch batch;
  const Status attended =
      attention(exec, {.q = {}, .head_dim = 8, .heads = heads, .batch = batch, .cache = {}, .scale = 1, .y = {}});
  EXPECT_EQ(attended.code(), Code::kUnimplemented);
  EXPECT_EQ(attended.message(), "attention: no form for GPUs");
  if (built_with_cuda()) GTEST_SKIP() << "this build has the others";
  EXPECT_EQ(swiglu(exec, {}).message(), "swiglu: this build has no CUDA");
  EXPECT_EQ(rms_norm(exec, {}).message(), "rms_norm: this build has no CUDA");
  const Weight none;
  EXPECT_EQ(gemm(exec, {.x = {}, .w = none, .y = {}}).message(), "gemm: this build has no CUDA");
  EXPECT_EQ(allocate(DeviceKind::kCuda, 1).status().code(), Code::kUnimplemented);
}

TEST(GpuForms, WeightsOfAGpuAreRefusedByACpu) {
  bf16 values[64] = {};
  Tensor matrix;  // its operators look at where it is said to be
  matrix.view = TensorView::dense(values, DType::kBF16, {8, 8}, DeviceKind::kCuda);
  const auto w = Weight::on_gpu("w", std::move(matrix));
  ASSERT_TRUE(w.ok()) << w.status().message();
  EXPECT_EQ(w->n(), 8);
  const auto x = ActivationBuffer::create(ActivationFormat::kBF16, 1, 8);
  float y[8];
  const Status status = run_team(1, [&](Exec& exec) {
    return gemm(exec, {.x = x.view(1), .w = *w, .y = TensorView::dense(y, DType::kF32, {1, 8})});
  });
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("the weight on a GPU"), std::string::npos) << status.message();
  EXPECT_EQ(Weight::on_gpu("w", Tensor::zeros(DType::kBF16, {8, 8})).status().message(),
            "w: expected a bf16 or f16 matrix in CUDA memory, found bf16 [8, 8]");
}

TEST(GpuForms, ActivationsAreMatricesButForBlocks) {
  const auto buffer = ActivationBuffer::create(ActivationFormat::kBF16, 3, 40);
  const auto matrix = activation_matrix("x", buffer.view(3));
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(matrix->describe(), "bf16 [3, 40]");
  EXPECT_EQ(matrix->byte_strides[0], 128);
  const auto blocks = ActivationBuffer::create(ActivationFormat::kQ16, 1, 32);
  EXPECT_EQ(activation_matrix("x", blocks.view(1)).status().message(), "x: q16 rows are no matrix");
}

}  // namespace
}  // namespace weft
