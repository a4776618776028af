#include "device/cuda/nvtx.cuh"
#include "device/cuda/tensor_map.cuh"
#include "dist/ag_moe/ag_moe.cuh"
#include "dist/ag_moe/cuda_sm90.cuh"
#include "dist/exchange/fused_element.cuh"
#include "dist/exchange/plan.h"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "ag_moe";

// Calls f with the configuration of `tile` and the type; exactly grouped_gemm_tile_shapes().
template <class T, bool Gated, class F>
Status with_tile(const GemmTileShape& tile, F&& f) {
  if (tile == GemmTileShape{128, 192, 4, true}) return f(ag_moe::Config<T, 128, 192, 4, true, Gated>{});
  WEFT_CHECK((tile == GemmTileShape{128, 64, 8}), tile.m, tile.n, tile.stages);
  return f(ag_moe::Config<T, 128, 64, 8, false, Gated>{});
}
template <class F>
Status with_config(DType dtype, const GemmTileShape& tile, bool gated, F&& f) {
  return with_fused_element(dtype, [&](auto element) {
    using T = decltype(element);
    return gated ? with_tile<T, true>(tile, f) : with_tile<T, false>(tile, f);
  });
}

template <class Config>
auto kernel_of() {
  return sm90::gemm_sm90_kernel<Config, ag_moe::Params<Config>>;
}

}  // namespace

Result<CudaAgMoe> CudaAgMoe::create(CudaCommunicator& comm, const CudaAgMoeShape& shape,
                                    const CudaFusedOptions& options) {
  if (shape.max_m < 0 || shape.max_m > i64(1) << 24 || shape.k < 8 || shape.k % 8 != 0 || shape.k > i64(1) << 24)
    return error(Code::kInvalidArgument, "{}: max_m, k: expected 0 to 2^24 and a multiple of 8 to 2^24, found {}, {}",
                 kOp, shape.max_m, shape.k);
  WEFT_TRY(expect_fused_element(kOp, shape.dtype));
  CudaAgMoe op(comm, shape);
  WEFT_ASSIGN(op.forced_, parse_fused_variant(kOp, options.variant));
  if (op.forced_ == FusedVariant::kCopy)
    return error(Code::kInvalidArgument, "{}: variant: expected auto, split or push, found 'copy'", kOp);
  WEFT_TRY(expect_sm90(kOp));
  if (comm.size() > 1 && shape.max_m > 0) WEFT_TRY(op.allocate());
  return std::move(op);
}

Status CudaAgMoe::allocate() {
  // Before the collective allocation, which waits for all ranks: a lazy load may wait for a kernel that waits.
  for (const GemmTileShape& tile : grouped_gemm_tile_shapes())
    for (const bool gated : {false, true})
      WEFT_TRY(with_config(shape_.dtype, tile, gated, [](auto config) {
        using Config = decltype(config);
        return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<Config>()), Config::kSharedBytes);
      }));
  WEFT_TRY(prepare_cuda_grouped_gemm());
  const int ranks = comm_->size();
  const bool any = forced_ == FusedVariant::kAuto;
  if (forced_ == FusedVariant::kSplit) split_rows_ = shape_.max_m;
  if (forced_ == FusedVariant::kPush) push_rows_ = shape_.max_m;
  if (any) {
    split_rows_ = ag_moe_pushes(shape_.max_m) ? kAgMoePushLeast - 1 : shape_.max_m;
    push_rows_ = shape_.max_m < kAgMoePushLeast ? 0 : std::min(shape_.max_m, kAgMoePushMost);
  }
  const i64 row_bytes = shape_.k * 2;
  const i64 flags = flags_per_source(cuda_ag_moe_flags(shape_.k));
  SymmetricLayout layout;
  const FusedLayout fused(layout, ranks, kFlagsPerLine);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 pushed = layout.reserve<std::byte>(2 * push_rows_ * row_bytes);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  words_ = fused.at(base);
  arrived_ = {layout.at<u32>(base, arrived), flags};
  pushed_ = layout.at<std::byte>(base, pushed);
  if (split_rows_ == 0) return {};
  WEFT_ASSIGN(gathered_, DeviceBuffer::create(size_t(split_rows_ * row_bytes)));
  WEFT_ASSIGN(auto gather,
              CudaAllGather::create(*comm_, {.max_bytes_per_rank = (split_rows_ + ranks - 1) / ranks * row_bytes}));
  gather_ = std::make_unique<CudaAllGather>(std::move(gather));
  return {};
}

