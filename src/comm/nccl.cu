#include "comm/nccl.cuh"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "device/cuda/runtime.cuh"

namespace weft {
namespace {

// The few declarations needed of nccl.h, whose ABI is stable within major version 2.
struct UniqueId {
  char bytes[128];
};
using Comm = struct NcclComm*;
constexpr int kBytes = 0, kF16 = 6, kBf16 = 9, kSum = 0;
int type_of(DType dtype) {
  return dtype == DType::kF16 ? kF16 : kBf16;
}

struct Library {
  int (*get_version)(int*);
  const char* (*get_error_string)(int);
  int (*get_unique_id)(UniqueId*);
  int (*comm_init_rank)(Comm*, int, UniqueId, int);
  int (*comm_destroy)(Comm);
  int (*all_reduce)(const void*, void*, size_t, int, int, Comm, cudaStream_t);
  int (*all_gather)(const void*, void*, size_t, int, Comm, cudaStream_t);
  int (*reduce_scatter)(const void*, void*, size_t, int, int, Comm, cudaStream_t);
  int (*broadcast)(const void*, void*, size_t, int, int, Comm, cudaStream_t);
  int (*send)(const void*, size_t, int, int, Comm, cudaStream_t);
  int (*receive)(void*, size_t, int, int, Comm, cudaStream_t);
  int (*group_start)();
  int (*group_end)();
};

Result<Library> open_library() {
  const char* path = std::getenv("WEFT_NCCL");
  void* handle = ::dlopen(path ? path : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!handle) return error(Code::kUnavailable, "NCCL: {} (WEFT_NCCL names the library)", ::dlerror());
  Library library;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
    return function != nullptr;
  };
  if (!find("ncclGetVersion", library.get_version) || !find("ncclGetErrorString", library.get_error_string) ||
      !find("ncclGetUniqueId", library.get_unique_id) || !find("ncclCommInitRank", library.comm_init_rank) ||
      !find("ncclCommDestroy", library.comm_destroy) || !find("ncclAllReduce", library.all_reduce) ||
      !find("ncclAllGather", library.all_gather) || !find("ncclReduceScatter", library.reduce_scatter) ||
      !find("ncclBroadcast", library.broadcast) || !find("ncclSend", library.send) ||
      !find("ncclRecv", library.receive) || !find("ncclGroupStart", library.group_start) ||
      !find("ncclGroupEnd", library.group_end))
    return error(Code::kUnavailable, "NCCL: a symbol is missing: {}", ::dlerror());
  return library;
}

Status nccl_status(const Library& library, int result, const char* what) {
  if (result == 0) return {};
  return error(Code::kIo, "{}: {}", what, library.get_error_string(result));
}

class Loaded final : public NcclCommunicator {
 public:
  Loaded(const Library& library, Comm comm) : library_(library), comm_(comm) {}
  ~Loaded() override {
    if (!devices_are_abandoned()) (void)library_.comm_destroy(comm_);
  }
  std::string version() const override {
    int v = 0;
    (void)library_.get_version(&v);
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }
  Status all_reduce(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) override {
    return nccl_status(library_, library_.all_reduce(x, y, count, type_of(dtype), kSum, comm_, stream),
                       "ncclAllReduce");
  }
  Status all_gather(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) override {
    return nccl_status(library_, library_.all_gather(x, y, count, type_of(dtype), comm_, stream), "ncclAllGather");
  }
  Status reduce_scatter(DType dtype, const void* x, void* y, size_t count, cudaStream_t stream) override {
    return nccl_status(library_, library_.reduce_scatter(x, y, count, type_of(dtype), kSum, comm_, stream),
                       "ncclReduceScatter");
  }
  Status broadcast(void* data, size_t bytes, int root, cudaStream_t stream) override {
    return nccl_status(library_, library_.broadcast(data, data, bytes, kBytes, root, comm_, stream), "ncclBroadcast");
  }
  Status exchange(std::span<const NcclMessage> messages, cudaStream_t stream) override {
    WEFT_TRY(nccl_status(library_, library_.group_start(), "ncclGroupStart"));
    Status first;
    for (const auto& [way, peer, data, bytes] : messages) {
      const Status queued =
          way == NcclMessage::Way::kSend
              ? nccl_status(library_, library_.send(data, bytes, kBytes, peer, comm_, stream), "ncclSend")
              : nccl_status(library_, library_.receive(data, bytes, kBytes, peer, comm_, stream), "ncclRecv");
      if (first.ok()) first = queued;
    }
    const Status ended = nccl_status(library_, library_.group_end(), "ncclGroupEnd");
    return first.ok() ? ended : first;
  }

 private:
  const Library& library_;
  const Comm comm_;
};

}  // namespace

Result<std::unique_ptr<NcclCommunicator>> NcclCommunicator::create(World& world, Deadline deadline) {
  static const Result<Library> library = open_library();
  UniqueId id{};
  Status mine = library.status();
  if (mine.ok() && world.rank() == 0) mine = nccl_status(*library, library->get_unique_id(&id), "ncclGetUniqueId");
  // An empty string says that this rank has no NCCL, so that all give up together.
  WEFT_ASSIGN(const auto ids, world.all_gather(mine.ok() ? std::string(id.bytes, sizeof(id.bytes)) : "", deadline));
  WEFT_TRY(mine);
  for (const std::string& other : ids)
    if (other.size() != sizeof(id.bytes)) return error(Code::kUnavailable, "NCCL: another rank cannot open it");
  std::memcpy(id.bytes, ids[0].data(), sizeof(id.bytes));
  Comm comm = nullptr;
  WEFT_TRY(nccl_status(*library, library->comm_init_rank(&comm, world.size(), id, world.rank()), "ncclCommInitRank"));
  return std::unique_ptr<NcclCommunicator>(new Loaded(*library, comm));
}

}  // namespace weft
