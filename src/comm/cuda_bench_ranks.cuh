// How benchmarks of many ranks begin and end: a Report has device, ranks, rows and whatever else its ranks fill in.
#pragma once
#include <string>

#include "comm/cuda_testing.cuh"

namespace weft {

// A report for `asked` ranks (see bench_ranks()) on this GPU. Errors: no GPU; kInvalidArgument for fewer than 2 ranks.
template <class Report>
Result<Report> begin_report(const std::string& op, int asked) {
  Report report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  report.ranks = bench_ranks(asked);
  if (report.ranks < 2) return error(Code::kInvalidArgument, "{} takes 2 ranks or more, found {}", op, report.ranks);
  return report;
}

// Calls work(communicator, stream, its own report) on every rank. What they fill in is alike but for traces: `report`
// becomes that of a rank of this process, with the traces of all of its ranks.
template <class Report, class Work>
Status fill_report(Report& report, size_t arena_bytes, Work&& work) {
  std::vector<Report> reports(size_t(report.ranks), report);
  WEFT_TRY(run_gpu_ranks(
      report.ranks,
      [&](CudaCommunicator& comm, cudaStream_t stream) { return work(comm, stream, reports[size_t(comm.rank())]); },
      {.arena_bytes = arena_bytes}));
  report = reports[size_t(std::min(gpu_ranks().rank(), report.ranks - 1))];
  if constexpr (requires { report.traces; }) {
    report.traces.clear();
    for (const Report& rank : reports)
      report.traces.insert(report.traces.end(), rank.traces.begin(), rank.traces.end());
  }
  return {};
}

}  // namespace weft
