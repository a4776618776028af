#include "device/cuda/driver.cuh"

#include <cuda_runtime.h>

#include <cstdlib>

#include "device/cuda/one_thread.cuh"
#include "device/cuda/runtime.cuh"

namespace weft {
namespace {

// One hardware queue per stream, also where ranks share a GPU: a kernel that waits must not stand before what it waits
// for. The driver reads its environment at its first call, which any thread may make; nobody else runs before main.
[[maybe_unused]] const int kConnectionsSet = ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);

constexpr unsigned kOldestDriver = 12000;  // the ABI version whose entry points are asked for

template <class Function>
Status load(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  WEFT_TRY(
      cuda_status(cudaGetDriverEntryPointByVersion(name, &address, kOldestDriver, cudaEnableDefault, &found), name));
  if (found != cudaDriverEntryPointSuccess || address == nullptr)
    return error(Code::kUnimplemented, "the CUDA driver has no {}: it is older than CUDA 12", name);
  function = reinterpret_cast<Function>(address);
  return {};
}

Result<CudaDriver> load_all() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
    return error(Code::kUnavailable, "no NVIDIA driver (libcuda.so.1) on this machine");
  CudaDriver driver{};
  WEFT_TRY(load("cuGetErrorString", driver.get_error_string));
  WEFT_TRY(load("cuMemGetAllocationGranularity", driver.mem_get_allocation_granularity));
  WEFT_TRY(load("cuMemCreate", driver.mem_create));
  WEFT_TRY(load("cuMemRelease", driver.mem_release));
  WEFT_TRY(load("cuMemExportToShareableHandle", driver.mem_export));
  WEFT_TRY(load("cuMemImportFromShareableHandle", driver.mem_import));
  WEFT_TRY(load("cuMemAddressReserve", driver.mem_address_reserve));
  WEFT_TRY(load("cuMemAddressFree", driver.mem_address_free));
  WEFT_TRY(load("cuMemMap", driver.mem_map));
  WEFT_TRY(load("cuMemUnmap", driver.mem_unmap));
  WEFT_TRY(load("cuMemSetAccess", driver.mem_set_access));
  WEFT_TRY(load("cuTensorMapEncodeTiled", driver.tensor_map_encode_tiled));
  return driver;
}

}  // namespace

Result<const CudaDriver*> CudaDriver::get() {
  static const Result<CudaDriver> driver = load_all();
  if (!driver.ok()) return driver.status();
  return &driver.value();
}

Status driver_status(const CudaDriver& driver, CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return {};
  const char* text = nullptr;
  (void)driver.get_error_string(result, &text);
  return error(result == CUDA_ERROR_OUT_OF_MEMORY ? Code::kResourceExhausted : Code::kIo, "{}: {}", what,
               text ? text : "unknown fault of the CUDA driver");
}

std::mutex& one_driver_thread() {
  static std::mutex mutex;
  return mutex;
}

int cuda_device_count() {
  const std::lock_guard lock(one_driver_thread());
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Status use_device(int device) {
  const std::lock_guard lock(one_driver_thread());
  return cuda_status(cudaSetDevice(device), "cudaSetDevice");
}

Result<std::string> cuda_device_name() {
  if (cuda_device_count() == 0) return error(Code::kUnavailable, "no GPU is visible");
  cudaDeviceProp properties;
  WEFT_CUDA_TRY(cudaGetDeviceProperties(&properties, 0));
  return std::string(properties.name);
}

}  // namespace weft
