// Launches of kernels that work row by row.
#pragma once
#include <algorithm>

#include "device/cuda/rows.cuh"
#include "device/cuda/runtime.cuh"

namespace weft {

// Where fewer CTAs do, at most as many as the current device runs at once.
template <class Params>
Status launch_rows(cudaStream_t stream, const Result<RowLaunch<Params>>& made) {
  WEFT_TRY(made.status());
  const RowLaunch<Params>& rows = *made;
  i64 ctas = rows.ctas;
  if (ctas == 0) return {};
  if (rows.loops) {
    int device = 0, sms = 0, per_sm = 0;
    WEFT_CUDA_TRY(cudaGetDevice(&device));
    WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    WEFT_TRY(cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                             &per_sm, reinterpret_cast<const void*>(rows.kernel), rows.threads, 0),
                         rows.name));
    ctas = std::min<i64>(ctas, i64(sms) * std::max(per_sm, 1));
  }
  return launch(rows.name, rows.kernel, {.grid = unsigned(ctas), .block = unsigned(rows.threads), .early = rows.early},
                stream, rows.params);
}

}  // namespace weft
