#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_state.h"

namespace weft::fake_cuda {
namespace {

Allocation* allocation(CUmemGenericAllocationHandle handle) {  // under the mutex
  Allocation* const known = reinterpret_cast<Allocation*>(handle);
  expect(state().allocations.contains(known), "no such memory handle");
  return known;
}
CUmemGenericAllocationHandle new_allocation(int fd) {  // under the mutex
  return reinterpret_cast<CUmemGenericAllocationHandle>(*state().allocations.insert(new Allocation{fd}).first);
}
Window& window_of(CUdeviceptr address) {  // under the mutex
  auto window = state().windows.upper_bound(address);
  expect(window != state().windows.begin(), "no window at this address");
  --window;
  expect(address < window->first + window->second.bytes, "no window at this address");
  return window->second;
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
  const Alone alone;
  std::lock_guard lock(state().mutex);
  *handle = new_allocation(new_file(bytes));
  return CUDA_SUCCESS;
}
CUresult CUDAAPI release(CUmemGenericAllocationHandle handle) {
  const Alone alone;
  std::lock_guard lock(state().mutex);
  Allocation* const ended = allocation(handle);
  ::close(ended->fd);
  state().allocations.erase(ended);
  delete ended;
  return CUDA_SUCCESS;
}
CUresult CUDAAPI export_handle(void* out, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType,
                               unsigned long long) {
  if (!behaviour().exports) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard lock(state().mutex);
  *static_cast<int*>(out) = ::fcntl(allocation(handle)->fd, F_DUPFD_CLOEXEC, 0);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI import_handle(CUmemGenericAllocationHandle* handle, void* fd, CUmemAllocationHandleType) {
  const int own = ::fcntl(int(reinterpret_cast<intptr_t>(fd)), F_DUPFD_CLOEXEC, 0);
  if (own < 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(state().mutex);
  *handle = new_allocation(own);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  const Alone alone;
  void* base = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(base);
  std::lock_guard lock(state().mutex);
  state().windows[*address] = {bytes, {}};
  return CUDA_SUCCESS;
}
CUresult CUDAAPI free_address(CUdeviceptr address, size_t bytes) {
  const Alone alone;
  std::lock_guard lock(state().mutex);
  const Window& window = window_of(address);
  expect(window.bytes == bytes && state().windows.contains(address), "a window is given back in part");
  expect(window.mapped.empty(), "a window is given back while memory is mapped there");
  state().windows.erase(address);
  return ::munmap(reinterpret_cast<void*>(address), bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult CUDAAPI map(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle,
                     unsigned long long) {
  const Alone alone;
  std::lock_guard lock(state().mutex);
  Window& window = window_of(address);
  expect(!window.mapped.contains(address), "memory is mapped twice");
  struct stat file{};
  if (::fstat(allocation(handle)->fd, &file) != 0 || size_t(file.st_size) != bytes) return CUDA_ERROR_INVALID_VALUE;
  void* at = map_file(allocation(handle)->fd, bytes, reinterpret_cast<void*>(address));
  if (at == MAP_FAILED) return CUDA_ERROR_INVALID_VALUE;
  window.mapped[address] = bytes;
  return CUDA_SUCCESS;
}
CUresult CUDAAPI unmap(CUdeviceptr address, size_t bytes) {
  const Alone alone;
  wait_for_all();
  std::lock_guard lock(state().mutex);
  Window& window = window_of(address);
  const auto mapping = window.mapped.find(address);
  expect(mapping != window.mapped.end() && mapping->second == bytes, "what is unmapped was not mapped");
  expect_all_done("memory is unmapped before the work of all streams is done");
  window.mapped.erase(mapping);
  ::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI set_access(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) {
  return CUDA_SUCCESS;
}
CUresult CUDAAPI encode_tiled() {
  return CUDA_SUCCESS;
}

}  // namespace

void* entry_point(std::string_view name) {
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
  const auto entry = all.find(name);
  return entry == all.end() ? nullptr : entry->second;
}

}  // namespace weft::fake_cuda
