#include "dist/cuda_bench.h"

#include <algorithm>
#include <random>

#include "comm/cuda_bench_ranks.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "dist/all_gather/all_gather.cuh"
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/all_to_all/all_to_all.cuh"
#include "dist/broadcast/broadcast.cuh"
#include "dist/reduce_scatter/reduce_scatter.cuh"
#include "dist/send_recv/send_recv.cuh"

namespace weft {
namespace {

// Small integers: their sums over 8 ranks are exact in bf16, whatever the order.
__device__ float value_of(int rank, i64 i) {
  return float(int((u32(rank) * 17 + u32(i) * 3) % 61) - 30);
}
__global__ void fill_kernel(bf16* x, i64 n, int rank) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    x[i] = bf16(value_of(rank, i));
}
// y[i] must be the sum over ranks [first_rank, first_rank + ranks) of their elements first + i.
__global__ void count_wrong_kernel(const bf16* y, i64 n, int first_rank, int ranks, i64 first, u32* wrong) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    float sum = 0;
    for (int rank = first_rank; rank < first_rank + ranks; ++rank) sum += value_of(rank, first + i);
    if (!(float(y[i]) == sum)) atomicAdd(wrong, 1u);
  }
}

struct Variant {
  std::string name;
  std::function<Status()> call;
  CudaGraph graph;
};

constexpr i64 kOneShotBenchMostBytes = 4 << 20;

// A collective on this rank: who takes part in timing, what comes out.
class RankBench {
 public:
  RankBench(CudaCommunicator& comm, cudaStream_t stream, const CudaCollectiveBenchOptions& options)
      : comm_(comm), stream_(stream), options_(options), ranks_(comm.size()), rank_(comm.rank()) {}

  Status run(CudaBenchReport& report) {
    most_ = *std::max_element(options_.bytes.begin(), options_.bytes.end());
    WEFT_ASSIGN(x_, DeviceBuffer::create(size_t(most_)));
    WEFT_ASSIGN(y_, DeviceBuffer::create(size_t(most_)));
    WEFT_ASSIGN(wrong_, DeviceBuffer::create(sizeof(u32)));
    WEFT_ASSIGN(timer_, GraphTimer::create());
    auto nccl = NcclCommunicator::create(comm_.world(), Deadline::after(std::chrono::seconds(30)));
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    if (nccl.ok()) nccl_ = std::move(*nccl);
    WEFT_TRY(create_operators());
    for (const i64 bytes : options_.bytes) {
      std::vector<Variant> variants = variants_of(bytes);
      WEFT_TRY(time(bytes, variants, report));
    }
    return {};
  }

 private:
  static TensorView view(const DeviceBuffer& buffer, i64 bytes) {
    return TensorView::dense(buffer.data(), DType::kBF16, {bytes / 2}, DeviceKind::kCuda);
  }
  Status barrier() { return comm_.world().barrier(Deadline::after(std::chrono::seconds(60))); }

  Status create_operators() {
    const std::string& op = options_.op;
    const i64 share = most_ / ranks_;
    for (const std::string& name : options_.algorithms) {
      if (op != "all_reduce") break;
      const i64 limit = name == "one_shot" ? kOneShotBenchMostBytes : most_;
      WEFT_ASSIGN(auto made,
                  CudaAllReduce::create(comm_, {.max_elements = std::min(most_, limit) / 2, .dtype = DType::kBF16},
                                        {.name = name}));
      all_reduces_.push_back(std::move(made));
    }
    if (op == "all_gather") {
      WEFT_ASSIGN(auto made, CudaAllGather::create(comm_, {.max_bytes_per_rank = share}));
      all_gather_.emplace(std::move(made));
    } else if (op == "reduce_scatter") {
      WEFT_ASSIGN(auto made,
                  CudaReduceScatter::create(comm_, {.max_rows = most_ / 2, .columns = 1, .dtype = DType::kBF16}));
      reduce_scatter_.emplace(std::move(made));
    } else if (op == "broadcast") {
      WEFT_ASSIGN(auto made, CudaBroadcast::create(comm_, {.max_bytes = most_, .root = 0}));
      broadcast_.emplace(std::move(made));
    } else if (op == "all_to_all") {
      WEFT_ASSIGN(auto made, CudaAllToAll::create(comm_, {.max_bytes_per_pair = share}));
      all_to_all_.emplace(std::move(made));
    } else if (op == "send_recv") {
      WEFT_ASSIGN(auto made, CudaSendRecv::create(comm_, {.max_bytes = most_}));
      send_recv_.emplace(std::move(made));
    }
    return {};
  }

