#include "fake_cuda.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "fake_state.h"

namespace weft::fake_cuda {
namespace {

thread_local int t_device = -1;
std::atomic<void*> g_pinned{nullptr};

Stream* stream_of(cudaStream_t stream) {  // under the mutex
  if (stream == nullptr) return &state().default_stream;
  Stream* const known = reinterpret_cast<Stream*>(stream);
  expect(state().streams.contains(known), "no such stream");
  return known;
}
Event* event_of(cudaEvent_t event) {  // under the mutex
  Event* const known = reinterpret_cast<Event*>(event);
  expect(state().events.contains(known), "no such event");
  return known;
}
void enqueue(cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  Stream& to = *stream_of(stream);
  if (to.capture == nullptr) ++to.enqueued;
  to.asked = false;
}
void finish(Stream& stream, u64 count) {  // under the mutex
  if (stream.done >= count) return;
  stream.done = count;
  for (const auto& [other, needed] : stream.after) finish(*other, needed);
}
void finish(cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  Stream& all = *stream_of(stream);
  finish(all, all.enqueued);
}
void expect_done(const std::map<Stream*, u64>& work, const char* what) {  // under the mutex
  if (behaviour().stream_query) return;
  for (const auto& [stream, count] : work) expect(stream->done >= count, what);
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
State& state() {
  static State all;
  return all;
}
void expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "fake_cuda: %s\n", what);
  std::abort();
}
void expect_all_done(const char* what) {
  if (behaviour().stream_query) return;
  for (const Stream* stream : state().streams) expect(stream->done == stream->enqueued, what);
}
void wait_for_all() {
  expect(!behaviour().stuck, "the host waits for work that never ends");
}
int new_file(size_t bytes) {
  const int fd = ::memfd_create("fake-gpu", MFD_CLOEXEC);
  return ::ftruncate(fd, off_t(bytes)) == 0 ? fd : -1;
}
void* map_file(int fd, size_t bytes, void* at) {
  return ::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
}
void* last_pinned() {
  return g_pinned;
}
std::string alive() {
  std::lock_guard lock(state().mutex);
  std::string all;
  const auto add = [&](size_t count, const char* what) {
    if (count > 0) all += (all.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  };
  add(state().blocks.size(), "pieces of device memory");
  add(state().pinned.size(), "pieces of host memory");
  add(state().allocations.size(), "memory handles");
  add(state().windows.size(), "windows");
  add(state().streams.size(), "streams");
  add(state().events.size(), "events");
  add(state().graphs.size(), "graphs");
  return all;
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
  *function = entry_point(name);
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
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
  const Alone alone;  // makes a context
  t_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = std::max(t_device, 0);
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
  wait_for_all();
  return cudaSuccess;  // for the default stream; no thread knows what the others enqueue
}

cudaError_t cudaMalloc(void** address, size_t bytes) {
  const int fd = new_file(bytes);
  *address = map_file(fd, bytes);
  if (*address == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::lock_guard lock(state().mutex);
  state().blocks[*address] = {fd, bytes};
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  wait_for_all();
  std::lock_guard lock(state().mutex);
  const auto block = state().blocks.find(address);
  expect(block != state().blocks.end(), "no such device memory");
  ::munmap(address, block->second.bytes);
  ::close(block->second.fd);
  state().blocks.erase(block);
  return cudaSuccess;
}
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* address) {
  std::lock_guard lock(state().mutex);
  const Block& block = state().blocks.at(address);
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
  std::lock_guard lock(state().mutex);
  state().blocks[*address] = {fd, name.bytes};
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void* address) {
  return cudaFree(address);
}
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  *address = ::operator new(bytes, std::align_val_t(64));
  g_pinned = *address;
  std::lock_guard lock(state().mutex);
  state().pinned.insert(*address);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  wait_for_all();
  {
    std::lock_guard lock(state().mutex);
    expect(state().pinned.erase(address) == 1, "no such pinned memory");
  }
  ::operator delete(address, std::align_val_t(64));
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  enqueue(stream);
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes,
                              size_t rows, cudaMemcpyKind, cudaStream_t stream) {
  enqueue(stream);
  for (size_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * to_stride, static_cast<const char*>(from) + r * from_stride, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  if (bytes > 0) std::memset(address, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream) {
  enqueue(stream);
  return cudaMemset(address, value, bytes);
}
cudaError_t cudaMemset2DAsync(void* address, size_t stride, int value, size_t bytes, size_t rows, cudaStream_t stream) {
  enqueue(stream);
  for (size_t r = 0; r < rows; ++r) std::memset(static_cast<char*>(address) + r * stride, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  std::lock_guard lock(state().mutex);
  state().ever.push_back(std::make_unique<Stream>());
  *stream = reinterpret_cast<cudaStream_t>(*state().streams.insert(state().ever.back().get()).first);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  Stream* const ended = stream_of(stream);
  expect_done({{ended, ended->enqueued}}, "a stream is ended before its work is done");
  state().streams.erase(ended);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != nullptr) wait_for_all();
  finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (behaviour().stream_query) return behaviour().stream_query();
  if (behaviour().stuck) return cudaErrorNotReady;
  {
    std::lock_guard lock(state().mutex);
    if (!std::exchange(stream_of(stream)->asked, true)) return cudaErrorNotReady;
  }
  finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard lock(state().mutex);
  const Event& heard = *event_of(event);
  Stream& waits = *stream_of(stream);
  if (heard.capture != nullptr) {
    waits.capture = heard.capture;
    return cudaSuccess;
  }
  for (const auto& [other, count] : heard.after) waits.after[other] = std::max(waits.after[other], count);
  ++waits.enqueued;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  std::lock_guard lock(state().mutex);
  Stream* const origin = stream_of(stream);
  expect(std::exchange(origin->capture, origin) == nullptr, "a stream is captured twice at a time");
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard lock(state().mutex);
  Stream* const origin = stream_of(stream);
  expect(origin->capture == origin, "no capture to end");
  for (Stream* const part : state().streams)
    if (part->capture == origin) part->capture = nullptr;
  *graph = reinterpret_cast<cudaGraph_t>(*state().graphs.insert(new Graph).first);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t, unsigned long long) {
  std::lock_guard lock(state().mutex);
  *executable = reinterpret_cast<cudaGraphExec_t>(*state().graphs.insert(new Graph).first);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  enqueue(stream);
  std::lock_guard lock(state().mutex);
  Graph* const known = reinterpret_cast<Graph*>(graph);
  expect(state().graphs.contains(known), "no such graph");
  known->launched[stream_of(stream)] = stream_of(stream)->enqueued;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  std::lock_guard lock(state().mutex);
  Graph* const ended = reinterpret_cast<Graph*>(graph);
  expect(state().graphs.erase(ended) == 1, "no such graph");
  expect_done(ended->launched, "a graph is ended before its last launch is done");
  delete ended;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return cudaGraphDestroy(reinterpret_cast<cudaGraph_t>(graph));
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  std::lock_guard lock(state().mutex);
  *event = reinterpret_cast<cudaEvent_t>(*state().events.insert(new Event).first);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  std::lock_guard lock(state().mutex);
  Event* const ended = event_of(event);
  state().events.erase(ended);
  delete ended;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  Event& told = *event_of(event);
  Stream* const recorded = stream_of(stream);
  told.capture = recorded->capture;
  told.after = recorded->after;
  told.after[recorded] = recorded->enqueued;
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
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t* config) {
  *clusters = 132 / int(config->attrs[0].val.clusterDim.x);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  enqueue(config->stream);
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
