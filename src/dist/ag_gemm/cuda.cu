#include "device/cuda/nvtx.cuh"
#include "device/cuda/tensor_map.cuh"
#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/ag_gemm/cuda_sm90.cuh"
#include "dist/exchange/fused_choice.cuh"
#include "dist/exchange/fused_element.cuh"
#include "dist/exchange/fused_tuner.cuh"
#include "dist/exchange/plan.h"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "ag_gemm";

// Calls f with the configuration of `tile` and the type; exactly cuda_ag_gemm_tiles().
template <class F>
Status with_config(DType dtype, const GemmTileShape& tile, F&& f) {
  return with_fused_element(dtype, [&](auto element) {
    using T = decltype(element);
    if (tile == GemmTileShape{128, 200, 4, true}) return f(sm90::GemmConfig<128, 200, 4, T, true>{});
    if (tile == GemmTileShape{128, 192, 4, true}) return f(sm90::GemmConfig<128, 192, 4, T, true>{});
    if (tile == GemmTileShape{128, 176, 4, true}) return f(sm90::GemmConfig<128, 176, 4, T, true>{});
    if (tile == GemmTileShape{128, 160, 5, true}) return f(sm90::GemmConfig<128, 160, 5, T, true>{});
    WEFT_CHECK((tile == GemmTileShape{128, 128, 5}), tile.m, tile.n, tile.stages);
    return f(sm90::GemmConfig<128, 128, 5, T>{});
  });
}

template <class Config>
auto kernel_of() {
  return sm90::gemm_sm90_kernel<Config, ag::Params<Config>>;
}

}  // namespace

Result<CudaAgGemm> CudaAgGemm::create(CudaCommunicator& comm, const CudaAgGemmShape& shape,
                                      const CudaFusedOptions& options) {
  if (shape.max_m < 0 || shape.max_m > i64(1) << 24 || shape.k < 8 || shape.k % 8 != 0 || shape.k > i64(1) << 24)
    return error(Code::kInvalidArgument, "{}: max_m, k: expected 0 to 2^24 and a multiple of 8 to 2^24, found {}, {}",
                 kOp, shape.max_m, shape.k);
  WEFT_TRY(expect_fused_element(kOp, shape.dtype));
  CudaAgGemm op(comm, shape);
  WEFT_ASSIGN(op.choice_, choose_fused(kOp, comm, options));
  op.constant_w_ = options.constant_w;
  WEFT_TRY(expect_sm90(kOp));
  if (comm.size() > 1 && shape.max_m > 0) WEFT_TRY(op.allocate());
  return std::move(op);
}

Status CudaAgGemm::allocate() {
  // Before the collective allocation, which waits for all ranks: a lazy load may wait for a kernel that waits.
  for (const GemmTileShape& tile : cuda_ag_gemm_tiles())
    WEFT_TRY(with_config(shape_.dtype, tile, [](auto config) {
      using Config = decltype(config);
      return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<Config>()), Config::kSharedBytes);
    }));
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_ASSIGN(auto chain, CopyChain::create());
  chain_ = std::make_unique<CopyChain>(std::move(chain));
  const int ranks = comm_->size();
  split_rows_ = choice_.most_rows(FusedVariant::kSplit, shape_.max_m, ranks);
  push_rows_ = choice_.most_rows(FusedVariant::kPush, shape_.max_m, ranks);
  copy_rows_ = choice_.most_rows(FusedVariant::kCopy, shape_.max_m, ranks);
  const i64 row_bytes = shape_.k * 2;
  const i64 flags = flags_per_source(cuda_ag_gemm_flags((push_rows_ + ranks - 1) / ranks, shape_.k));
  SymmetricLayout layout;
  const FusedLayout fused(layout, ranks, kFlagsPerLine);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 pushed = layout.reserve<std::byte>(2 * push_rows_ * row_bytes);
  const i64 copied = layout.reserve<std::byte>(copy_rows_ * row_bytes);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  words_ = fused.at(base);
  arrived_ = {layout.at<u32>(base, arrived), flags};
  pushed_ = layout.at<std::byte>(base, pushed);
  copied_ = layout.at<std::byte>(base, copied);
  WEFT_TRY(prepare_few());
  if (split_rows_ == 0) return {};
  WEFT_ASSIGN(gathered_, DeviceBuffer::create(size_t(split_rows_ * row_bytes)));
  WEFT_ASSIGN(auto gather,
              CudaAllGather::create(*comm_, {.max_bytes_per_rank = (split_rows_ + ranks - 1) / ranks * row_bytes}));
  gather_ = std::make_unique<CudaAllGather>(std::move(gather));
  return {};
}

