// Traces of kernels: marks that CTAs write while they run, paired into spans and written as one picture of all ranks
// for ui.perfetto.dev. This half needs no GPU; device/cuda/trace.cuh writes the marks.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

enum class TracePhase : u8 {
  kTile,    // a GEMM's multiplier: main loop and store of one tile; arg = turn
  kPush,    // rows leave for the peers; arg = piece
  kShip,    // a tile of products leaves for its owner; arg = owner
  kWait,    // a wait for another rank that did not succeed at once; arg = rank
  kKernel,  // a CTA from its first instruction to its last
};
const char* trace_phase_name(TracePhase phase);

// One moment of one thread. 16 bytes, which one store writes.
struct TraceMark {
  static constexpr u8 kEnd = 0x80;
  u64 ns;      // the GPU's clock
  u32 arg;     // what the phase says
  u16 thread;  // in its CTA
  u8 phase;    // TracePhase, + kEnd
  u8 op;       // which operator: index in the names of FaultLog
};
static_assert(sizeof(TraceMark) == 16);

struct TraceSpan {
  u8 op;
  TracePhase phase;
  u32 cta;
  u16 thread;
  u32 arg;
  u64 begin_ns, end_ns;
};

// The spans of CTA `cta` from its ring: `count` marks were written, the last ring.size() of them are kept, mark i at
// ring[i % ring.size()]. An end without its begin, and a begin without its end, are left out. Ends close the latest
// begin of their thread and phase.
std::vector<TraceSpan> pair_marks(u32 cta, std::span<const TraceMark> ring, u64 count);

// Spans of one rank, on its own clock.
struct RankTrace {
  int rank = 0;
  std::string device;            // name of its GPU
  i64 clock_offset_ns = 0;       // what to add to its times to have rank 0's
  std::vector<std::string> ops;  // names, by TraceSpan::op
  std::vector<TraceSpan> spans;
};

// Writes all ranks' spans to `path` in Chrome's JSON trace format, which ui.perfetto.dev and chrome://tracing open: a
// process per rank, a thread per thread that marked. A rank may come several times. Time 0 is the earliest span's
// begin. Errors: kIo.
Status write_trace(const std::string& path, std::span<const RankTrace> traces);

}  // namespace weft
