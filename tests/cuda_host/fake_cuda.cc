#include "fake_cuda.h"

#include <cuda.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string_view>

namespace weft::fake_cuda {
namespace {

// Device memory that can be opened by others: its file, and where it is mapped.
struct Block {
  int fd;
  size_t bytes;
};
std::mutex g_mutex;
std::map<void*, Block> g_blocks;  // by address; under g_mutex
std::atomic<void*> g_pinned{nullptr};
thread_local int t_device = 0;

int new_file(size_t bytes) {
  const int fd = ::memfd_create("fake-gpu", MFD_CLOEXEC);
  return ::ftruncate(fd, off_t(bytes)) == 0 ? fd : -1;
}
void* map_file(int fd, size_t bytes, void* at = nullptr) {
  return ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
}

// ---- the driver ----

struct Allocation {
  int fd;
};
Allocation* allocation(CUmemGenericAllocationHandle handle) {
  return reinterpret_cast<Allocation*>(handle);
}

CUresult CUDAAPI get_error_string(CUresult, const char** text) {
  *text = "operation not supported";
  return CUDA_SUCCESS;
}
CUresult CUDAAPI granularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *bytes = 64 << 10;
  return CUDA_SUCCESS;
}
CUresult CUDAAPI create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                        unsigned long long) {
  *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new Allocation{new_file(bytes)});
  return CUDA_SUCCESS;
}
CUresult CUDAAPI release(CUmemGenericAllocationHandle handle) {
  ::close(allocation(handle)->fd);
  delete allocation(handle);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI export_handle(void* out, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType,
                               unsigned long long) {
  if (!behaviour().exports) return CUDA_ERROR_NOT_SUPPORTED;
  *static_cast<int*>(out) = ::fcntl(allocation(handle)->fd, F_DUPFD_CLOEXEC, 0);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI import_handle(CUmemGenericAllocationHandle* handle, void* fd, CUmemAllocationHandleType) {
  const int own = ::fcntl(int(reinterpret_cast<intptr_t>(fd)), F_DUPFD_CLOEXEC, 0);
  if (own < 0) return CUDA_ERROR_INVALID_VALUE;
  *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new Allocation{own});
  return CUDA_SUCCESS;
}
CUresult CUDAAPI reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* base = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = reinterpret_cast<CUdeviceptr>(base);
  return base == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult CUDAAPI free_address(CUdeviceptr address, size_t bytes) {
  return ::munmap(reinterpret_cast<void*>(address), bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult CUDAAPI map(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle,
                     unsigned long long) {
  struct stat file{};
  if (::fstat(allocation(handle)->fd, &file) != 0 || size_t(file.st_size) != bytes) return CUDA_ERROR_INVALID_VALUE;
  void* at = map_file(allocation(handle)->fd, bytes, reinterpret_cast<void*>(address));
  return at == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult CUDAAPI unmap(CUdeviceptr address, size_t bytes) {
  ::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI set_access(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) {
  return CUDA_SUCCESS;
}
CUresult CUDAAPI encode_tiled() {
  return CUDA_SUCCESS;
}

const std::map<std::string_view, void*>& entry_points() {
  static const std::map<std::string_view, void*> all = {
      {"cuGetErrorString", reinterpret_cast<void*>(get_error_string)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(granularity)},
      {"cuMemCreate", reinterpret_cast<void*>(create)},
      {"cuMemRelease", reinterpret_cast<void*>(release)},
      {"cuMemExportToShareableHandle", reinterpret_cast<void*>(export_handle)},
      {"cuMemImportFromShareableHandle", reinterpret_cast<void*>(import_handle)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(reserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(free_address)},
      {"cuMemMap", reinterpret_cast<void*>(map)},
      {"cuMemUnmap", reinterpret_cast<void*>(unmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(set_access)},
      {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(encode_tiled)},
  };
  return all;
}

// What names memory of another process: /proc/<pid>/fd/<fd>.
struct IpcName {
  int pid, fd;
  size_t bytes;
};

}  // namespace

Behaviour& behaviour() {
  static Behaviour all;
  return all;
}
void* last_pinned() {
  return g_pinned;
}

}  // namespace weft::fake_cuda

using namespace weft::fake_cuda;

// ---- the runtime ----

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const auto entry = entry_points().find(name);
  const bool known = entry != entry_points().end();
  *function = known ? entry->second : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return "fault of the fake runtime";
}
const char* cudaGetErrorName(cudaError_t) {
  return "cudaErrorFake";
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = behaviour().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  t_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = t_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof(*properties));
  std::snprintf(properties->name, sizeof(properties->name), "Fake GPU");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 132
           : attribute == cudaDevAttrComputeCapabilityMajor ? behaviour().capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? behaviour().capability % 10
                                                            : 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  std::snprintf(text, size_t(bytes), "0000:%02X:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) {
  return std::sscanf(text, "0000:%x:", reinterpret_cast<unsigned*>(device)) == 1 && *device < behaviour().devices
             ? cudaSuccess
             : cudaErrorInvalidValue;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = behaviour().peers;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t bytes) {
  const int fd = new_file(bytes);
  *address = map_file(fd, bytes);
  if (*address == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::lock_guard lock(g_mutex);
  g_blocks[*address] = {fd, bytes};
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  std::lock_guard lock(g_mutex);
  const auto block = g_blocks.find(address);
  if (block == g_blocks.end()) return cudaErrorInvalidValue;
  ::munmap(address, block->second.bytes);
  ::close(block->second.fd);
  g_blocks.erase(block);
  return cudaSuccess;
}
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* address) {
  std::lock_guard lock(g_mutex);
  const Block& block = g_blocks.at(address);
  const IpcName name{::getpid(), block.fd, block.bytes};
  std::memcpy(handle, &name, sizeof(name));
  return cudaSuccess;
}
cudaError_t cudaIpcOpenMemHandle(void** address, cudaIpcMemHandle_t handle, unsigned) {
  IpcName name;
  std::memcpy(&name, &handle, sizeof(name));
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", name.pid, name.fd);
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return cudaErrorInvalidValue;
  *address = map_file(fd, name.bytes);
  std::lock_guard lock(g_mutex);
  g_blocks[*address] = {fd, name.bytes};
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void* address) {
  return cudaFree(address);
}
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  *address = ::operator new(bytes, std::align_val_t(64));
  g_pinned = *address;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  ::operator delete(address, std::align_val_t(64));
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes,
                              size_t rows, cudaMemcpyKind, cudaStream_t) {
  for (size_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * to_stride, static_cast<const char*>(from) + r * from_stride, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  if (bytes > 0) std::memset(address, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(address, value, bytes);
}
cudaError_t cudaMemset2DAsync(void* address, size_t stride, int value, size_t bytes, size_t rows, cudaStream_t) {
  for (size_t r = 0; r < rows; ++r) std::memset(static_cast<char*>(address) + r * stride, value, bytes);
  return cudaSuccess;
}

// Streams, events and graphs are things that are made and ended once, which sanitizers check.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = reinterpret_cast<cudaStream_t>(new int(0));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<int*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return behaviour().stream_query ? behaviour().stream_query() : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(new int(0));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new int(0));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<int*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<int*>(graph);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new int(0));
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<int*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof(*attributes));
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  if (behaviour().shared_allowed) behaviour().shared_allowed(bytes);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  if (behaviour().launched) behaviour().launched(*config);
  return cudaSuccess;
}

// What nvcc's host code calls by itself.
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*, void*, void*, int*) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) {
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
  return cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, cudaStream_t) {
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) {
  return cudaSuccess;
}
}
