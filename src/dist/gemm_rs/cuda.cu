#include "device/cuda/nvtx.cuh"
#include "device/cuda/tensor_map.cuh"
#include "dist/exchange/fused_choice.cuh"
#include "dist/exchange/fused_element.cuh"
#include "dist/exchange/fused_tuner.cuh"
#include "dist/exchange/plan.h"
#include "dist/gemm_rs/cuda_sm90.cuh"
#include "dist/gemm_rs/gemm_rs.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_rs";

// Calls f with the configuration of `tile` and the type; exactly cuda_gemm_rs_tiles().
template <class F>
Status with_config(DType dtype, const GemmTileShape& tile, F&& f) {
  return with_fused_element(dtype, [&](auto element) {
    using T = decltype(element);
    if (tile == GemmTileShape{128, 160, 5, true}) return f(sm90::GemmConfig<128, 160, 5, T, true>{});
    if (tile == GemmTileShape{128, 128, 5, true}) return f(sm90::GemmConfig<128, 128, 5, T, true>{});
    if (tile == GemmTileShape{128, 160, 5}) return f(sm90::GemmConfig<128, 160, 5, T>{});
    WEFT_CHECK((tile == GemmTileShape{128, 128, 5}), tile.m, tile.n, tile.stages);
    return f(sm90::GemmConfig<128, 128, 5, T>{});
  });
}

template <class Config>
auto kernel_of() {
  return sm90::gemm_sm90_kernel<Config, rs::Params<Config>>;
}

}  // namespace

Result<CudaGemmRs> CudaGemmRs::create(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                      const CudaFusedOptions& options) {
  for (const i64 extent : {shape.max_m, shape.n, shape.k})
    if (extent < 0 || extent > i64(1) << 24)
      return error(Code::kInvalidArgument, "{}: max_m, n, k: expected 0 to 2^24, found {}, {}, {}", kOp, shape.max_m,
                   shape.n, shape.k);
  if (shape.n % 8 != 0 || shape.k % 8 != 0 || shape.k == 0)
    return error(Code::kInvalidArgument, "{}: n, k: expected multiples of 8, k above 0, found {}, {}", kOp, shape.n,
                 shape.k);
  WEFT_TRY(expect_fused_element(kOp, shape.dtype));
  CudaGemmRs op(comm, shape);
  WEFT_ASSIGN(op.choice_, choose_fused(kOp, comm, options));
  op.constant_w_ = options.constant_w;
  WEFT_TRY(expect_sm90(kOp));
  if (comm.size() > 1 && shape.max_m > 0 && shape.n > 0) WEFT_TRY(op.allocate());
  return std::move(op);
}