Status CudaAgMoe::run(cudaStream_t stream, const CudaAgMoeArgs& args) {
  const NvtxRange range{kOp};
  const i64 m = args.m;
  if (m < 0 || m > shape_.max_m)
    return error(Code::kInvalidArgument, "{}: m = {}: expected 0 to max_m = {}", kOp, m, shape_.max_m);
  const int ranks = comm_->size();
  WEFT_TRY(
      expect_cuda_matrix("ag_moe: x", args.x, {split_range(m, ranks, comm_->rank()).size(), shape_.k}, shape_.dtype));
  if (args.map.data == nullptr) return error(Code::kInvalidArgument, "{}: map: missing", kOp);
  const CudaGroupedGemmArgs gemm{.x = args.x,
                                 .map = args.map,
                                 .offsets = args.offsets,
                                 .w = args.w,
                                 .y = args.y,
                                 .swiglu = args.swiglu,
                                 .early = early()};
  WEFT_TRY(check_cuda_grouped_gemm(gemm).with_context(kOp));
  const i64 experts = args.w.dim(0), n = args.w.dim(1), rows = args.y.dim(0);
  WEFT_TRY(comm_->status());
  if (m == 0 || rows == 0) return {};
  if (ranks == 1) return cuda_grouped_gemm(stream, gemm);
  const CudaAgMoePlan plan = plan_cuda_ag_moe({m, rows, experts, n, shape_.k}, ranks, comm_->max_ctas(), forced_);
  if (plan.variant == FusedVariant::kSplit) return run_split(stream, args);
  return with_config(shape_.dtype, plan.gemm.tile, args.swiglu,
                     [&](auto config) { return run_push<decltype(config)>(stream, args, plan); });
}

Status CudaAgMoe::run_split(cudaStream_t stream, const CudaAgMoeArgs& args) {
  WEFT_CHECK(args.m <= split_rows_, args.m, split_rows_);
  const TensorView all = dense_rows(gathered_.data(), args.m);
  TensorView shard = args.x;
  if (!shard.is_dense()) {
    const Range rows = split_range(args.m, comm_->size(), comm_->rank());
    shard = dense_rows(gathered_.as<std::byte>() + rows.begin * shape_.k * 2, rows.size());
    WEFT_CUDA_TRY(cudaMemcpy2DAsync(shard.data, size_t(shape_.k) * 2, args.x.data, size_t(args.x.byte_strides[0]),
                                    size_t(shape_.k) * 2, size_t(rows.size()), cudaMemcpyDefault, stream));
  }
  WEFT_TRY(gather_->run(stream, shard, all));
  return cuda_grouped_gemm(stream, {.x = all,
                                    .map = args.map,
                                    .offsets = args.offsets,
                                    .w = args.w,
                                    .y = args.y,
                                    .sms = comm_->max_ctas(),
                                    .swiglu = args.swiglu,
                                    .early = early()});
}

template <class Config>
Status CudaAgMoe::run_push(cudaStream_t stream, const CudaAgMoeArgs& args, const CudaAgMoePlan& plan) {
  WEFT_CHECK(args.m <= push_rows_, args.m, push_rows_);
  const int ranks = comm_->size(), rank = comm_->rank();
  const i64 experts = args.w.dim(0), n = args.w.dim(1), k = shape_.k;
  const int k_blocks = int((k + Config::kBlock - 1) / Config::kBlock);
  ag_moe::Params<Config> params{};
  // Without columns there is no tile, and nothing is loaded from the map.
  const TensorView weights =
      n > 0 ? dense_rows(args.w.data, experts * n) : dense_rows(comm_->at(pushed_, rank), args.m);
  WEFT_ASSIGN(params.w, bf16_tensor_map(weights, Config::kColumns));
  params.k_blocks = k_blocks;
  params.schedule = {args.offsets.as<const i32>(), int(experts), int(n), plan.gemm.tiles_n, plan.movers};
  params.emit = {args.y.data, args.y.byte_strides[0], int(args.y.dim(1))};
  ag_moe::Crew<Config>& crew = params.crew;
  crew.peers = comm_->peers(kOp);
  crew.words = words_;
  crew.chained = false;
  crew.tokens = RankRows(args.m, ranks);
  crew.movers = plan.movers;
  crew.parts = plan.parts;
  crew.chunks = (k_blocks + plan.blocks_per_chunk - 1) / plan.blocks_per_chunk;
  crew.blocks_per_chunk = plan.blocks_per_chunk;
  crew.k = int(k);
  crew.k_blocks = k_blocks;
  crew.x = args.x.as<const std::byte>();
  crew.x_stride = args.x.byte_strides[0];
  crew.map = args.map.as<const i32>();
  crew.gather = pushed_;
  crew.half_bytes = push_rows_ * k * 2;
  crew.arrived = arrived_;
  return launch(kOp, kernel_of<Config>(),
                {.grid = unsigned(plan.movers + plan.gemm.ctas),
                 .block = Config::kThreads,
                 .shared_bytes = Config::kSharedBytes,
                 .early = early()},
                stream, params);
}

}  // namespace weft
