#include <cstring>

#include "device/cuda/fault.cuh"

namespace weft {

Result<FaultLog> FaultLog::create(u32 rank, u64 timeout_ns) {
  FaultLog log;
  WEFT_ASSIGN(log.record_, HostBuffer::create(sizeof(FaultRecord)));
  WEFT_ASSIGN(log.claim_, DeviceBuffer::create(sizeof(u32)));
  WEFT_CUDA_TRY(cudaMemset(log.claim_.data(), 0, sizeof(u32)));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));  // a memset of device memory returns before it is done
  log.sink_ = {log.record_.as<FaultRecord>(), log.claim_.as<u32>(), rank, 0, timeout_ns, {}};
  return std::move(log);
}

FaultSink FaultLog::sink(const char* op, const std::vector<int>& ranks) {
  size_t index = 0;
  while (index < ops_.size() && (std::strcmp(ops_[index].name, op) != 0 || ops_[index].ranks != ranks)) ++index;
  if (index == ops_.size()) {
    WEFT_CHECK(index < kMaxOps, op);
    ops_.push_back({op, ranks});
  }
  FaultSink sink = sink_;
  sink.op = u32(index);
  return sink;
}

std::vector<std::string> FaultLog::ops() const {
  std::vector<std::string> names;
  for (const Op& op : ops_) names.emplace_back(op.name);
  return names;
}

Status FaultLog::reason() const {
  if (!faulted()) return {};
  const FaultRecord& record = *record_.as<FaultRecord>();
  const Op op = record.op < ops_.size() ? ops_[record.op] : Op{"?", {}};
  const size_t peer = size_t(record.wait.peer);
  const std::string whom =
      record.wait.peer < 0 ? "any rank" : fmt::format("rank {}", peer < op.ranks.size() ? op.ranks[peer] : int(peer));
  return error(Code::kDeadlineExceeded,
               "rank {}: {}: waited {:.2f} s for epoch {} of {}, saw {} (CTA {}, lane {}, arena offset {})",
               record.rank, op.name, double(record.waited_ns) * 1e-9, record.wait.epoch, whom, record.seen, record.cta,
               record.lane, record.wait.offset);
}

}  // namespace weft
