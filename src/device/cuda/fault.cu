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

FaultSink FaultLog::sink(const char* op) {
  u32 index = 0;
  while (index < num_ops_ && std::strcmp(ops_[index], op) != 0) ++index;
  if (index == num_ops_) {
    WEFT_CHECK(num_ops_ < kMaxOps, op);
    ops_[num_ops_++] = op;
  }
  FaultSink sink = sink_;
  sink.op = index;
  return sink;
}

Status FaultLog::reason() const {
  if (!faulted()) return {};
  const FaultRecord& record = *record_.as<FaultRecord>();
  const std::string whom = record.wait.peer < 0 ? "any rank" : fmt::format("rank {}", int(record.wait.peer));
  return error(Code::kDeadlineExceeded,
               "rank {}: {}: waited {:.2f} s for epoch {} of {}, saw {} (CTA {}, lane {}, arena offset {})",
               record.rank, record.op < num_ops_ ? ops_[record.op] : "?", double(record.waited_ns) * 1e-9,
               record.wait.epoch, whom, record.seen, record.cta, record.lane, record.wait.offset);
}

}  // namespace weft
