#include "device/cuda/runtime.cuh"

#include <cstring>
#include <map>
#include <mutex>

namespace weft {
namespace {

std::atomic<bool> g_abandoned{false};

}  // namespace

void abandon_devices() {
  g_abandoned = true;
}
bool devices_are_abandoned() {
  return g_abandoned;
}

Status cuda_status(cudaError_t fault, const char* what) {
  if (fault == cudaSuccess) return {};
  const Code code = fault == cudaErrorMemoryAllocation         ? Code::kResourceExhausted
                    : fault == cudaErrorNoKernelImageForDevice ? Code::kUnimplemented
                                                               : Code::kIo;
  return error(code, "{}: {} ({})", what, cudaGetErrorString(fault), cudaGetErrorName(fault));
}

Result<CudaStream> make_stream(StreamPriority priority) {
  int least = 0, greatest = 0;
  WEFT_CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream;
  WEFT_CUDA_TRY(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                             priority == StreamPriority::kUrgent ? greatest : least));
  return CudaStream(stream);
}

Result<CudaEvent> make_event() {
  cudaEvent_t event;
  WEFT_CUDA_TRY(cudaEventCreate(&event));
  return CudaEvent(event);
}

Result<CudaGraph> capture_graph(cudaStream_t stream, const std::function<Status()>& work) {
  // Thread-local: other ranks of this process may allocate or synchronise meanwhile.
  WEFT_CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const Status outcome = work();
  cudaGraph_t recorded = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &recorded);
  CudaHandle<cudaGraph_t, cudaGraphDestroy> graph(recorded);
  WEFT_TRY(outcome);
  WEFT_CUDA_TRY(ended);
  cudaGraphExec_t executable;
  WEFT_CUDA_TRY(cudaGraphInstantiate(&executable, graph.get()));
  return CudaGraph(executable);
}

Result<DeviceBuffer> DeviceBuffer::create(size_t bytes) {
  DeviceBuffer buffer;
  if (bytes > 0) {
    void* data;
    WEFT_TRY(cuda_status(cudaMalloc(&data, bytes), "cudaMalloc").with_context(fmt::format("{} bytes", bytes)));
    buffer.data_ = CudaHandle<void*, cudaFree>(data);
  }
  buffer.bytes_ = bytes;
  return std::move(buffer);
}

Result<HostBuffer> HostBuffer::create(size_t bytes) {
  void* data;
  WEFT_CUDA_TRY(cudaHostAlloc(&data, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
  HostBuffer buffer;
  buffer.data_ = CudaHandle<void*, cudaFreeHost>(data);
  std::memset(data, 0, bytes);
  return std::move(buffer);
}

Status prepare_kernel(const char* name, const void* kernel, size_t shared_bytes) {
  // Guards the table, and keeps threads from loading into one device's context at the same time.
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;  // dynamic shared memory, by device and kernel
  int device = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  std::lock_guard lock(mutex);
  const auto [entry, fresh] = allowed.try_emplace({device, kernel}, 0);
  if (!fresh && shared_bytes <= entry->second) return {};
  const Status prepared = [&]() -> Status {
    cudaFuncAttributes attributes;
    WEFT_TRY(cuda_status(cudaFuncGetAttributes(&attributes, kernel), name));
    if (shared_bytes + attributes.sharedSizeBytes <= 48 * 1024) return {};
    return cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
                       name);
  }();
  if (prepared.ok()) {
    entry->second = shared_bytes;
  } else if (fresh) {
    allowed.erase(entry);
  }
  return prepared;
}

Status launch_kernel(const char* name, const void* kernel, const LaunchShape& shape, cudaStream_t stream, void** args) {
  cudaLaunchAttribute attributes[3];
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {unsigned(shape.cluster), 1, 1};
  }
  if (shape.early) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  return cuda_status(cudaLaunchKernelExC(&config, kernel, args), name);
}

}  // namespace weft