Status CudaGemmRs::allocate() {
  // Before the collective allocation, which waits for all ranks: a lazy load may wait for a kernel that waits.
  for (const GemmTileShape& tile : cuda_gemm_rs_tiles())
    WEFT_TRY(with_config(shape_.dtype, tile, [](auto config) {
      using Config = decltype(config);
      return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<Config>()), Config::kSharedBytes);
    }));
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_ASSIGN(auto chain, CopyChain::create());
  chain_ = std::make_unique<CopyChain>(std::move(chain));
  const int ranks = comm_->size();
  const auto shard = [&](i64 rows) { return (rows + ranks - 1) / ranks; };
  split_rows_ = choice_.most_rows(FusedVariant::kSplit, shape_.max_m, ranks);
  push_rows_ = choice_.most_rows(FusedVariant::kPush, shape_.max_m, ranks);
  copy_rows_ = choice_.most_rows(FusedVariant::kCopy, shape_.max_m, ranks);
  few_rows_ = std::min(push_rows_, kFewRows);
  WEFT_TRY(prepare_few());
  push_slot_ = cuda_gemm_rs_slot_bytes(shard(push_rows_), shape_.n);
  copy_slot_ = cuda_gemm_rs_slot_bytes(shard(copy_rows_), shape_.n);
  const i64 done = flags_per_source(2 * comm_->max_ctas());
  const i64 flags = flags_per_source(2 * cuda_gemm_rs_slot_tiles(shard(push_rows_), shape_.n));
  SymmetricLayout layout;
  const FusedLayout fused(layout, ranks, flags_per_source(2 * kRsMostChunks));
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 delivered = layout.reserve<u32>(ranks * done);
  const i64 pushed = layout.reserve<std::byte>(2 * ranks * push_slot_);
  const i64 copied = layout.reserve<std::byte>(ranks * copy_slot_);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  words_ = fused.at(base);
  arrived_ = {layout.at<u32>(base, arrived), flags};
  delivered_ = {layout.at<u32>(base, delivered), done};
  pushed_ = layout.at<std::byte>(base, pushed);
  copied_ = layout.at<std::byte>(base, copied);
  if (copy_rows_ > 0) {
    WEFT_ASSIGN(parked_, DeviceBuffer::create(size_t((ranks - 1) * copy_slot_)));
    WEFT_ASSIGN(parked_count_, DeviceBuffer::create(size_t(ranks) * kRsMostChunks * sizeof(u32)));
    WEFT_CUDA_TRY(cudaMemset(parked_count_.data(), 0, parked_count_.bytes()));
    WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  }
  if (split_rows_ == 0) return {};
  WEFT_ASSIGN(product_, DeviceBuffer::create(size_t(split_rows_ * shape_.n) * 2));
  WEFT_ASSIGN(auto scatter,
              CudaReduceScatter::create(*comm_, {.max_rows = split_rows_, .columns = shape_.n, .dtype = shape_.dtype}));
  scatter_ = std::make_unique<CudaReduceScatter>(std::move(scatter));
  return {};
}

Status CudaGemmRs::run(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_cuda_matrix("gemm_rs: a", a, {-1, -1}, shape_.dtype));
  const i64 m = a.dim(0), k = a.dim(1);
  if (m > shape_.max_m || k > shape_.k || k == 0 || k % 8 != 0)
    return error(Code::kInvalidArgument,
                 "{}: a {}: expected at most max_m = {} rows and 8 to k = {} columns, in eights", kOp, a.describe(),
                 shape_.max_m, shape_.k);
  WEFT_TRY(expect_cuda_matrix("gemm_rs: w", w, {shape_.n, k}, shape_.dtype));
  WEFT_TRY(expect_cuda_matrix("gemm_rs: y", y, {split_range(m, comm_->size(), comm_->rank()).size(), shape_.n},
                              shape_.dtype));
  WEFT_TRY(expect_dense(kOp, "y", y));
  WEFT_TRY(comm_->status());
  if (m == 0 || shape_.n == 0) return {};
  if (comm_->size() == 1) return cuda_gemm(stream, {a, w, y});
  const CudaGemmRsPlan plan =
      plan_cuda_gemm_rs(m, shape_.n, shape_.k, comm_->size(), comm_->max_ctas(), choice_.at(m, comm_->size()));
  if (plan.few) return run_few(stream, a, w, y, false);
  return plan.variant == FusedVariant::kSplit ? run_split(stream, a, w, y)
                                              : run_fused(stream, {a, w, y, std::nullopt}, plan);
}

Result<std::vector<TunedVariant>> CudaGemmRs::tune(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                                   TuningCache* cache) {
  const auto make = [&](CudaCommunicator& own, const CudaFusedOptions& options) -> Result<FusedCall> {
    WEFT_ASSIGN(auto made, create(own, shape, options));
    auto op = std::make_shared<CudaGemmRs>(std::move(made));
    WEFT_ASSIGN(auto a, random_elements(shape.dtype, shape.max_m * shape.k));
    WEFT_ASSIGN(auto w, random_elements(shape.dtype, shape.n * shape.k));
    WEFT_ASSIGN(auto y, random_elements(shape.dtype, split_range(shape.max_m, own.size(), 0).size() * shape.n));
    return FusedCall([=, &own](cudaStream_t stream, i64 m) {
      const i64 mine = split_range(m, own.size(), own.rank()).size();
      return op->run(stream, a->rows(m, shape.k), w->rows(shape.n, shape.k), y->rows(mine, shape.n));
    });
  };
  return tune_fused(comm, {kOp, fmt::format("n {} k {}", shape.n, shape.k), shape.max_m, shape.dtype}, cache, make);
}

