#include "ops/gemm/cuda_bench.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "device/cuda/driver.cuh"
#include "device/cuda/runtime.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

// The few declarations needed of cublas_v2.h.
class Cublas {
 public:
  static Result<std::unique_ptr<Cublas>> open(cudaStream_t stream) {
    void* library = nullptr;
    const char* set = std::getenv("WEFT_CUBLAS");
    for (const char* name : {set ? set : "libcublas.so.13", "libcublas.so.12"})
      if (!library) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return error(Code::kUnavailable, "cuBLAS: {} (WEFT_CUBLAS names the library)", ::dlerror());
    auto cublas = std::unique_ptr<Cublas>(new Cublas);
    const auto find = [&](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    if (!find("cublasCreate_v2", cublas->create_) || !find("cublasDestroy_v2", cublas->destroy_) ||
        !find("cublasSetStream_v2", cublas->set_stream_) || !find("cublasSetWorkspace_v2", cublas->set_workspace_) ||
        !find("cublasGetVersion_v2", cublas->get_version_) || !find("cublasGemmEx", cublas->gemm_ex_))
      return error(Code::kUnavailable, "cuBLAS: a symbol is missing: {}", ::dlerror());
    WEFT_ASSIGN(cublas->workspace_, DeviceBuffer::create(64 << 20));
    if (cublas->create_(&cublas->handle_) != 0 || cublas->set_stream_(cublas->handle_, stream) != 0 ||
        cublas->set_workspace_(cublas->handle_, cublas->workspace_.data(), cublas->workspace_.bytes()) != 0)
      return error(Code::kIo, "cuBLAS: cannot start");
    return std::move(cublas);
  }
  ~Cublas() {
    if (handle_) (void)destroy_(handle_);
  }
  std::string version() const {
    int v = 0;
    (void)get_version_(handle_, &v);
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }
  // y [m, n] = x [m, k] w [n, k]^T, row-major: cuBLAS sees the transposes.
  Status gemm(const void* x, const void* w, void* y, int m, int n, int k) {
    const float one = 1, zero = 0;
    constexpr int kTranspose = 1, kPlain = 0, kCompute32F = 68, kDefault = -1;
    const int failed = gemm_ex_(handle_, kTranspose, kPlain, n, m, k, &one, w, CUDA_R_16BF, k, x, CUDA_R_16BF, k, &zero,
                                y, CUDA_R_16BF, n, kCompute32F, kDefault);
    return failed ? error(Code::kIo, "cublasGemmEx: status {}", failed) : Status();
  }

 private:
  Cublas() = default;
  using Handle = void*;
  int (*create_)(Handle*);
  int (*destroy_)(Handle);
  int (*set_stream_)(Handle, cudaStream_t);
  int (*set_workspace_)(Handle, void*, size_t);
  int (*get_version_)(Handle, int*);
  int (*gemm_ex_)(Handle, int, int, int, int, int, const void*, const void*, cudaDataType_t, int, const void*,
                  cudaDataType_t, int, const void*, void*, cudaDataType_t, int, int, int);
  Handle handle_ = nullptr;
  DeviceBuffer workspace_;
};

__global__ void random_kernel(bf16* out, i64 n, u32 seed) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    u32 h = u32(i) * 2654435761u + seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    out[i] = bf16(float((h ^ (h >> 16)) & 0xffff) / 32768.0f - 1.0f);
  }
}
// sums[0] += (a - b)^2, sums[1] += b^2
__global__ void distance_kernel(const bf16* a, const bf16* b, i64 n, double* sums) {
  double difference = 0, magnitude = 0;
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    const double p = float(a[i]), q = float(b[i]);
    difference += (p - q) * (p - q);
    magnitude += q * q;
  }
  atomicAdd(sums, difference);
  atomicAdd(sums + 1, magnitude);
}

class GemmBench {
 public:
  GemmBench(cudaStream_t stream, Cublas& cublas, int sms) : stream_(stream), cublas_(cublas), sms_(sms) {}