  std::vector<Variant> variants_of(i64 bytes) {
    std::vector<Variant> variants;
    const auto add = [&](std::string name, std::function<Status()> call) {
      variants.push_back({std::move(name), std::move(call), {}});
    };
    const TensorView x = view(x_, bytes), y = view(y_, bytes);
    const TensorView x_share = view(x_, bytes / ranks_), y_share = view(y_, bytes / ranks_);
    const int next = (rank_ + 1) % ranks_, before = (rank_ + ranks_ - 1) % ranks_;
    for (size_t i = 0; i < all_reduces_.size(); ++i) {
      const std::string& name = options_.algorithms[i];
      if (name == "one_shot" && bytes > kOneShotBenchMostBytes) continue;
      add("weft/" + name, [=, this, &op = all_reduces_[i]] { return op.run(stream_, x, y); });
    }
    if (all_gather_) add("weft", [=, this] { return all_gather_->run(stream_, x_share, y); });
    if (reduce_scatter_)
      add("weft",
          [=, this] { return reduce_scatter_->run(stream_, column(x_, bytes / 2), column(y_, bytes / 2 / ranks_)); });
    if (broadcast_) add("weft", [=, this] { return broadcast_->run(stream_, rank_ == 0 ? x : y); });
    if (all_to_all_)
      add("weft", [=, this] { return all_to_all_->run(stream_, column(x_, bytes / 2), column(y_, bytes / 2)); });
    if (send_recv_)
      add("weft", [=, this]() -> Status {
        WEFT_TRY(send_recv_->send(stream_, x, next));
        return send_recv_->receive(stream_, y, before);
      });
    if (nccl_) add("nccl", [=, this] { return rival(bytes, next, before); });
    return variants;
  }
  static TensorView column(const DeviceBuffer& buffer, i64 rows) {
    return TensorView::dense(buffer.data(), DType::kBF16, {rows, 1}, DeviceKind::kCuda);
  }

  Status rival(i64 bytes, int next, int before) {
    const std::string& op = options_.op;
    const size_t elements = size_t(bytes / 2), share = size_t(bytes / ranks_);
    if (op == "all_reduce") return nccl_->all_reduce_bf16(x_.data(), y_.data(), elements, stream_);
    if (op == "all_gather") return nccl_->all_gather_bf16(x_.data(), y_.data(), share / 2, stream_);
    if (op == "reduce_scatter") return nccl_->reduce_scatter_bf16(x_.data(), y_.data(), share / 2, stream_);
    if (op == "broadcast") return nccl_->broadcast(rank_ == 0 ? x_.data() : y_.data(), size_t(bytes), 0, stream_);
    using Way = NcclMessage::Way;
    std::vector<NcclMessage> messages;
    if (op == "send_recv") {
      messages = {{Way::kSend, next, x_.data(), size_t(bytes)}, {Way::kReceive, before, y_.data(), size_t(bytes)}};
    } else {
      for (int p = 0; p < ranks_; ++p) {
        messages.push_back({Way::kSend, p, x_.as<std::byte>() + size_t(p) * share, share});
        messages.push_back({Way::kReceive, p, y_.as<std::byte>() + size_t(p) * share, share});
      }
    }
    return nccl_->exchange(messages, stream_);
  }

  // y [0, n) must be elements [first, first + n) of `source`, or of the sum over all ranks (-1).
  Status expect(i64 at, i64 n, int source, i64 first) {
    return launch("count_wrong", count_wrong_kernel, {.grid = 128, .block = 256}, stream_, y_.as<bf16>() + at, n,
                  std::max(source, 0), source < 0 ? ranks_ : 1, first, wrong_.as<u32>());
  }
  Status expect_result(i64 n) {
    const std::string& op = options_.op;
    const i64 share = n / ranks_;
    if (op == "all_reduce") return expect(0, n, -1, 0);
    if (op == "reduce_scatter") return expect(0, share, -1, rank_ * share);
    if (op == "broadcast") return rank_ == 0 ? Status() : expect(0, n, 0, 0);
    if (op == "send_recv") return expect(0, n, (rank_ + ranks_ - 1) % ranks_, 0);
    for (int p = 0; p < ranks_; ++p) WEFT_TRY(expect(p * share, share, p, op == "all_gather" ? 0 : rank_ * share));
    return {};
  }

