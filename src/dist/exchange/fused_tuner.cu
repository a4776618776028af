#include "comm/cuda_timing.cuh"
#include "device/cuda/driver.cuh"
#include "dist/exchange/fused_choice.cuh"
#include "dist/exchange/fused_tuner.cuh"
#include "ops/gemm/cublas.cuh"

namespace weft {
namespace {

constexpr i64 kLeastRows = 16;
constexpr size_t kArenaBytes = size_t(1) << 30;
constexpr int kCalls = 10, kRounds = 5;
constexpr FusedVariant kVariants[] = {FusedVariant::kSplit, FusedVariant::kPush, FusedVariant::kCopy};  // copy last

// A variant with the communicator that it lives on; made when it is first timed.
struct Variant {
  std::unique_ptr<CudaCommunicator> comm;
  CudaStream stream;
  FusedCall call;
};

Status prepare(Variant& variant, CudaCommunicator& comm, const char* name, const MakeFused& make) {
  if (variant.call) return {};
  WEFT_ASSIGN(variant.comm,
              CudaCommunicator::create(comm.world(), {.device = comm.device(), .arena_bytes = kArenaBytes}));
  WEFT_ASSIGN(variant.stream, make_stream());
  WEFT_ASSIGN(variant.call, make(*variant.comm, {.variant = name}));
  return {};
}

// Microseconds of a call on the slowest rank: the median of some graphs of calls.
Result<double> time_us(const Variant& variant, i64 m) {
  const cudaStream_t stream = variant.stream.get();
  for (int i = 0; i < 2; ++i) WEFT_TRY(variant.call(stream, m));  // loads what is loaded lazily
  WEFT_TRY(variant.comm->synchronize(stream));
  WEFT_ASSIGN(const CudaGraph graph, capture_graph(stream, [&]() -> Status {
                for (int i = 0; i < kCalls; ++i) WEFT_TRY(variant.call(stream, m));
                return {};
              }));
  WEFT_ASSIGN(const GraphTimer timer, GraphTimer::create());
  std::vector<double> times;
  for (int round = -1; round < kRounds; ++round) {
    WEFT_ASSIGN(const double us, timer.time(*variant.comm, stream, graph));
    if (round >= 0) times.push_back(us / kCalls);
  }
  return at_quantile(times, 0.5);
}

}  // namespace

Result<std::vector<TunedVariant>> tune_fused(CudaCommunicator& comm, const FusedTask& task, TuningCache* cache,
                                             const MakeFused& make) {
  WEFT_ASSIGN(const std::string device, cuda_device_name());
  std::vector<std::string> names;
  for (const FusedVariant variant : kVariants)
    if (may_copy(comm) || variant != FusedVariant::kCopy) names.emplace_back(fused_variant_name(variant));
  std::vector<TunedVariant> tuned;
  if (comm.size() == 1) return tuned;  // all variants are the GEMM
  if (comm.size() != comm.world().size())
    return error(Code::kUnimplemented, "{}: {} of {} ranks cannot tune", task.op, comm.size(), comm.world().size());
  Variant variants[std::size(kVariants)];
  for (i64 most = kLeastRows; tuned.empty() || tuned.back().most_m < task.max_m; most *= 2) {
    const i64 m = std::min(most, task.max_m);
    if (m <= 0) break;
    const std::string key =
        tuning_key(task.op, fmt::format("m {} {} {}", m, task.shape, dtype_name(task.dtype)), device, comm.size());
    WEFT_ASSIGN(const int chosen, choose_fastest(comm.world(), cache, key, names, [&](int i) -> Result<double> {
                  WEFT_TRY(prepare(variants[i], comm, names[size_t(i)].c_str(), make));
                  return time_us(variants[i], m);
                }));
    tuned.push_back({m, kVariants[chosen]});
  }
  WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(60))));  // before memory that peers see goes
  return tuned;
}

Result<std::shared_ptr<RandomElements>> random_elements(DType dtype, i64 elements) {
  WEFT_ASSIGN(auto buffer, DeviceBuffer::create(size_t(std::max<i64>(elements, 1)) * 2));
  WEFT_TRY(fill_random(nullptr, dtype, buffer.data(), elements, 1));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  return std::make_shared<RandomElements>(std::move(buffer), dtype);
}

}  // namespace weft