Status CudaGemmRs::run_to_all(cudaStream_t stream, const TensorView& a, const TensorView& w, sym<std::byte> y) {
  const i64 m = a.dim(0);
  const CudaGemmRsPlan plan =
      plan_cuda_gemm_rs(m, shape_.n, shape_.k, comm_->size(), comm_->max_ctas(), choice_.at(m, comm_->size()), true);
  WEFT_CHECK(comm_->size() > 1 && m > 0 && shape_.n > 0 && plan.variant != FusedVariant::kSplit && !plan.few, m,
             shape_.n);
  WEFT_TRY(comm_->status());
  const Range rows = split_range(m, comm_->size(), comm_->rank());
  const sym<std::byte> own = y + rows.begin * shape_.n * 2;
  const TensorView here =
      TensorView::dense(comm_->at(own, comm_->rank()), shape_.dtype, {rows.size(), shape_.n}, DeviceKind::kCuda);
  return run_fused(stream, {a, w, here, own}, plan);
}

Status CudaGemmRs::run_split(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y) {
  WEFT_CHECK(a.dim(0) <= split_rows_, a.dim(0), split_rows_);
  const TensorView product = TensorView::dense(product_.data(), shape_.dtype, {a.dim(0), shape_.n}, DeviceKind::kCuda);
  WEFT_TRY(cuda_gemm(stream, {.x = a, .w = w, .y = product, .sms = comm_->sm_budget()}));
  return scatter_->run(stream, product, y);
}

Status CudaGemmRs::run_fused(cudaStream_t stream, const Operands& operands, const CudaGemmRsPlan& plan) {
  const bool chained = plan.variant == FusedVariant::kCopy;
  const i64 m = operands.a.dim(0);
  WEFT_CHECK(m <= (chained ? copy_rows_ : push_rows_), m, push_rows_, copy_rows_);
  if (chained) WEFT_TRY(chain_->fork(stream));
  WEFT_TRY(with_config(shape_.dtype, plan.gemm.tile,
                       [&](auto config) { return launch_fused<decltype(config)>(stream, operands, plan); }));
  if (!chained) return {};
  WEFT_TRY(copy_to_peers(m, operands, plan));
  return chain_->join(stream);
}

template <class Config>
Status CudaGemmRs::launch_fused(cudaStream_t stream, const Operands& operands, const CudaGemmRsPlan& plan) {
  const auto& [a, w, y, everywhere] = operands;
  const bool chained = plan.variant == FusedVariant::kCopy;
  const int ranks = comm_->size();
  rs::Params<Config> params{};
  WEFT_ASSIGN(params.source.a, bf16_tensor_map(a, Config::kM));
  WEFT_ASSIGN(params.w, bf16_tensor_map(w, Config::kN));
  params.k_blocks = int((a.dim(1) + Config::kBlock - 1) / Config::kBlock);
  params.schedule = {.rows = RankRows(a.dim(0), ranks),
                     .rank = comm_->rank(),
                     .ranks = ranks,
                     .tiles_n = plan.gemm.tiles_n,
                     .group = plan.gemm.group,
                     .tiles = plan.gemm.tiles(),
                     .parts = plan.parts,
                     .part_rows = plan.part_rows};
  rs::Exchange<Config> exchange{};
  exchange.stage = chained ? copied_ : pushed_;
  exchange.slot_bytes = chained ? copy_slot_ : push_slot_;
  exchange.half_bytes = ranks * push_slot_;
  exchange.arrived = arrived_;
  exchange.parked = parked_.as<std::byte>();
  exchange.parked_count = parked_count_.as<u32>();
  exchange.tiles_per_chunk = chained ? plan.tiles_per_chunk : 0;
  const CudaPeers peers = comm_->peers(kOp);
  rs::Delivery delivery{};
  delivery.y = y.data;
  delivery.row_stride = y.byte_strides[0];
  delivery.n = int(shape_.n);
  delivery.own_rows = int(y.dim(0));
  delivery.to_all = everywhere.has_value();
  if (everywhere) delivery.rows = *everywhere;
  delivery.per_chunk = plan.returned_rows * Config::kM;
  delivery.returned_rows = plan.returned_chunks * delivery.per_chunk;
  delivery.returned_count = returned_count();
  delivery.done = delivered_;
  params.emit = {exchange, peers, delivery};
  params.crew.peers = peers;
  params.crew.words = words_;
  params.crew.chained = chained;
  params.crew.exchange = exchange;
  params.crew.delivery = delivery;
  return launch(kOp, kernel_of<Config>(),
                {.grid = unsigned(plan.gemm.ctas), .block = Config::kThreads, .shared_bytes = Config::kSharedBytes},
                stream, params);
}

