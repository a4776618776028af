#include "ops/gemm/cublas.cuh"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace weft {
namespace {

template <class T>
__global__ void random_kernel(T* out, i64 n, u32 seed) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    u32 h = u32(i) * 2654435761u + seed;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    out[i] = T(float((h ^ (h >> 16)) & 0xffff) / 32768.0f - 1.0f);
  }
}
// sums[0] += (a - b)^2, sums[1] += b^2
template <class T>
__global__ void distance_kernel(const T* a, const T* b, i64 n, double* sums) {
  double difference = 0, magnitude = 0;
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    const double p = float(a[i]), q = float(b[i]);
    difference += (p - q) * (p - q);
    magnitude += q * q;
  }
  atomicAdd(sums, difference);
  atomicAdd(sums + 1, magnitude);
}

constexpr size_t kWorkspaceBytes = 64 << 20;
constexpr int kPlain = 0, kTranspose = 1, kCompute32F = 68;

// A library that stays open.
class Library {
 public:
  static Result<Library> open(const char* what, const char* variable, std::initializer_list<const char*> names) {
    Library library;
    const char* set = std::getenv(variable);
    if (set) library.handle_ = ::dlopen(set, RTLD_NOW | RTLD_LOCAL);
    for (const char* name : names)
      if (!set && !library.handle_) library.handle_ = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library.handle_)
      return error(Code::kUnavailable, "{}: {} ({} names the library)", what, ::dlerror(), variable);
    return library;
  }
  template <class F>
  bool find(const char* name, F& function) const {
    function = reinterpret_cast<F>(::dlsym(handle_, name));
    return function != nullptr;
  }

 private:
  void* handle_ = nullptr;
};

cudaDataType_t cublas_type(DType dtype) {
  return dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

}  // namespace

Result<std::unique_ptr<Cublas>> Cublas::open(cudaStream_t stream) {
  WEFT_ASSIGN(const Library library, Library::open("cuBLAS", "WEFT_CUBLAS", {"libcublas.so.13", "libcublas.so.12"}));
  auto cublas = std::unique_ptr<Cublas>(new Cublas);
  const auto find = [&](const char* name, auto& function) { return library.find(name, function); };
  if (!find("cublasCreate_v2", cublas->create_) || !find("cublasDestroy_v2", cublas->destroy_) ||
      !find("cublasSetStream_v2", cublas->set_stream_) || !find("cublasSetWorkspace_v2", cublas->set_workspace_) ||
      !find("cublasGetVersion_v2", cublas->get_version_) || !find("cublasGemmEx", cublas->gemm_ex_))
    return error(Code::kUnavailable, "cuBLAS: a symbol is missing: {}", ::dlerror());
  WEFT_ASSIGN(cublas->workspace_, DeviceBuffer::create(kWorkspaceBytes));
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
Status Cublas::gemm(const void* x, const void* w, void* y, int m, int n, int k, DType dtype) {
  const float one = 1, zero = 0;
  const cudaDataType_t type = cublas_type(dtype);
  constexpr int kDefault = -1;
  const int failed = gemm_ex_(handle_, kTranspose, kPlain, n, m, k, &one, w, type, k, x, type, k, &zero, y, type, n,
                              kCompute32F, kDefault);
  return failed ? error(Code::kIo, "cublasGemmEx: status {}", failed) : Status();
}

Result<std::unique_ptr<CublasLt>> CublasLt::open(cudaStream_t stream) {
  WEFT_ASSIGN(const Library library,
              Library::open("cuBLASLt", "WEFT_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"}));
  auto lt = std::unique_ptr<CublasLt>(new CublasLt);
  const auto find = [&](const char* name, auto& function) { return library.find(name, function); };
  if (!find("cublasLtCreate", lt->create_) || !find("cublasLtDestroy", lt->destroy_) ||
      !find("cublasLtMatmulDescCreate", lt->operation_create_) ||
      !find("cublasLtMatmulDescDestroy", lt->operation_destroy_) ||
      !find("cublasLtMatmulDescSetAttribute", lt->operation_set_) ||
      !find("cublasLtMatrixLayoutCreate", lt->layout_create_) ||
      !find("cublasLtMatrixLayoutDestroy", lt->layout_destroy_) ||
      !find("cublasLtMatmulPreferenceCreate", lt->preference_create_) ||
      !find("cublasLtMatmulPreferenceDestroy", lt->preference_destroy_) ||
      !find("cublasLtMatmulPreferenceSetAttribute", lt->preference_set_) ||
      !find("cublasLtMatmulAlgoGetHeuristic", lt->heuristic_) || !find("cublasLtMatmul", lt->matmul_))
    return error(Code::kUnavailable, "cuBLASLt: a symbol is missing: {}", ::dlerror());
  lt->stream_ = stream;
  WEFT_ASSIGN(lt->workspace_, DeviceBuffer::create(kWorkspaceBytes));
  if (lt->create_(&lt->handle_) != 0) return error(Code::kIo, "cuBLASLt: cannot start");
  return std::move(lt);
}

CublasLt::~CublasLt() {
  if (handle_) (void)destroy_(handle_);
}

