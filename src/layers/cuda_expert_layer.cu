#include "dist/exchange/fused_element.cuh"
#include "layers/cuda_expert_layer.cuh"
#include "layers/cuda_layer.cuh"
#include "ops/gemm/gemm.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"
#include "ops/moe_route/moe_route.cuh"

namespace weft {
Result<CudaExpertLayer> CudaExpertLayer::create(CudaCommunicator& comm, const CudaExpertLayerShape& s) {
  const auto expect = [](const char* field, bool holds, const char* expected, i64 found) -> Status {
    if (holds) return {};
    return error(Code::kInvalidArgument, "expert layer: {}: expected {}, found {}", field, expected, found);
  };
  WEFT_TRY(expect("hidden", s.hidden >= 8 && s.hidden % 8 == 0, "a multiple of 8", s.hidden));
  WEFT_TRY(expect("ffn", s.ffn >= 8 && s.ffn % 8 == 0, "a multiple of 8", s.ffn));
  WEFT_TRY(expect("experts", s.experts >= comm.size() && s.experts % 8 == 0 && s.experts <= kCudaRouteMostExperts,
                  "a multiple of 8 from the number of ranks to 512", s.experts));
  WEFT_TRY(expect_fused_element("expert layer", s.dtype));
  CudaExpertLayer layer(comm, s);
  // Before the exchange, whose creation is collective: no rank runs a kernel that waits while another still loads its
  // own.
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_TRY(prepare_cuda_grouped_gemm());
  WEFT_TRY(prepare_cuda_moe_route());
  const ep::AllToAllShape exchange{.max_num_tokens = s.max_tokens,
                                   .num_experts = s.experts,
                                   .experts_per_token = s.per_token,
                                   .rank = comm.rank(),
                                   .world_size = comm.size(),
                                   .hidden_dim = s.hidden,
                                   .hidden_dim_bytes = s.hidden * 2};
  WEFT_ASSIGN(auto op, ep::CudaAllToAll::create(comm, exchange,
                                                {.expert_capacity = s.expert_capacity, .combine_dtype = s.dtype}));
  layer.exchange_ = std::make_unique<ep::CudaAllToAll>(std::move(op));
  const i64 local = layer.local_experts().size(), rows = layer.exchange_->most_rows(), m = s.max_tokens;
  const auto elements = [](i64 count) { return DeviceBuffer::create(size_t(count) * 2); };
  const auto words = [](i64 count) { return DeviceBuffer::create(size_t(count) * 4); };
  WEFT_ASSIGN(layer.logits_, elements(m * s.experts));
  WEFT_ASSIGN(layer.ids_, words(m * s.per_token));
  WEFT_ASSIGN(layer.weights_, words(m * s.per_token));
  WEFT_ASSIGN(layer.expert_x_, elements(local * layer.exchange_->capacity() * s.hidden));
  WEFT_ASSIGN(layer.activated_, elements(rows * s.ffn));
  WEFT_ASSIGN(layer.products_, elements(rows * s.hidden));
  return std::move(layer);
}

TensorView CudaExpertLayer::logits(i64 tokens) const {
  return dense_view(logits_, shape_.dtype, {tokens, shape_.experts});
}
TensorView CudaExpertLayer::ids(i64 tokens) const {
  return dense_view(ids_, DType::kI32, {tokens, shape_.per_token});
}
TensorView CudaExpertLayer::weights(i64 tokens) const {
  return dense_view(weights_, DType::kF32, {tokens, shape_.per_token});
}

Status CudaExpertLayer::check(const CudaExpertLayerArgs& a) const {
  const i64 local = local_experts().size();
  WEFT_TRY(expect_cuda_matrix("x", a.x, {-1, shape_.hidden}, shape_.dtype));
  if (a.x.dim(0) > shape_.max_tokens)
    return error(Code::kInvalidArgument, "x: more than max_tokens = {} rows: {}", shape_.max_tokens, a.x.describe());
  WEFT_TRY(expect_cuda_matrix("y", a.y, a.x.shape, shape_.dtype));
  WEFT_TRY(expect_layer_weights("router", a.router, shape_.dtype, {shape_.experts, shape_.hidden}));
  WEFT_TRY(expect_layer_weights("gate_up", a.gate_up, shape_.dtype, {local, 2 * shape_.ffn, shape_.hidden}));
  return expect_layer_weights("down", a.down, shape_.dtype, {local, shape_.hidden, shape_.ffn});
}

Status CudaExpertLayer::run(cudaStream_t stream, const CudaExpertLayerArgs& a) {
  WEFT_TRY(check(a));
  const i64 tokens = a.x.dim(0), local = local_experts().size(), capacity = exchange_->capacity();
  const i64 rows = exchange_->most_rows();
  // Were all ranks to have as many tokens, and all experts.
  const i64 expected = std::max<i64>(1, tokens) * shape_.per_token * comm_->size() * local / shape_.experts;
  // Where ranks share a GPU, CTAs that wait for the kernel before would take the place of those that it waits for.
  const bool early = comm_->arena().ranks_on_this_gpu() == 1;
  WEFT_TRY(cuda_gemm(stream, {.x = a.x, .w = a.router, .y = logits(tokens), .constant_w = early}));
  WEFT_TRY(cuda_moe_route(stream, {.logits = logits(tokens),
                                   .ids = ids(tokens),
                                   .weights = weights(tokens),
                                   .normalise = shape_.normalise,
                                   .early = early}));
  WEFT_TRY(
      exchange_->dispatch(stream, {.x = a.x,
                                   .indices = ids(tokens),
                                   .weights = weights(tokens),
                                   .expert_x = dense_view(expert_x_, shape_.dtype, {local, capacity, shape_.hidden})}));
  const TensorView offsets = exchange_->row_begins();
  const TensorView activated = dense_view(activated_, shape_.dtype, {rows, shape_.ffn});
  const TensorView products = dense_view(products_, shape_.dtype, {rows, shape_.hidden});
  WEFT_TRY(cuda_grouped_gemm(stream, {.x = dense_view(expert_x_, shape_.dtype, {local * capacity, shape_.hidden}),
                                      .map = {},
                                      .offsets = offsets,
                                      .w = a.gate_up,
                                      .y = activated,
                                      .swiglu = true,
                                      .capacity = capacity,
                                      .expected_rows = expected,
                                      .early = early}));
  WEFT_TRY(cuda_grouped_gemm(stream, {.x = activated,
                                      .map = {},
                                      .offsets = offsets,
                                      .w = a.down,
                                      .y = products,
                                      .expected_rows = expected,
                                      .early = early}));
  return exchange_->combine(stream,
                            {.expert_y = products, .indices = ids(tokens), .weights = weights(tokens), .out = a.y});
}

}  // namespace weft
