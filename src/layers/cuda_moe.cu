#include "dist/exchange/fused_element.cuh"
#include "layers/cuda_layer.cuh"
#include "layers/cuda_moe.cuh"
#include "ops/gemm/gemm.cuh"
#include "ops/moe_route/moe_route.cuh"

namespace weft {
namespace {

// Up to so many tokens x is gathered before the routing, which every rank then does for all.
constexpr i64 kRouteAllMost = 128;

// [tokens, per_token] of `memory`, [tokens, per_token, 2]: ids, or the weights behind them.
TensorView choices(const DeviceBuffer& memory, bool weights, i64 tokens, i64 per_token) {
  TensorView view = dense_view(memory, weights ? DType::kF32 : DType::kI32, {tokens, per_token});
  view.data += weights ? 4 : 0;
  view.byte_strides[0] = per_token * 8;
  view.byte_strides[1] = 8;
  return view;
}

}  // namespace

Result<CudaMoeLayer> CudaMoeLayer::create(CudaCommunicator& comm, const CudaMoeLayerShape& s, LayerMode mode) {
  const auto expect = [](const char* field, bool holds, const char* expected, i64 found) -> Status {
    if (holds) return {};
    return error(Code::kInvalidArgument, "moe layer: {}: expected {}, found {}", field, expected, found);
  };
  WEFT_TRY(expect("max_m", s.max_m >= 0 && s.max_m <= i64(1) << 20, "0 to 2^20", s.max_m));
  WEFT_TRY(expect("hidden", s.hidden >= 8 && s.hidden % 8 == 0, "a multiple of 8", s.hidden));
  WEFT_TRY(
      expect("ffn", s.ffn >= 8 * comm.size() && s.ffn % 8 == 0, "a multiple of 8, 8 columns for every rank", s.ffn));
  WEFT_TRY(expect("experts", s.experts >= 8 && s.experts % 8 == 0 && s.experts <= kCudaRouteMostExperts,
                  "a multiple of 8 to 512", s.experts));
  WEFT_TRY(expect("per_token", s.per_token >= 1 && s.per_token <= std::min<i64>(32, s.experts),
                  "1 to the number of experts, at most 32", s.per_token));
  WEFT_TRY(expect_fused_element("moe layer", s.dtype));
  if (mode == LayerMode::kAuto)
    return error(Code::kInvalidArgument, "moe layer: mode: expected ar or ag_rs, found auto");
  CudaMoeLayer layer(comm, s, mode);
  const Range eights = split_range(s.ffn / 8, comm.size(), comm.rank());
  layer.columns_ = {eights.begin * 8, eights.end * 8};
  // Before anything that waits for other ranks: a lazy load may wait for a kernel that waits.
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_TRY(prepare_cuda_grouped_gemm());
  WEFT_TRY(prepare_cuda_moe_route());
  const i64 m = s.max_m, pairs = m * s.per_token, columns = layer.columns_.size();
  const auto bytes = [](DeviceBuffer& buffer, i64 count, i64 each) -> Status {
    WEFT_ASSIGN(buffer, DeviceBuffer::create(size_t(std::max<i64>(1, count) * each)));
    return {};
  };
  WEFT_TRY(bytes(layer.logits_, m * s.experts, 2));
  for (DeviceBuffer* buffer : {&layer.own_routing_, &layer.routing_}) WEFT_TRY(bytes(*buffer, pairs, 8));
  for (DeviceBuffer* buffer : {&layer.map_, &layer.places_, &layer.weights_}) WEFT_TRY(bytes(*buffer, pairs, 4));
  WEFT_TRY(bytes(layer.offsets_, s.experts + 1, 4));
  WEFT_TRY(bytes(layer.activated_, pairs * columns, 2));
  const CudaMoeShape down{.max_m = m, .max_rows = pairs, .n = s.hidden, .dtype = s.dtype};
  if (mode == LayerMode::kAr) {
    WEFT_ASSIGN(layer.reduce_, CudaMoeAr::create(comm, down));
    return std::move(layer);
  }
  if (comm.size() > 1) {
    const i64 most = split_range(m, comm.size(), 0).size();
    WEFT_ASSIGN(layer.gather_routing_, CudaAllGather::create(comm, {.max_bytes_per_rank = most * s.per_token * 8}));
    WEFT_ASSIGN(layer.gather_x_, CudaAllGather::create(comm, {.max_bytes_per_rank = most * s.hidden * 2}));
    WEFT_TRY(bytes(layer.all_x_, m * s.hidden, 2));
    WEFT_ASSIGN(layer.side_, make_stream());
    WEFT_ASSIGN(layer.forked_, make_event());
    WEFT_ASSIGN(layer.joined_, make_event());
  }
  WEFT_ASSIGN(layer.scatter_, CudaMoeRs::create(comm, down));
  return std::move(layer);
}

Range CudaMoeLayer::rows(i64 m) const {
  return mode_ == LayerMode::kAgRs ? split_range(m, comm_->size(), comm_->rank()) : Range{0, m};
}
TensorView CudaMoeLayer::ids(i64 m) const {
  return choices(routing_, false, m, shape_.per_token);
}
TensorView CudaMoeLayer::weights(i64 m) const {
  return choices(routing_, true, m, shape_.per_token);
}

Status CudaMoeLayer::check(const CudaMoeLayerArgs& a) const {
  if (a.m < 0 || a.m > shape_.max_m)
    return error(Code::kInvalidArgument, "moe layer: m = {}: expected 0 to max_m = {}", a.m, shape_.max_m);
  const i64 mine = rows(a.m).size(), columns = columns_.size();
  WEFT_TRY(expect_cuda_matrix("x", a.x, {mine, shape_.hidden}, shape_.dtype));
  WEFT_TRY(expect_cuda_matrix("y", a.y, {mine, shape_.hidden}, shape_.dtype));
  WEFT_TRY(expect_layer_weights("router", a.router, shape_.dtype, {shape_.experts, shape_.hidden}));
  WEFT_TRY(expect_layer_weights("gate_up", a.gate_up, shape_.dtype, {shape_.experts, 2 * columns, shape_.hidden}));
  return expect_layer_weights("down", a.down, shape_.dtype, {shape_.experts, shape_.hidden, columns});
}

// Whether this rank asks the router for all tokens; else for its own, and the routing is gathered.
bool CudaMoeLayer::routes_all(i64 m) const {
  return !gather_x_ || m <= kRouteAllMost;
}
// Whether x is gathered beside the routing. Not where ranks share the GPU: both gathers wait for other ranks and must
// find room at the same time.
bool CudaMoeLayer::forks(i64 m) const {
  return !routes_all(m) && early();
}

// Every rank's routing_ of all tokens; x: the rows to route.
Status CudaMoeLayer::route(cudaStream_t stream, const CudaMoeLayerArgs& a, const TensorView& x) {
  const TensorView logits = dense_view(logits_, shape_.dtype, {x.dim(0), shape_.experts});
  const DeviceBuffer& routing = routes_all(a.m) ? routing_ : own_routing_;
  WEFT_TRY(cuda_gemm(stream, {.x = x, .w = a.router, .y = logits, .constant_w = early()}));
  WEFT_TRY(cuda_moe_route(stream, {.logits = logits,
                                   .ids = choices(routing, false, x.dim(0), shape_.per_token),
                                   .weights = choices(routing, true, x.dim(0), shape_.per_token),
                                   .normalise = shape_.normalise,
                                   .early = early()}));
  if (routes_all(a.m)) return {};
  return gather_routing_->run(stream, dense_view(own_routing_, DType::kI32, {x.dim(0), 2 * shape_.per_token}),
                              dense_view(routing_, DType::kI32, {a.m, 2 * shape_.per_token}),
                              forks(a.m) ? comm_->max_ctas() / 2 : 0);
}

// All tokens' rows. If it forks, run() joins.
Status CudaMoeLayer::gather_x(cudaStream_t stream, const CudaMoeLayerArgs& a, const TensorView& all) {
  const bool beside = forks(a.m);
  cudaStream_t on = beside ? side_.get() : stream;
  if (beside) {
    WEFT_CUDA_TRY(cudaEventRecord(forked_.get(), stream));
    WEFT_CUDA_TRY(cudaStreamWaitEvent(on, forked_.get(), 0));
  }
  TensorView shard = a.x;
  if (!shard.is_dense()) {
    const Range mine = rows(a.m);
    const size_t row_bytes = size_t(shape_.hidden) * 2;
    shard = all.rows(mine.begin, mine.end);
    WEFT_CUDA_TRY(cudaMemcpy2DAsync(shard.data, row_bytes, a.x.data, size_t(a.x.byte_strides[0]), row_bytes,
                                    size_t(mine.size()), cudaMemcpyDefault, on));
  }
  WEFT_TRY(gather_x_->run(on, shard, all, beside ? comm_->max_ctas() / 2 : 0));
  return beside ? cuda_status(cudaEventRecord(joined_.get(), on), "moe layer") : Status();
}

Status CudaMoeLayer::run(cudaStream_t stream, const CudaMoeLayerArgs& a) {
  WEFT_TRY(check(a));
  if (a.m == 0) return {};
  const i64 pairs = a.m * shape_.per_token;
  const TensorView map = dense_view(map_, DType::kI32, {pairs});
  const CudaMoeArgs down{.a = dense_view(activated_, shape_.dtype, {pairs, columns_.size()}),
                         .offsets = dense_view(offsets_, DType::kI32, {shape_.experts + 1}),
                         .rows = dense_view(places_, DType::kI32, {a.m, shape_.per_token}),
                         .weights = dense_view(weights_, DType::kF32, {a.m, shape_.per_token}),
                         .w = a.down,
                         .y = a.y};
  TensorView x = a.x;
  if (gather_x_) {
    x = dense_view(all_x_, shape_.dtype, {a.m, shape_.hidden});
    WEFT_TRY(gather_x(stream, a, x));
  }
  WEFT_TRY(route(stream, a, routes_all(a.m) ? x : a.x));
  WEFT_TRY(cuda_sort_experts(stream, {.ids = ids(a.m),
                                      .offsets = down.offsets,
                                      .map = map,
                                      .rows = down.rows,
                                      .weights = weights(a.m),
                                      .placed = down.weights,
                                      .early = early()}));
  if (forks(a.m)) WEFT_CUDA_TRY(cudaStreamWaitEvent(stream, joined_.get(), 0));
  WEFT_TRY(cuda_grouped_gemm(stream, {.x = x,
                                      .map = map,
                                      .offsets = down.offsets,
                                      .w = a.gate_up,
                                      .y = down.a,
                                      .swiglu = true,
                                      .early = early() && !forks(a.m)}));
  return scatter_ ? scatter_->run(stream, down) : reduce_->run(stream, down);
}

}  // namespace weft
