// What the GPU tests of operators share: matrices in device memory, and repeated runs.
#pragma once
#include "device/cuda/testing.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

// On the current device.
class CudaMemory {
 public:
  static Result<CudaMemory> create(size_t bytes) {
    CudaMemory memory;
    WEFT_ASSIGN(memory.buffer_, DeviceBuffer::create(bytes));
    return Result(std::move(memory));
  }
  std::byte* data() const { return buffer_.as<std::byte>(); }
  Status write(const std::vector<std::byte>& bytes) const {
    WEFT_CUDA_TRY(cudaMemcpy(data(), bytes.data(), bytes.size(), cudaMemcpyDefault));
    // The default stream's copies may still be under way; the tests' streams do not wait for it.
    return cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  Status read(std::vector<std::byte>& bytes) const {
    return cuda_status(cudaMemcpy(bytes.data(), data(), bytes.size(), cudaMemcpyDefault), "cudaMemcpy");
  }

 private:
  DeviceBuffer buffer_;
};
using CudaMatrix = TestMatrix<CudaMemory>;

// Sets up and calls twice, the second time out of a captured graph: the outputs must have the same bits.
inline Status run_and_repeat(cudaStream_t stream, const std::function<Status()>& set_up,
                             const std::function<Status()>& call, const std::vector<const CudaMatrix*>& outputs) {
  return call_twice<CudaMatrix>(
      set_up,
      [&](int run) -> Status {
        if (run == 0) {
          WEFT_TRY(call());
          return cuda_status(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        }
        WEFT_ASSIGN(const CudaGraph graph, capture_graph(stream, call));
        WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
        return cuda_status(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      },
      outputs);
}

// Where the checks that the emulator shares (cases.h) run.
class OnGpu {
 public:
  using Matrix = CudaMatrix;
  OnGpu() = default;
  explicit OnGpu(CudaStream stream) : stream_(std::move(stream)) {}
  cudaStream_t stream() const { return stream_.get(); }
  Status repeat(const std::function<Status()>& set_up, const std::function<Status()>& call,
                const std::vector<const Matrix*>& outputs) const {
    return run_and_repeat(stream(), set_up, call, outputs);
  }

 private:
  CudaStream stream_;
};
class OnGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WEFT_NEED_GPUS(1);
    auto stream = make_stream();
    WEFT_ASSERT_OK(stream.status());
    on = OnGpu(*std::move(stream));
  }
  OnGpu on;
};

}  // namespace weft::testing
