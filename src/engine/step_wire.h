// How plans, masks and results travel between an engine and the leader of its ranks: frames over a stream socket.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "engine/executor.h"

namespace weft {

enum class StepFrame : u32 {
  kHello = 1,  // leader: ExecutorInfo
  kPlan,       // engine: StepPlan
  kMasks,      // engine: sequence and SampleMasks
  kResult,     // leader: StepResult
};

// Both processes run on one host and one build: integers lie as in memory, and a version guards the layout.
std::string encode_info(const ExecutorInfo& info);
std::string encode_step(const StepPlan& plan);
std::string encode_masks(u64 sequence, const std::vector<SampleMask>& masks);
std::string encode_result(const StepResult& result);
// Errors: kDataLoss naming the field that the bytes do not hold.
Result<ExecutorInfo> decode_info(std::string_view bytes);
Result<StepPlan> decode_step(std::string_view bytes);
Result<MasksOfStep> decode_masks(std::string_view bytes);
Result<StepResult> decode_result(std::string_view bytes);

struct StepMessage {
  StepFrame kind;
  std::string payload;
};
// Blocks until all is sent. Errors: kUnavailable when the peer is gone; kDeadlineExceeded.
Status send_frame(const Fd& socket, StepFrame kind, std::string_view payload, Deadline deadline);
// Blocks until a whole frame is there. Errors: kUnavailable "... closed the connection" at the end of the stream;
// kDeadlineExceeded; kDataLoss for bytes that are no frame of this version.
Result<StepMessage> receive_frame(const Fd& socket, Deadline deadline);

}  // namespace weft