Status CudaAgGemm::run(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y) {
  const NvtxRange range{kOp};
  if (m < 0 || m > shape_.max_m)
    return error(Code::kInvalidArgument, "{}: m = {}: expected 0 to max_m = {}", kOp, m, shape_.max_m);
  WEFT_TRY(expect_cuda_matrix("ag_gemm: x", x, {split_range(m, comm_->size(), comm_->rank()).size(), shape_.k},
                              shape_.dtype));
  WEFT_TRY(expect_cuda_matrix("ag_gemm: w", w, {-1, shape_.k}, shape_.dtype));
  WEFT_TRY(expect_cuda_matrix("ag_gemm: y", y, {m, w.dim(0)}, shape_.dtype));
  if (w.dim(0) % 8 != 0 || w.dim(0) > i64(1) << 24)
    return error(Code::kInvalidArgument, "{}: w {}: the rows must be divisible by 8 and at most 2^24", kOp,
                 w.describe());
  WEFT_TRY(comm_->status());
  if (m == 0) return {};
  if (comm_->size() == 1) return cuda_gemm(stream, {x, w, y});
  const int ranks = comm_->size();
  const CudaAgGemmPlan plan = plan_cuda_ag_gemm(m, w.dim(0), shape_.k, ranks, comm_->max_ctas(), choice_.at(m, ranks));
  if (plan.variant == FusedVariant::kSplit) return run_split(stream, x, m, w, y);
  return plan.few ? run_few(stream, x, m, w, y) : run_fused(stream, x, m, w, y, plan);
}

Result<std::vector<TunedVariant>> CudaAgGemm::tune(CudaCommunicator& comm, const CudaAgGemmShape& shape, i64 n,
                                                   TuningCache* cache) {
  const auto make = [&](CudaCommunicator& own, const CudaFusedOptions& options) -> Result<FusedCall> {
    WEFT_ASSIGN(auto made, create(own, shape, options));
    auto op = std::make_shared<CudaAgGemm>(std::move(made));
    WEFT_ASSIGN(auto x, random_elements(shape.dtype, split_range(shape.max_m, own.size(), 0).size() * shape.k));
    WEFT_ASSIGN(auto w, random_elements(shape.dtype, n * shape.k));
    WEFT_ASSIGN(auto y, random_elements(shape.dtype, shape.max_m * n));
    return FusedCall([=, &own](cudaStream_t stream, i64 m) {
      const i64 mine = split_range(m, own.size(), own.rank()).size();
      return op->run(stream, x->rows(mine, shape.k), m, w->rows(n, shape.k), y->rows(m, n));
    });
  };
  return tune_fused(comm, {kOp, fmt::format("n {} k {}", n, shape.k), shape.max_m, shape.dtype}, cache, make);
}

