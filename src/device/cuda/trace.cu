#include "device/cuda/trace.cuh"

namespace weft {

Result<TraceLog> TraceLog::create() {
  TraceLog log;
  WEFT_ASSIGN(log.marks_, DeviceBuffer::create(size_t(TraceSink::kCtas) * TraceSink::kMarks * sizeof(TraceMark)));
  WEFT_ASSIGN(log.counts_, DeviceBuffer::create(TraceSink::kCtas * sizeof(u32)));
  WEFT_CUDA_TRY(cudaMemset(log.counts_.data(), 0, log.counts_.bytes()));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));  // a memset of device memory returns before it is done
  return std::move(log);
}

Result<std::vector<TraceSpan>> TraceLog::read() const {
  std::vector<u32> counts(TraceSink::kCtas);
  std::vector<TraceMark> ring(TraceSink::kMarks);
  std::vector<TraceSpan> spans;
  WEFT_CUDA_TRY(cudaMemcpy(counts.data(), counts_.data(), counts_.bytes(), cudaMemcpyDefault));
  for (u32 cta = 0; cta < TraceSink::kCtas; ++cta) {
    if (counts[cta] == 0) continue;
    WEFT_CUDA_TRY(cudaMemcpy(ring.data(), marks_.as<TraceMark>() + size_t(cta) * TraceSink::kMarks,
                             ring.size() * sizeof(TraceMark), cudaMemcpyDefault));
    const auto paired = pair_marks(cta, ring, counts[cta]);
    spans.insert(spans.end(), paired.begin(), paired.end());
  }
  return spans;
}

}  // namespace weft