  Status check(const Variant& variant, i64 bytes) {
    WEFT_CUDA_TRY(cudaMemsetAsync(wrong_.data(), 0, sizeof(u32), stream_));
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, size_t(bytes), stream_));
    WEFT_TRY(launch("fill", fill_kernel, {.grid = 128, .block = 256}, stream_, x_.as<bf16>(), bytes / 2, comm_.rank()));
    WEFT_TRY(comm_.synchronize(stream_));
    WEFT_TRY(barrier());
    WEFT_TRY(variant.call());
    WEFT_TRY(expect_result(bytes / 2));
    WEFT_TRY(comm_.synchronize(stream_));
    u32 wrong = 0;
    WEFT_CUDA_TRY(cudaMemcpy(&wrong, wrong_.data(), sizeof(wrong), cudaMemcpyDefault));
    if (wrong > 0)
      return error(Code::kAborted, "{}: {} of {} bytes: {} wrong elements", options_.op, variant.name, bytes, wrong);
    return {};
  }

  // On the busiest link of the slowest rank.
  double floor_us(i64 bytes) const {
    const std::string& op = options_.op;
    const double others = ranks_ - 1, share = double(bytes) / ranks_;
    const double sent = op == "all_reduce"  ? 2 * others * share
                        : op == "broadcast" ? others * double(bytes)
                        : op == "send_recv" ? double(bytes)
                                            : others * share;
    return sent / kNvlinkBytesPerUs;
  }

  Status time(i64 bytes, std::vector<Variant>& variants, CudaBenchReport& report) {
    const int length = 20, replays = bytes <= 1 << 20 ? 10 : bytes <= 16 << 20 ? 3 : 1;
    for (Variant& variant : variants) {
      WEFT_TRY(check(variant, bytes));
      WEFT_ASSIGN(variant.graph, capture_graph(stream_, [&]() -> Status {
                    for (int i = 0; i < length; ++i) WEFT_TRY(variant.call());
                    return {};
                  }));
      WEFT_TRY(timer_.time(comm_, stream_, variant.graph, 2).status());  // warm
    }
    std::vector<std::vector<double>> samples(variants.size());
    WEFT_TRY(in_shuffled_rounds(variants.size(), options_.repeats, [&](size_t i) -> Status {
      WEFT_ASSIGN(const double us, timer_.time(comm_, stream_, variants[i].graph, replays));
      samples[i].push_back(us / (replays * length));
      return {};
    }));
    for (size_t i = 0; i < variants.size(); ++i) {
      auto& s = samples[i];
      std::sort(s.begin(), s.end());
      report.rows.push_back(
          {bytes, variants[i].name, s[s.size() / 2], s[s.size() / 4], s[s.size() * 3 / 4], floor_us(bytes)});
    }
    return {};
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CudaCollectiveBenchOptions& options_;
  const int ranks_, rank_;
  i64 most_ = 0;
  DeviceBuffer x_, y_, wrong_;
  GraphTimer timer_;
  std::unique_ptr<NcclCommunicator> nccl_;
  std::vector<CudaAllReduce> all_reduces_;
  std::optional<CudaAllGather> all_gather_;
  std::optional<CudaReduceScatter> reduce_scatter_;
  std::optional<CudaBroadcast> broadcast_;
  std::optional<CudaAllToAll> all_to_all_;
  std::optional<CudaSendRecv> send_recv_;
};

}  // namespace

Result<CudaBenchReport> bench_cuda_collective(const CudaCollectiveBenchOptions& options) {
  WEFT_ASSIGN(auto report, begin_report<CudaBenchReport>(options.op, options.ranks));
  if (options.bytes.empty()) return error(Code::kInvalidArgument, "no sizes given");
  for (const i64 bytes : options.bytes)
    if (bytes < 16 || bytes % (16 * report.ranks) != 0)
      return error(Code::kInvalidArgument, "size {}: expected a multiple of {} bytes", bytes, 16 * report.ranks);
  const i64 most = *std::max_element(options.bytes.begin(), options.bytes.end());
  const size_t arena_bytes = size_t(std::max(i64(2) << 30, 12 * most + (i64(256) << 20)));
  WEFT_TRY(fill_report(report, arena_bytes, [&](CudaCommunicator& comm, cudaStream_t stream, CudaBenchReport& mine) {
    return RankBench(comm, stream, options).run(mine);
  }));
  return report;
}

}  // namespace weft