Status CudaAgGemm::run_split(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w,
                             const TensorView& y) {
  WEFT_CHECK(m <= split_rows_, m, split_rows_);
  const TensorView all = dense_rows(gathered_.data(), m);
  TensorView shard = x;
  if (!x.is_dense()) {
    const Range rows = split_range(m, comm_->size(), comm_->rank());
    shard = dense_rows(gathered_.as<std::byte>() + rows.begin * shape_.k * 2, rows.size());
    WEFT_CUDA_TRY(cudaMemcpy2DAsync(shard.data, size_t(shape_.k) * 2, x.data, size_t(x.byte_strides[0]),
                                    size_t(shape_.k) * 2, size_t(rows.size()), cudaMemcpyDefault, stream));
  }
  WEFT_TRY(gather_->run(stream, shard, all));
  return cuda_gemm(stream, {.x = all, .w = w, .y = y, .sms = comm_->sm_budget()});
}

Status CudaAgGemm::run_fused(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y,
                             const CudaAgGemmPlan& plan) {
  WEFT_CHECK(m <= (plan.variant == FusedVariant::kPush ? push_rows_ : copy_rows_), m, push_rows_, copy_rows_);
  const bool chained = plan.variant == FusedVariant::kCopy;
  if (chained) WEFT_TRY(chain_->fork(stream));
  WEFT_TRY(with_config(shape_.dtype, plan.gemm.tile,
                       [&](auto config) { return launch_fused<decltype(config)>(stream, x, m, w, y, plan); }));
  if (!chained) return {};
  WEFT_TRY(chain_->copy_to_peers(*comm_, "ag_gemm: copies", words_.chain, copied_, x, m));
  return chain_->join(stream);
}

template <class Config>
Status CudaAgGemm::launch_fused(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w,
                                const TensorView& y, const CudaAgGemmPlan& plan) {
  const bool push = plan.variant == FusedVariant::kPush;
  const int ranks = comm_->size(), k_blocks = int((shape_.k + Config::kBlock - 1) / Config::kBlock);
  const ag::Blocks blocks{RankRows(m, ranks), comm_->rank(), ranks};
  ag::Params<Config> params{};
  std::byte* gathered = comm_->at(push ? pushed_ : copied_, comm_->rank());
  WEFT_ASSIGN(params.source.gathered,
              bf16_tensor_map(dense_rows(gathered, push ? 2 * push_rows_ : copy_rows_), kAgBlockRows));
  params.source.own = params.source.gathered;  // without own rows or columns, what has none is not loaded from
  params.w = params.source.gathered;
  if (x.dim(0) > 0) {
    WEFT_ASSIGN(params.source.own, bf16_tensor_map(x, kAgBlockRows));
  }
  if (w.dim(0) > 0) {
    WEFT_ASSIGN(params.w, bf16_tensor_map(w, Config::kN));
  }
  params.k_blocks = k_blocks;
  params.schedule = {plan.gemm.tiles_m, plan.gemm.tiles_n, plan.gemm.group, plan.movers};
  params.source.blocks = blocks;
  params.source.half_rows = push ? int(push_rows_) : 0;
  params.source.blocks_per_flag = plan.blocks_per_flag;
  params.emit = {y.data, y.byte_strides[0], int(w.dim(0)), blocks};
  ag::Crew& crew = params.crew;
  crew.peers = comm_->peers(kOp);
  crew.words = words_;
  crew.chained = !push;
  crew.blocks = blocks;
  crew.movers = plan.movers;
  crew.chunks = (k_blocks + plan.blocks_per_flag - 1) / plan.blocks_per_flag;
  crew.chunk_bytes = plan.blocks_per_flag * Config::kBlock * 2;
  crew.row_bytes = int(shape_.k) * 2;
  crew.x = x.as<const std::byte>();
  crew.x_stride = x.byte_strides[0];
  crew.gather = pushed_;
  crew.half_bytes = push_rows_ * shape_.k * 2;
  crew.arrived = arrived_;
  return launch(
      kOp, kernel_of<Config>(),
      {.grid = unsigned(plan.movers + plan.gemm.ctas), .block = Config::kThreads, .shared_bytes = Config::kSharedBytes},
      stream, params);
}

}  // namespace weft