  Result<CudaGemmBenchRow> run(i64 m, i64 n, i64 k, int repeats) {
    constexpr int kWeights = 3;  // together larger than L2
    WEFT_ASSIGN(const auto x, random(m * k, 1));
    std::array<DeviceBuffer, kWeights> weights;
    for (int i = 0; i < kWeights; ++i) {
      WEFT_ASSIGN(weights[size_t(i)], random(n * k, u32(i) + 2));
    }
    WEFT_ASSIGN(const auto y, DeviceBuffer::create(size_t(m * n) * 2));
    WEFT_ASSIGN(const auto expected, DeviceBuffer::create(size_t(m * n) * 2));
    const auto view = [](const DeviceBuffer& b, i64 rows, i64 cols) {
      return TensorView::dense(b.data(), DType::kBF16, {rows, cols}, DeviceKind::kCuda);
    };
    const auto ours = [&](int i) {
      return cuda_gemm(stream_, {view(x, m, k), view(weights[size_t(i % kWeights)], n, k), view(y, m, n)});
    };
    const auto theirs = [&](int i) {
      return cublas_.gemm(x.data(), weights[size_t(i % kWeights)].data(), expected.data(), int(m), int(n), int(k));
    };
    WEFT_TRY(ours(0));
    WEFT_TRY(theirs(0));
    WEFT_TRY(compare(y, expected, m * n));
    const double flop = 2.0 * double(m) * double(n) * double(k);
    const int calls = std::clamp(int(2e12 / flop) / kWeights * kWeights, kWeights, 30);
    WEFT_ASSIGN(const auto our_graph, capture(ours, calls));
    WEFT_ASSIGN(const auto their_graph, capture(theirs, calls));
    std::vector<double> us, cublas_us, ratio;
    for (int i = -1; i < repeats; ++i) {
      WEFT_ASSIGN(const double a, time(our_graph, calls));
      WEFT_ASSIGN(const double b, time(their_graph, calls));
      if (i < 0) continue;  // warm-up
      us.push_back(a), cublas_us.push_back(b), ratio.push_back(a / b);
    }
    for (auto* samples : {&us, &cublas_us, &ratio}) std::sort(samples->begin(), samples->end());
    const size_t half = ratio.size() / 2, quarter = ratio.size() / 4, rest = ratio.size() * 3 / 4;
    const GemmPlan plan = plan_gemm_sm90(m, n, k, sms_);
    return CudaGemmBenchRow{m,           n,
                            k,           fmt::format("{}x{}", plan.tile.m, plan.tile.n),
                            us[half],    cublas_us[half],
                            ratio[half], ratio[quarter],
                            ratio[rest]};
  }

 private:
  Result<DeviceBuffer> random(i64 elements, u32 seed) {
    WEFT_ASSIGN(auto buffer, DeviceBuffer::create(size_t(elements) * 2));
    WEFT_TRY(launch("random", random_kernel, {.grid = 1024, .block = 256}, stream_, buffer.as<bf16>(), elements, seed));
    return std::move(buffer);
  }
  Status compare(const DeviceBuffer& y, const DeviceBuffer& expected, i64 elements) {
    WEFT_ASSIGN(const auto sums, DeviceBuffer::create(2 * sizeof(double)));
    WEFT_CUDA_TRY(cudaMemsetAsync(sums.data(), 0, sums.bytes(), stream_));
    WEFT_TRY(launch("distance", distance_kernel, {.grid = 256, .block = 256}, stream_, y.as<bf16>(),
                    expected.as<bf16>(), elements, sums.as<double>()));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    double seen[2];
    WEFT_CUDA_TRY(cudaMemcpy(seen, sums.data(), sizeof(seen), cudaMemcpyDefault));
    // Both round fp32 sums to bf16: at most an ulp apart, 2^-8 of a value.
    if (!(seen[0] <= seen[1] * 0x1p-16))
      return error(Code::kAborted, "gemm and cuBLAS differ: {} of {}", seen[0], seen[1]);
    return {};
  }
  template <class Call>
  Result<CudaGraph> capture(Call&& call, int calls) {
    return capture_graph(stream_, [&]() -> Status {
      for (int i = 0; i < calls; ++i) WEFT_TRY(call(i));
      return {};
    });
  }
  Result<double> time(const CudaGraph& graph, int calls) {
    WEFT_ASSIGN(const auto begin, make_event());
    WEFT_ASSIGN(const auto end, make_event());
    WEFT_CUDA_TRY(cudaEventRecord(begin.get(), stream_));
    WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream_));
    WEFT_CUDA_TRY(cudaEventRecord(end.get(), stream_));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    float ms = 0;
    WEFT_CUDA_TRY(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    return double(ms) * 1e3 / calls;
  }

  const cudaStream_t stream_;
  Cublas& cublas_;
  const int sms_;
};

}  // namespace

Result<CudaGemmBenchReport> bench_cuda_gemm(const CudaGemmBenchOptions& options) {
  CudaGemmBenchReport report;
  if (cuda_device_count() == 0) return error(Code::kUnavailable, "gemm: no GPU is visible");
  cudaDeviceProp properties;
  WEFT_CUDA_TRY(cudaSetDevice(0));
  WEFT_CUDA_TRY(cudaGetDeviceProperties(&properties, 0));
  report.device = properties.name;
  WEFT_ASSIGN(const auto stream, make_stream());
  WEFT_ASSIGN(const auto cublas, Cublas::open(stream.get()));
  report.cublas = cublas->version();
  GemmBench bench(stream.get(), *cublas, properties.multiProcessorCount);
  for (const auto& [n, k] : options.n_k)
    for (const i64 m : options.m) {
      WEFT_ASSIGN(auto row, bench.run(m, n, k, options.repeats));
      report.rows.push_back(std::move(row));
    }
  return report;
}

}  // namespace weft
