// The CUDA runtime as Status, RAII and one checked launch. Host code; include from .cu and .cuh only.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <functional>
#include <utility>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// ok, or "<what>: <CUDA's text> (<CUDA's name>)": kResourceExhausted (memory), kUnimplemented (this GPU), else kIo.
Status cuda_status(cudaError_t error, const char* what);

#define WEFT_CUDA_TRY(call) WEFT_TRY(::weft::cuda_status((call), #call))

// Whatever frees memory or handles waits for the device, without a deadline. After abandon_devices(), which says that a
// device has work that does not end, nothing of this process is freed any more: it is left to the end of the process.
void abandon_devices();
bool devices_are_abandoned();

// Sole owner of a CUDA handle; `Destroy` ends it, unless devices are abandoned. Its faults come from earlier work and
// are reported there.
template <class Handle, auto Destroy>
class CudaHandle {
 public:
  CudaHandle() = default;
  explicit CudaHandle(Handle handle) : handle_(handle) {}
  ~CudaHandle() { reset(); }
  CudaHandle(CudaHandle&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, Handle{});
    }
    return *this;
  }
  Handle get() const { return handle_; }
  void reset() {
    const Handle ended = std::exchange(handle_, Handle{});
    if (ended != Handle{} && !devices_are_abandoned()) (void)Destroy(ended);
  }

 private:
  Handle handle_{};
};

using CudaStream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using CudaEvent = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using CudaGraph = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;

// Kernels of an urgent stream find a multiprocessor before those of others.
enum class StreamPriority { kNormal, kUrgent };
// On the current device. Streams do not synchronise with the default stream; events carry times.
Result<CudaStream> make_stream(StreamPriority priority = StreamPriority::kNormal);
Result<CudaEvent> make_event();

// Records what `work` enqueues on `stream` as a graph, ready for cudaGraphLaunch. Nothing runs.
Result<CudaGraph> capture_graph(cudaStream_t stream, const std::function<Status()>& work);

// Bytes on the current device (cudaMalloc: 256-byte aligned), contents undefined. Zero bytes give a null pointer.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  static Result<DeviceBuffer> create(size_t bytes);
  void* data() const { return data_.get(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  size_t bytes() const { return bytes_; }

 private:
  CudaHandle<void*, cudaFree> data_;
  size_t bytes_ = 0;
};

// Zeroed pinned host memory that every device of the process can read and write at the same address.
class HostBuffer {
 public:
  HostBuffer() = default;
  static Result<HostBuffer> create(size_t bytes);
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  CudaHandle<void*, cudaFreeHost> data_;
};

struct LaunchShape {
  dim3 grid = 1;
  dim3 block = 1;
  size_t shared_bytes = 0;   // dynamic; above 48 KB needs prepare_kernel()
  bool cooperative = false;  // all CTAs resident at once, or the launch fails
  int cluster = 1;           // CTAs per cluster, along x
  // May start while the kernel before it on the stream still runs, if that one has called ptx::launch_dependents();
  // calls ptx::wait_for_previous_grid() before it touches what others on the stream read or write.
  bool early = false;
};

// Loads the kernel and allows its dynamic shared memory: the most that anybody has asked for on this device. Call it
// before kernels that wait for each other run: lazy loading inside a launch may wait for the very kernel that waits.
// Thread-safe; one thread at a time, so not from a launch (see OncePerDevice).
Status prepare_kernel(const char* name, const void* kernel, size_t shared_bytes);

// Work that a process does once for each device, though many threads come by: a static next to what needs it. Threads
// that come at the same time may all do it. Takes no lock once it is done.
class OncePerDevice {
 public:
  // Calls work() unless it has succeeded on the current device. Errors: those of work, which is then tried again.
  template <class Work>
  Status run(Work&& work) {
    int device = 0;
    WEFT_CUDA_TRY(cudaGetDevice(&device));
    const u64 mark = u64(1) << (device % 64);
    if (device < 64 && (done_.load(std::memory_order_acquire) & mark) != 0) return {};
    WEFT_TRY(work());
    if (device < 64) done_.fetch_or(mark, std::memory_order_release);
    return {};
  }

 private:
  std::atomic<u64> done_{0};
};

Status launch_kernel(const char* name, const void* kernel, const LaunchShape& shape, cudaStream_t stream, void** args);

// The one way to launch. Arguments convert to the kernel's parameter types; faults name the kernel.
template <class... Params, class... Args>
Status launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
              Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args));
  return [&](std::remove_const_t<Params>... params) {
    void* list[] = {static_cast<void*>(&params)..., nullptr};
    return launch_kernel(name, reinterpret_cast<const void*>(kernel), shape, stream, list);
  }(std::forward<Args>(args)...);
}

}  // namespace weft
