#include "layers/moe_parallel.h"

#include "layers/workspace.h"
#include "ops/gpu.h"
#include "ops/moe_route/moe_route.h"
#include "ops/swiglu/swiglu.h"

namespace weft {
namespace {

// Up to so many tokens GPUs gather x before the routing, which every rank then does for all.
constexpr i64 kRouteAllMost = 128;

// What the GPUs' operators are made for, found wrong before any of them is created.
Status expect_gpu_shape(const MoeParallelShape& s) {
  const auto expect = [](const char* field, bool holds, const char* expected, i64 found) -> Status {
    if (holds) return {};
    return error(Code::kInvalidArgument, "experts: {}: expected {}, found {}", field, expected, found);
  };
  WEFT_TRY(expect("max_tokens", s.max_tokens >= 0 && s.max_tokens <= i64(1) << 20, "0 to 2^20", s.max_tokens));
  WEFT_TRY(expect("hidden", s.hidden >= 8 && s.hidden % 8 == 0, "a multiple of 8", s.hidden));
  WEFT_TRY(expect("expert_ffn", s.expert_ffn >= 8 && s.expert_ffn % 8 == 0, "a multiple of 8", s.expert_ffn));
  WEFT_TRY(expect("experts", s.experts >= 8 && s.experts % 8 == 0 && s.experts <= gpu::kMostExperts,
                  "a multiple of 8 to 512", s.experts));
  WEFT_TRY(expect("per_token", s.per_token >= 1 && s.per_token <= std::min(gpu::kMostPerToken, s.experts),
                  "1 to the number of experts, at most 32", s.per_token));
  const bool halves = s.in_format == ActivationFormat::kBF16 || s.in_format == ActivationFormat::kF16;
  if (halves && s.in_format == s.out_format) return {};
  return error(Code::kInvalidArgument, "experts: in_format, out_format: expected bf16 or f16, found {}, {}",
               activation_format_name(s.in_format), activation_format_name(s.out_format));
}

}  // namespace

Result<std::unique_ptr<MoeParallel>> MoeParallel::create(ParallelPlan& plan, const MoeParallelShape& shape,
                                                         LayerMode mode) {
  WEFT_CHECK(mode != LayerMode::kAuto);
  const DeviceKind device = plan.layer.device();
  if (device == DeviceKind::kCuda) {
    WEFT_TRY(expect_gpu_shape(shape));
    // Before anything that waits for other ranks: a lazy load may wait for a kernel that waits.
    WEFT_TRY(gpu::load_expert_kernels());
  }
  std::unique_ptr<MoeParallel> moe(new MoeParallel(shape));
  WEFT_TRY(moe->plan_operators(plan, mode));
  const bool sharded = mode == LayerMode::kAgRs;
  moe->local_rows_ = sharded ? split_range(shape.max_tokens, plan.layer.size(), 0).size() : shape.max_tokens;
  WEFT_TRY(
      moe->plan_buffers(device, moe->exchange_ ? moe->exchange_->max_pairs() : shape.max_tokens * shape.per_token));
  return moe;
}

Status MoeParallel::plan_operators(ParallelPlan& plan, LayerMode mode) {
  const i64 tokens = shape_.max_tokens, hidden = shape_.hidden, per_token = shape_.per_token;
  Communicator& comm = plan.tp;
  const DeviceKind device = comm.device();
  local_experts_ = shape_.experts;
  if (plan.ep.size() > 1) {
    WEFT_ASSIGN(exchange_, ExpertExchange::create(plan,
                                                  {.max_tokens = tokens,
                                                   .hidden = hidden,
                                                   .experts = shape_.experts,
                                                   .per_token = per_token,
                                                   .format = shape_.in_format,
                                                   .expert_capacity = shape_.expert_capacity},
                                                  mode));
    local_experts_ = exchange_->local_experts();
    return {};
  }
  const DType dtype = device == DeviceKind::kCpu ? DType::kF32 : activation_dtype(shape_.in_format);
  if (mode == LayerMode::kAr || comm.size() == 1) {
    WEFT_ASSIGN(moe_ar_, MoeAr::create(comm, {tokens, hidden, tokens * per_token, dtype}));
    return {};
  }
  const i64 local = split_range(tokens, comm.size(), 0).size();
  if (device == DeviceKind::kCpu) {
    WEFT_ASSIGN(ag_moe_, AgMoe::create(comm, {.max_m = tokens, .k = hidden, .format = shape_.in_format}));
  } else {
    const i64 row_bytes = activation_row_bytes(shape_.in_format, hidden);
    WEFT_ASSIGN(gather_x_, AllGather::create(comm, {.max_bytes_per_rank = local * row_bytes}));
    WEFT_ASSIGN(all_x_, ActivationBuffer::create(device, shape_.in_format, tokens, hidden));
    WEFT_ASSIGN(side_, SideStream::create());
  }
  WEFT_ASSIGN(moe_rs_, MoeRs::create(comm, {tokens, hidden, tokens * per_token, dtype}));
  WEFT_ASSIGN(gather_routing_, AllGather::create(comm, {.max_bytes_per_rank = local * per_token * 8}));
  WEFT_ASSIGN(all_routing_, make_tensor(device, DType::kI32, {tokens, 2 * per_token}));
  return {};
}

Status MoeParallel::plan_buffers(DeviceKind device, i64 pairs) {
  const bool on_cpu = device == DeviceKind::kCpu;
  const DType product = on_cpu ? DType::kF32 : activation_dtype(shape_.in_format);
  const i64 tokens = shape_.max_tokens, hidden = shape_.hidden, ffn = shape_.expert_ffn;
  const i64 sorted = !exchange_ ? pairs : on_cpu ? exchange_->max_rows() * shape_.per_token : 0;
  WEFT_ASSIGN(groups_, ExpertGroups::create(device, sorted, local_experts_));
  if (!ag_moe_) {
    WEFT_ASSIGN(input_, ActivationBuffer::create(device, shape_.in_format, local_rows_, hidden));
  }
  WEFT_ASSIGN(activated_, ActivationBuffer::create(device, shape_.out_format, pairs, ffn));
  WEFT_ASSIGN(logits_, make_tensor(device, product, {tokens, shape_.experts}));
  WEFT_ASSIGN(own_routing_, make_tensor(device, DType::kI32, {2, round_up(tokens * shape_.per_token, 4)}));
  if (exchange_) {
    WEFT_ASSIGN(products_, make_tensor(device, product, {pairs, hidden}));
  }
  if (!on_cpu) {
    WEFT_ASSIGN(output_, make_tensor(device, product, {local_rows_, hidden}));
    return {};
  }
  WEFT_ASSIGN(gate_up_, make_tensor(device, product, {pairs, 2 * ffn}));
  if (shape_.in_format != ActivationFormat::kF32) {
    WEFT_ASSIGN(router_input_, ActivationBuffer::create(device, ActivationFormat::kF32, local_rows_, hidden));
  }
  return {};
}

// Ids and weights of `rows` rows in own_routing_ or all_routing_: side by side, so that one gather takes both, but for
// the exchange, which wants each dense.
MoeParallel::Routing MoeParallel::table(const Tensor& memory, i64 rows) const {
  const Shape shape{rows, shape_.per_token};
  Routing routing{.ids = memory.storage.view(DType::kI32, shape), .weights = memory.storage.view(DType::kF32, shape)};
  if (exchange_) {
    routing.weights.data += round_up(shape_.max_tokens * shape_.per_token, 4) * 4;
    return routing;
  }
  routing.weights.data += 4;
  for (TensorView* view : {&routing.ids, &routing.weights}) {
    view->byte_strides[0] = shape_.per_token * 8;
    view->byte_strides[1] = 8;
  }
  return routing;
}

Status MoeParallel::expect_step(i64 local_rows, i64 tokens, const MoeWeights& weights) const {
  if (tokens < 0 || tokens > shape_.max_tokens || local_rows > std::min(tokens, local_rows_)) {
    return error(Code::kInvalidArgument, "experts: {} of {} tokens: expected at most {} of max_tokens = {}", local_rows,
                 tokens, local_rows_, shape_.max_tokens);
  }
  const auto fits = [&](const char* name, const GroupedWeight& w, i64 n, i64 k, ActivationFormat format) -> Status {
    if (w.device() == logits_.view.device && w.experts() == local_experts_ && w.n() == n && w.k() == k &&
        w.activation_format() == format)
      return {};
    return error(Code::kInvalidArgument, "{}: expected {} experts [{}, {}, {}]{}, found {}", name,
                 activation_format_name(format), local_experts_, n, k, on_gpu() ? " on a GPU" : "", w.describe());
  };
  const Weight& router = weights.router;
  const ActivationFormat read = router_input(0).format;
  if (router.n() != shape_.experts || router.k() != shape_.hidden || router.activation_format() != read ||
      router.device() != logits_.view.device) {
    return error(Code::kInvalidArgument, "router: expected {} [{}, {}], found {} [{}, {}]",
                 activation_format_name(read), shape_.experts, shape_.hidden,
                 activation_format_name(router.activation_format()), router.n(), router.k());
  }
  WEFT_TRY(fits("gate_up", weights.gate_up, 2 * shape_.expert_ffn, shape_.hidden, shape_.in_format));
  return fits("down", weights.down, shape_.hidden, shape_.expert_ffn, shape_.out_format);
}

// All tokens' rows, of the present step; beside what comes next on exec's stream if that is the routing, until up().
Result<ActivationView> MoeParallel::gather_x(const Exec& exec, i64 local_rows, i64 tokens) {
  const ActivationView all = all_x_.view(tokens);
  Exec here = exec;
  // Not where ranks share the GPU: both gathers wait for other ranks and must find room at the same time.
  forked_ = tokens > kRouteAllMost && exec.early();
  if (forked_) {
    WEFT_ASSIGN(here, side_->fork(exec));
  }
  WEFT_TRY(gather_x_->run(here, as_bytes(input(local_rows)), as_bytes(all)));
  return all;
}

Status MoeParallel::route(Exec& exec, i64 local_rows, i64 tokens, const Weight& router, bool normalise) {
  ActivationView x = router_input(local_rows);
  Exec gathering = exec;
  if (gather_x_) {
    WEFT_ASSIGN(const ActivationView all, gather_x(exec, local_rows, tokens));
    if (tokens <= kRouteAllMost) x = all;
    if (forked_) gathering = Exec::cuda(exec.stream(), side_->sm_budget());
  }
  const bool gathers = gather_routing_ && !(gather_x_ && tokens <= kRouteAllMost);
  const Routing own = table(own_routing_, x.rows), all = gathers ? table(all_routing_, tokens) : own;
  const TensorView logits = leading(logits_, x.rows, shape_.experts);
  WEFT_TRY(gemm(exec, {.x = x, .w = router, .y = logits}));
  WEFT_TRY(moe_route(exec, {.logits = logits, .ids = own.ids, .weights = own.weights, .normalise = normalise}));
  if (gathers) {
    WEFT_TRY(gather_routing_->run(gathering, leading(own_routing_, x.rows, 2 * shape_.per_token),
                                  leading(all_routing_, tokens, 2 * shape_.per_token)));
  }
  if (exec.thread() == 0) {  // sort() ends with a barrier
    routing_ = all;
    tokens_ = tokens;
  }
  if (exchange_) return exec.sync();
  return groups_.sort(exec, all.ids, all.weights);
}

Result<ActivationView> MoeParallel::up(Exec& exec, i64 local_rows, const GroupedWeight& w) {
  ActivationView x = input(local_rows);
  Exec here = exec;
  if (exchange_) {
    WEFT_ASSIGN(x, exchange_->dispatch(exec, x, routing_.ids, routing_.weights, tokens_, &groups_));
  }
  if (gather_x_) x = all_x_.view(tokens_);
  if (forked_) {
    WEFT_ASSIGN(here, side_->join(exec));
  }
  const i64 pairs = groups_.pairs();
  const ActivationView y = activated_.view(pairs);
  const TensorView products = on_gpu() ? TensorView{} : leading(gate_up_, pairs, w.n());
  if (ag_moe_) {
    WEFT_TRY(ag_moe_->run(exec, x, groups_, w, products));
    WEFT_TRY(swiglu(exec, {.gate_up = products, .y = y}));
  } else {
    WEFT_TRY(grouped_gemm_swiglu(here, x, groups_, w, products, y));
  }
  return y;
}

Status MoeParallel::down(Exec& exec, const ActivationView& a, const GroupedWeight& w, Residual& residual) {
  WEFT_CHECK(residual.addend.data == nullptr);  // a norm stands between
  const bool adds = !output_;
  const TensorView y = adds ? residual.rows : leading(*output_, residual.rows.dim(0), w.n());
  if (exchange_) {
    const TensorView products = leading(products_, groups_.pairs(), w.n());
    WEFT_TRY(grouped_gemm_pairs(exec, a, groups_, w, products));
    WEFT_TRY(exchange_->combine(exec, products, y));
  } else if (moe_rs_) {
    WEFT_TRY(moe_rs_->run(exec, a, groups_, w, y, adds));
  } else {
    WEFT_TRY(moe_ar_->run(exec, a, groups_, w, y, adds));
  }
  if (!adds) residual.addend = y;
  return {};
}

}  // namespace weft
