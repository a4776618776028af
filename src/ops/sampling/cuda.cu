#include <algorithm>

#include "base/divide.h"
#include "device/cuda/runtime.cuh"
#include "ops/sampling/cuda_kernel.cuh"
#include "ops/sampling/sampling.cuh"

namespace weft {
namespace {

using namespace sampling;

static_assert(kSharedBytes + kCudaSampleMostTokens / RowCtas::kCount * 4 <= 227 << 10);

// How many clusters of this shape the current device runs at once.
Result<int> resident_clusters(const char* name, const void* kernel, const LaunchShape& shape) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {unsigned(shape.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  WEFT_TRY(cuda_status(cudaOccupancyMaxActiveClusters(&count, kernel, &config), name));
  return count;
}

template <class T>
Status sample_as(cudaStream_t stream, const Params& params) {
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run([&] {
    return prepare_kernel("sample", reinterpret_cast<const void*>(sample_kernel<T>),
                          kSharedBytes + kCudaSampleMostTokens / RowCtas::kCount * sizeof(float));
  }));
  // As many clusters as the GPU runs at once take the rows in turn.
  const LaunchShape one{.grid = RowCtas::kCount,
                        .block = kThreads,
                        .shared_bytes = kSharedBytes + size_t(params.slice) * sizeof(float),
                        .cluster = RowCtas::kCount};
  WEFT_ASSIGN(const int most, resident_clusters("sample", reinterpret_cast<const void*>(sample_kernel<T>), one));
  LaunchShape shape = one;
  shape.grid.x *= unsigned(std::min(params.count, std::max(most, 1)));
  return launch("sample", sample_kernel<T>, shape, stream, params);
}

}  // namespace

Status cuda_sample(cudaStream_t stream, const CudaSampleArgs& args) {
  WEFT_TRY(expect_cuda_floats("logits", args.logits, {-1, -1}));
  const i64 rows = args.logits.dim(0), vocab = args.logits.dim(1);
  WEFT_TRY(expect_cuda_tensor("tokens", args.tokens, DType::kI32, {rows}));
  if (rows == 0) return {};
  if (vocab < 1 || vocab > kCudaSampleMostTokens)
    return error(Code::kInvalidArgument, "logits: expected 1 to {} tokens, found {}", kCudaSampleMostTokens, vocab);
  if (args.rows == nullptr)
    return error(Code::kInvalidArgument, "rows: expected {} in device memory, found null", rows);
  const Params params{.logits = args.logits.data,
                      .rows = args.rows,
                      .tokens = args.tokens.as<i32>(),
                      .logits_stride = args.logits.byte_strides[0],
                      .count = i32(rows),
                      .vocab = i32(vocab),
                      .slice = i32(round_up(divide_up(vocab, RowCtas::kCount), kStep)),
                      .eight = allows_eight(args.logits)};
  if (args.logits.dtype == DType::kBF16) return sample_as<bf16>(stream, params);
  if (args.logits.dtype == DType::kF16) return sample_as<f16>(stream, params);
  return sample_as<float>(stream, params);
}

Status cuda_sample_status(i32 token, i64 row) {
  switch (token) {
    case kLogitsNan: return error(Code::kDataLoss, "logits: NaN in row {}", row);
    case kLogitsInfinite: return error(Code::kDataLoss, "logits: infinity in row {}", row);
    case kNothingFinite: return error(Code::kDataLoss, "logits: no finite value in row {}", row);
    case kTokenOutside:
      return error(Code::kInvalidArgument, "bias or counts: a token outside the vocabulary, row {}", row);
    default: return {};
  }
}

}  // namespace weft
