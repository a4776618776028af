#include "comm/cuda_communicator.cuh"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>

#include "comm/communicator.h"
#include "device/cuda/one_thread.cuh"

namespace weft {

Result<std::unique_ptr<CudaCommunicator>> CudaCommunicator::create(World& world,
                                                                   const CudaCommunicatorOptions& options) {
  const int devices = cuda_device_count();
  if (devices == 0) return error(Code::kUnavailable, "CUDA communicator: no GPU is visible");
  const int device = options.device < 0 ? world.rank() % devices : options.device;
  if (device >= devices)
    return error(Code::kInvalidArgument, "CUDA communicator: device {} of {} visible ones", device, devices);
  if (world.size() > kMostCudaRanks)
    return error(Code::kUnimplemented, "CUDA communicator: {} ranks, at most {}", world.size(), kMostCudaRanks);
  if (options.deadline <= std::chrono::nanoseconds(0))
    return error(Code::kInvalidArgument, "CUDA communicator: deadline: expected more than 0");
  WEFT_TRY(use_device(device));
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));  // of start-up: contexts take seconds
  WEFT_ASSIGN(auto arena, CudaArena::create(world, device, options.arena_bytes, deadline, options.sharing));
  int sms = 0;
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  // Ranks that share a GPU have fewer multiprocessors. Grids and buffers are planned from this number, so it is the
  // smallest of all ranks'.
  const std::string mine = std::to_string(sms / arena->ranks_on_this_gpu());
  WEFT_ASSIGN(const auto all, world.all_gather(mine, deadline));
  int ctas = sms;
  for (const std::string& theirs : all) ctas = std::min(ctas, std::atoi(theirs.c_str()));
  WEFT_ASSIGN(auto faults, FaultLog::create(u32(world.rank()), u64(options.deadline.count())));
  std::vector<int> members(size_t(world.size()));
  std::iota(members.begin(), members.end(), 0);
  return std::unique_ptr<CudaCommunicator>(
      new CudaCommunicator(world, std::move(members), world.rank(), std::move(arena),
                           std::make_shared<FaultLog>(std::move(faults)), ctas, ctas == sms ? 0 : ctas));
}

Result<std::shared_ptr<CudaCommunicator>> CudaCommunicator::split(int color, int key) const {
  const std::array<int, 2> mine{color, key};
  const std::string bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  WEFT_ASSIGN(const auto all, world_.all_gather(bytes, Deadline::after(std::chrono::seconds(60))));
  std::vector<std::pair<int, int>> chosen;  // key, rank here
  for (int r = 0; r < size(); ++r) {
    std::array<int, 2> theirs;
    std::memcpy(&theirs, all[size_t(members_[size_t(r)])].data(), sizeof(theirs));
    if (theirs[0] == color) chosen.emplace_back(theirs[1], r);
  }
  std::sort(chosen.begin(), chosen.end());
  std::vector<int> members;
  int rank = 0;
  for (const auto& [_, r] : chosen) {
    if (r == rank_) rank = int(members.size());
    members.push_back(members_[size_t(r)]);
  }
  return std::shared_ptr<CudaCommunicator>(
      new CudaCommunicator(world_, std::move(members), rank, arena_, faults_, max_ctas_, sm_budget_));
}

Communicator Communicator::over(std::shared_ptr<CudaCommunicator> cuda) {
  auto state = std::make_shared<State>();
  state->group.rank = cuda->rank();
  state->group.world = &cuda->world();
  state->group.bases.resize(size_t(cuda->size()));
  state->group.world_ranks = cuda->members();
  state->cuda = std::move(cuda);
  return Communicator(std::move(state));
}

Communicator Communicator::on_gpu(CudaCommunicator& cuda) {
  return over({std::shared_ptr<void>(), &cuda});
}

Result<Communicator> Communicator::split_gpus(int color, int key) const {
  WEFT_ASSIGN(auto part, cuda().split(color, key));
  return over(std::move(part));
}

Result<u64> CudaCommunicator::alloc_bytes(i64 bytes, const std::string& what) {
  if (bytes < 0) return error(Code::kInvalidArgument, "{}: {} bytes of symmetric memory", what, bytes);
  const auto offset = arena_->allocate(size_t(bytes));
  if (!offset.ok()) return offset.status().with_context(what);
  const std::string mine = fmt::format("{} bytes at {}", bytes, *offset);
  WEFT_ASSIGN(const auto all, world_.all_gather(mine, Deadline::after(std::chrono::seconds(30))));
  for (int peer = 0; peer < world_.size(); ++peer)
    if (all[size_t(peer)] != mine)
      return error(Code::kInvalidArgument, "{}: rank {} allocates {}, rank {} {}", what, world_.rank(), mine, peer,
                   all[size_t(peer)]);
  return *offset;
}

Status CudaCommunicator::start_trace() {
  if (!clock_) {
    WEFT_ASSIGN(const auto words, alloc<std::byte>(ClockSync::bytes(size()), "clock"));
    WEFT_ASSIGN(auto clock, ClockSync::create(words));
    clock_.emplace(std::move(clock));
  }
  WEFT_ASSIGN(auto log, TraceLog::create());
  trace_.emplace(std::move(log));
  faults_->trace_to(trace_->sink());
  // Allocating may wait for running kernels, and these for this rank: nobody starts before all are through.
  return world_.barrier(Deadline::after(std::chrono::seconds(30)));
}

Result<RankTrace> CudaCommunicator::take_trace() {
  if (!trace_) return error(Code::kInvalidArgument, "take_trace: no trace has been started");
  faults_->trace_to({});
  RankTrace taken;
  taken.rank = world_.rank();
  taken.ops = faults_->ops();
  WEFT_ASSIGN(taken.spans, trace_->read());
  WEFT_ASSIGN(taken.device, cuda_device_name());
  WEFT_TRY(clock_->enqueue(peers("clock")));
  WEFT_TRY(synchronize(clock_->stream()));
  taken.clock_offset_ns = clock_->offset_ns();
  trace_.reset();
  WEFT_TRY(status());
  return taken;
}

Status CudaCommunicator::status() const {
  const Status fault = faults_->reason();
  if (!fault.ok() && !faults_->aborted()) {
    if (!world_.failure().raised()) world_.fail(fault);
    return fault;
  }
  if (!world_.failure().raised()) return {};
  faults_->abort();
  const Status reason = world_.failure().reason();
  return fault.ok() ? reason : Status(reason.code(), reason.message() + "; " + fault.message());
}

Status CudaCommunicator::synchronize(cudaStream_t stream) const {
  constexpr auto kEagerly = std::chrono::microseconds(200);  // most waits are short: ask again at once
  constexpr auto kPause = std::chrono::microseconds(20);
  constexpr auto kLastWords = std::chrono::seconds(2);  // for a kernel that is told to end
  const auto start = Clock::now();
  std::optional<Deadline> leave;
  cudaError_t ended = cudaStreamQuery(stream);
  for (; ended == cudaErrorNotReady; ended = cudaStreamQuery(stream)) {
    // A kernel that has trapped is not enough: the driver may take long to say so.
    if (!leave && !status().ok()) leave = Deadline::after(devices_are_abandoned() ? Clock::duration(0) : kLastWords);
    if (leave && leave->expired()) {
      abandon_devices();
      break;
    }
    if (Clock::now() - start < kEagerly) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
  WEFT_TRY(status());
  return cuda_status(ended, "cudaStreamQuery");
}

}  // namespace weft
