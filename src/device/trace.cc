#include "device/trace.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace weft {
namespace {

constexpr const char* kNames[] = {"tile", "push", "ship", "wait", "kernel"};
constexpr u8 kPhases = std::size(kNames);

// Threads of a rank's trace: those of a CTA side by side.
u64 thread_id(const TraceSpan& span) {
  return u64(span.cta) * 1024 + span.thread;
}

}  // namespace

const char* trace_phase_name(TracePhase phase) {
  return u8(phase) < kPhases ? kNames[u8(phase)] : "?";
}

std::vector<TraceSpan> pair_marks(u32 cta, std::span<const TraceMark> ring, u64 count) {
  std::vector<TraceSpan> spans;
  std::map<std::pair<u16, u8>, std::vector<const TraceMark*>> open;
  for (u64 i = count > ring.size() ? count - ring.size() : 0; i < count; ++i) {
    const TraceMark& mark = ring[i % ring.size()];
    const u8 phase = mark.phase & u8(~TraceMark::kEnd);
    if (phase >= kPhases) continue;
    auto& begins = open[{mark.thread, phase}];
    if (!(mark.phase & TraceMark::kEnd)) {
      begins.push_back(&mark);
    } else if (!begins.empty()) {
      const TraceMark& begin = *begins.back();
      begins.pop_back();
      spans.push_back({begin.op, TracePhase(phase), cta, mark.thread, begin.arg, begin.ns, mark.ns});
    }
  }
  return spans;
}

Status write_trace(const std::string& path, std::span<const RankTrace> traces) {
  i64 first = std::numeric_limits<i64>::max();
  for (const RankTrace& trace : traces)
    for (const TraceSpan& span : trace.spans) first = std::min(first, i64(span.begin_ns) + trace.clock_offset_ns);
  std::ofstream file(path);
  const char* separator = "";
  const auto add = [&](const nlohmann::ordered_json& event) {
    file << separator << event.dump();
    separator = ",\n";
  };
  file << "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n";
  for (const RankTrace& trace : traces) {
    add({{"ph", "M"},
         {"name", "process_name"},
         {"pid", trace.rank},
         {"args", {{"name", fmt::format("rank {} ({})", trace.rank, trace.device)}}}});
    std::set<u64> threads;
    for (const TraceSpan& span : trace.spans) {
      const u64 id = thread_id(span);
      if (threads.insert(id).second) {
        add({{"ph", "M"},
             {"name", "thread_name"},
             {"pid", trace.rank},
             {"tid", id},
             {"args", {{"name", fmt::format("CTA {} thread {}", span.cta, span.thread)}}}});
      }
      const i64 begin = i64(span.begin_ns) + trace.clock_offset_ns - first;
      add({{"ph", "X"},
           {"name", trace_phase_name(span.phase)},
           {"cat", span.op < trace.ops.size() ? trace.ops[span.op] : "?"},
           {"pid", trace.rank},
           {"tid", id},
           {"ts", double(begin) * 1e-3},
           {"dur", double(span.end_ns - span.begin_ns) * 1e-3},
           {"args", {{"arg", span.arg}}}});
    }
  }
  file << "\n]}\n";
  if (!file.flush()) return error(Code::kIo, "trace {}: cannot write", path);
  return {};
}

}  // namespace weft