// In the order in which the kernel parks and finishes them. Every link waits for its copy's tiles and tells of the copy
// before.
Status CudaGemmRs::copy_to_peers(i64 m, const Operands& operands, const CudaGemmRsPlan& plan) {
  const int ranks = comm_->size(), rank = comm_->rank();
  const CudaPeers peers = comm_->peers("gemm_rs: copies");
  const i64 tile_bytes = i64(plan.gemm.tile.m) * plan.gemm.tile.n * 2;
  ChainLink link;
  for (int d = 1; d < ranks; ++d) {
    const int owner = (rank + d) % ranks;
    const i64 rows = split_range(m, ranks, owner).size();
    const i64 tiles = (rows + plan.gemm.tile.m - 1) / plan.gemm.tile.m * plan.gemm.tiles_n;
    for (i64 first = 0, chunk = 0; first < tiles; first += plan.tiles_per_chunk, ++chunk) {
      const i64 count = std::min<i64>(plan.tiles_per_chunk, tiles - first);
      link.free_peer = chunk == 0 ? owner : -1;
      link.parked = parked_count_.as<u32>() + (d - 1) * kRsMostChunks + chunk;
      link.parked_wanted = u32(plan.gemm.tile.sharers() * count);
      WEFT_TRY(chain_->link(peers, words_.chain, link));
      const size_t bytes = size_t(count * tile_bytes);
      WEFT_TRY(chain_->copy(comm_->at(copied_, owner) + rank * copy_slot_ + first * tile_bytes, bytes,
                            parked_.as<std::byte>() + (d - 1) * copy_slot_ + first * tile_bytes, bytes, bytes, 1));
      link = {.tell_peer = owner, .tell_flag = chunk};
    }
  }
  const i64 bytes = i64(plan.returned_rows) * plan.gemm.tile.m * shape_.n * 2;
  for (int chunk = 0; chunk < plan.returned_chunks; ++chunk)
    for (int d = 1; d < ranks; ++d) {
      const int peer = (rank + d) % ranks;
      if (d == 1) {
        link.parked = returned_count() + chunk;
        link.parked_wanted = u32(plan.gemm.tile.sharers() * plan.returned_rows * plan.gemm.tiles_n);
      }
      WEFT_TRY(chain_->link(peers, words_.chain, link));
      WEFT_TRY(chain_->copy(comm_->at(*operands.everywhere, peer) + chunk * bytes, size_t(bytes),
                            operands.y.data + chunk * bytes, size_t(bytes), size_t(bytes), 1));
      link = {.tell_peer = peer, .tell_flag = kRsMostChunks + chunk};
    }
  link.last = true;
  return chain_->link(peers, words_.chain, link);
}

}  // namespace weft