CublasLt::Gemm::~Gemm() {
  if (operation_) (void)lt_->operation_destroy_(operation_);
  for (void* layout : {w_, x_, y_})
    if (layout) (void)lt_->layout_destroy_(layout);
}

Status CublasLt::Gemm::run(const void* x, const void* w, void* y) const {
  const float one = 1, zero = 0;
  const int failed = lt_->matmul_(lt_->handle_, operation_, &one, w, w_, x, x_, &zero, y, y_, y, y_, algorithm_,
                                  lt_->workspace_.data(), lt_->workspace_.bytes(), lt_->stream_);
  return failed ? error(Code::kIo, "cublasLtMatmul: status {}", failed) : Status();
}

Result<std::unique_ptr<CublasLt::Gemm>> CublasLt::fastest(DType dtype, const void* x,
                                                          std::span<const void* const> weights, void* y, int m, int n,
                                                          int k) const {
  constexpr int kTransposeA = 3, kWorkspaceLimit = 1;  // attributes of an operation, of a preference
  constexpr int kMost = 32, kCalls = 12;
  const cudaDataType_t type = cublas_type(dtype);
  auto gemm = std::unique_ptr<Gemm>(new Gemm);
  gemm->lt_ = this;
  void* preference = nullptr;
  std::array<Candidate, kMost> candidates{};
  int found = 0;
  const bool asked = operation_create_(&gemm->operation_, kCompute32F, CUDA_R_32F) == 0 &&
                     operation_set_(gemm->operation_, kTransposeA, &kTranspose, sizeof(kTranspose)) == 0 &&
                     layout_create_(&gemm->w_, type, u64(k), u64(n), k) == 0 &&
                     layout_create_(&gemm->x_, type, u64(k), u64(m), k) == 0 &&
                     layout_create_(&gemm->y_, type, u64(n), u64(m), n) == 0 && preference_create_(&preference) == 0 &&
                     preference_set_(preference, kWorkspaceLimit, &kWorkspaceBytes, sizeof(kWorkspaceBytes)) == 0 &&
                     heuristic_(handle_, gemm->operation_, gemm->w_, gemm->x_, gemm->y_, gemm->y_, preference, kMost,
                                candidates.data(), &found) == 0;
  if (preference) (void)preference_destroy_(preference);
  if (!asked) return error(Code::kIo, "cuBLASLt: no algorithm for [{}, {}, {}]", m, n, k);
  WEFT_ASSIGN(const auto begin, make_event());
  WEFT_ASSIGN(const auto end, make_event());
  float best = std::numeric_limits<float>::infinity();
  u64 kept[8];
  for (const Candidate& candidate : std::span(candidates).first(size_t(found))) {
    std::copy(std::begin(candidate.algorithm), std::end(candidate.algorithm), gemm->algorithm_);
    if (candidate.state != 0 || !gemm->run(x, weights[0], y).ok()) continue;
    WEFT_CUDA_TRY(cudaEventRecord(begin.get(), stream_));
    for (int i = 0; i < kCalls; ++i) WEFT_TRY(gemm->run(x, weights[size_t(i) % weights.size()], y));
    WEFT_CUDA_TRY(cudaEventRecord(end.get(), stream_));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    float ms = 0;
    WEFT_CUDA_TRY(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (ms < best) best = ms, std::copy(std::begin(candidate.algorithm), std::end(candidate.algorithm), kept);
  }
  if (!(best < std::numeric_limits<float>::infinity()))
    return error(Code::kIo, "cuBLASLt: none of {} algorithms runs [{}, {}, {}]", found, m, n, k);
  std::copy(std::begin(kept), std::end(kept), gemm->algorithm_);
  return std::move(gemm);
}

Status fill_random(cudaStream_t stream, DType dtype, void* out, i64 elements, u32 seed) {
  const auto fill = [&](auto* to) {
    return launch("random", random_kernel<std::remove_pointer_t<decltype(to)>>, {.grid = 1024, .block = 256}, stream,
                  to, elements, seed);
  };
  return dtype == DType::kF16 ? fill(static_cast<f16*>(out)) : fill(static_cast<bf16*>(out));
}

Result<double> relative_distance(cudaStream_t stream, DType dtype, const void* a, const void* b, i64 elements) {
  WEFT_ASSIGN(const auto sums, DeviceBuffer::create(2 * sizeof(double)));
  WEFT_CUDA_TRY(cudaMemsetAsync(sums.data(), 0, sums.bytes(), stream));
  const auto add = [&](auto zero) {
    using T = decltype(zero);
    return launch("distance", distance_kernel<T>, {.grid = 256, .block = 256}, stream, static_cast<const T*>(a),
                  static_cast<const T*>(b), elements, sums.as<double>());
  };
  WEFT_TRY(dtype == DType::kF16 ? add(f16{}) : add(bf16{}));
  WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
  double seen[2];
  WEFT_CUDA_TRY(cudaMemcpy(seen, sums.data(), sizeof(seen), cudaMemcpyDefault));
  return std::sqrt(seen[0] / seen[1]);
}

}  // namespace weft
