#include "ops/gemm/cublas.cuh"

#include <dlfcn.h>

#include <cmath>
#include <cstdlib>

#include "base/dtype.h"

namespace weft {
namespace {

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

}  // namespace

Result<std::unique_ptr<Cublas>> Cublas::open(cudaStream_t stream) {
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

Cublas::~Cublas() {
  if (handle_) (void)destroy_(handle_);
}

std::string Cublas::version() const {
  int v = 0;
  (void)get_version_(handle_, &v);
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

// cuBLAS is column-major: it sees the transposes.
Status Cublas::gemm(const void* x, const void* w, void* y, int m, int n, int k) {
  const float one = 1, zero = 0;
  constexpr int kTranspose = 1, kPlain = 0, kCompute32F = 68, kDefault = -1;
  const int failed = gemm_ex_(handle_, kTranspose, kPlain, n, m, k, &one, w, CUDA_R_16BF, k, x, CUDA_R_16BF, k, &zero,
                              y, CUDA_R_16BF, n, kCompute32F, kDefault);
  return failed ? error(Code::kIo, "cublasGemmEx: status {}", failed) : Status();
}

Status fill_random_bf16(cudaStream_t stream, void* out, i64 elements, u32 seed) {
  return launch("random", random_kernel, {.grid = 1024, .block = 256}, stream, static_cast<bf16*>(out), elements, seed);
}

Result<double> relative_distance_bf16(cudaStream_t stream, const void* a, const void* b, i64 elements) {
  WEFT_ASSIGN(const auto sums, DeviceBuffer::create(2 * sizeof(double)));
  WEFT_CUDA_TRY(cudaMemsetAsync(sums.data(), 0, sums.bytes(), stream));
  WEFT_TRY(launch("distance", distance_kernel, {.grid = 256, .block = 256}, stream, static_cast<const bf16*>(a),
                  static_cast<const bf16*>(b), elements, sums.as<double>()));
  WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
  double seen[2];
  WEFT_CUDA_TRY(cudaMemcpy(seen, sums.data(), sizeof(seen), cudaMemcpyDefault));
  return std::sqrt(seen[0] / seen[1]);
}

}  // namespace weft
