#include "dist/expert_parallel/cuda.cuh"

#include <algorithm>

#include "device/cuda/nvtx.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "dist/expert_parallel/cuda_calls.cuh"
#include "dist/expert_parallel/plan.h"
#include "ops/gemm/gemm.cuh"

namespace weft::ep {
namespace {

constexpr const char *kDispatch = "dispatch", *kCombine = "combine";

Status same_on_all_ranks(CudaCommunicator& comm, const AllToAllShape& s, const AllToAllOptions& o) {
  const std::string mine =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", s.max_num_tokens, s.num_experts, s.experts_per_token,
                  s.dp_size, s.hidden_dim, s.hidden_dim_bytes, s.hidden_dim_scale_bytes, o.expert_capacity,
                  int(o.combine_dtype), int(o.combine), o.cast_x_to_fp8, o.map_rows);
  World& world = comm.world();  // other groups make the same calls
  WEFT_ASSIGN(const auto all, world.all_gather(mine, Deadline::after(std::chrono::seconds(30))));
  for (int r = 0; r < world.size(); ++r)
    if (all[size_t(r)] != mine)
      return error(Code::kInvalidArgument, "expert parallel: ranks {} and {} differ in shape or options", world.rank(),
                   r);
  return {};
}

// [..., bytes] with `rows` rows at a distance that is a multiple of `unit`.
Status expect_rows(const char* name, const TensorView& view, i64 rows, i64 bytes, i64 unit) {
  i64 elements = 1;
  for (int i = 1; i < view.shape.rank(); ++i) elements *= view.shape[i];
  const bool fits = view.shape.rank() >= 2 && view.dim(0) == rows && dtype_bytes(view.dtype, elements) == bytes;
  TensorView row = view;
  if (view.shape.rank() >= 1) {
    row.shape[0] = 1;
    row.byte_strides[0] = bytes;
  }
  if (!fits || (rows > 0 && !row.is_dense()))
    return error(Code::kInvalidArgument, "dispatch: {}: expected {} rows of {} bytes, found {}", name, rows, bytes,
                 view.describe());
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "dispatch: {}: not in CUDA memory", name);
  if (reinterpret_cast<uintptr_t>(view.data) % unit == 0 && view.byte_strides[0] % unit == 0) return {};
  return error(Code::kInvalidArgument, "dispatch: {}: address and row stride must be multiples of {}", name, unit);
}

// [experts, capacity, ...] dense, or left out.
Status expect_places(const char* name, const TensorView& view, i64 experts, i64 capacity, i64 bytes, i64 unit) {
  if (view.data == nullptr) return {};
  i64 elements = 1;
  for (int i = 2; i < view.shape.rank(); ++i) elements *= view.shape[i];
  const bool fits = view.shape.rank() >= 3 && view.dim(0) == experts && view.dim(1) == capacity;
  if (!fits || !view.is_dense() || dtype_bytes(view.dtype, elements) != bytes)
    return error(Code::kInvalidArgument, "dispatch: {}: expected dense [{}, {}] rows of {} bytes, found {}", name,
                 experts, capacity, bytes, view.describe());
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "dispatch: {}: not in CUDA memory", name);
  if (reinterpret_cast<uintptr_t>(view.data) % unit == 0) return {};
  return error(Code::kInvalidArgument, "dispatch: {}: the address must be a multiple of {}", name, unit);
}

// Dense CUDA memory of 4-byte elements.
Status expect_table(const char* op, const char* name, const TensorView& view, DType dtype, const Shape& shape) {
  WEFT_TRY(expect_tensor((std::string(op) + ": " + name).c_str(), view, dtype, shape));
  WEFT_TRY(expect_dense(op, name, view));
  if (view.device == DeviceKind::kCuda) return {};
  return error(Code::kInvalidArgument, "{}: {}: not in CUDA memory", op, name);
}

// A receive follows its send, and nothing else does. `sent`: a send alone has been enqueued.
Status expect_turn(const char* op, bool sent, bool send) {
  if (send && sent) return error(Code::kInvalidArgument, "{}: the last send still waits for its receive", op);
  if (!send && !sent) return error(Code::kInvalidArgument, "{}: receive without its send", op);
  return {};
}

// A tensor without rows may have no address.
bool given(const TensorView& view) {
  return view.shape.rank() > 0;
}

}  // namespace

Result<CudaAllToAll> CudaAllToAll::create(CudaCommunicator& comm, const AllToAllShape& shape,
                                          const AllToAllOptions& options) {
  if (shape.world_size != comm.size() || shape.rank != comm.rank())
    return error(Code::kInvalidArgument, "expert parallel: rank, world_size: {} of {} is rank {} of {} here",
                 shape.rank, shape.world_size, comm.rank(), comm.size());
  WEFT_TRY(expect_sm90("expert parallel"));
  WEFT_TRY(expect_summable("expert parallel: combine_dtype", options.combine_dtype));
  WEFT_ASSIGN(const CudaWire wire, plan_cuda_wire(shape, options));
  WEFT_TRY(same_on_all_ranks(comm, shape, options));
  CudaAllToAll op(comm, options, wire);
  WEFT_TRY(op.allocate());
  return std::move(op);
}

Result<i64> CudaAllToAll::symmetric_bytes(const AllToAllShape& shape, const AllToAllOptions& options) {
  WEFT_ASSIGN(const CudaWire wire, plan_cuda_wire(shape, options));
  i64 bytes = 0;
  plan_cuda_buffers(wire, 0, &bytes);
  return bytes;
}

Status CudaAllToAll::allocate() {
  // The most shared memory that any call asks for is that of the fewest tokens here.
  i64 shared = 0;
  for (const bool send : {false, true})
    for (i64 tokens = 0; tokens <= wire_.max_tokens; tokens = std::max<i64>(1, tokens * 2))
      for (const int element : {1, 2, 4})
        shared = std::max(shared,
                          plan_cuda_dispatch(wire_, int(tokens), comm_->max_ctas(), send, true, element).shared_bytes);
  if (shared > kCudaSharedBytes)
    return error(
        Code::kInvalidArgument,
        "expert parallel: max_num_tokens: {} tokens for {} experts need {} bytes of shared memory, there are {}",
        wire_.max_tokens, wire_.experts, shared, kCudaSharedBytes);
  // Before the collective allocation: no rank runs a kernel that waits while another still loads its own.
  for (const int unroll : {1, 2, 4}) {
    for (const DType dtype : {DType::kU8, DType::kF32, DType::kBF16, DType::kF16}) {
      if ((dtype != DType::kU8) != options_.cast_x_to_fp8) continue;
      WEFT_TRY(
          prepare_kernel(kDispatch, reinterpret_cast<const void*>(dispatch_kernel_of(dtype, unroll)), size_t(shared)));
    }
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      WEFT_TRY(with_element(dtype, [&](auto element) {
        return prepare_kernel(
            kCombine, reinterpret_cast<const void*>(combine_kernel_of<decltype(element)>(wire_.exact, unroll)), 0);
      }));
    }
  }
  WEFT_ASSIGN(places_, DeviceBuffer::create(sizeof(i32) * size_t(wire_.ranks) * size_t(wire_.source_tokens) *
                                            size_t(wire_.per_token)));
  WEFT_ASSIGN(begins_, DeviceBuffer::create(sizeof(i32) * size_t(local_experts().size() + 1)));
  WEFT_ASSIGN(tokens_, DeviceBuffer::create(sizeof(i32) * size_t(wire_.ranks)));
  WEFT_CUDA_TRY(cudaMemset(tokens_.data(), 0, tokens_.bytes()));  // a combine before any dispatch finds no tokens
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  WEFT_ASSIGN(report_, HostBuffer::create(sizeof(CudaReport)));
  if (options_.map_rows) {
    const size_t rows = size_t(gathered_rows(wire_));
    WEFT_ASSIGN(gathered_x_, DeviceBuffer::create(rows * size_t(wire_.x_words) * 16));
    WEFT_ASSIGN(gathered_scales_, DeviceBuffer::create(rows * size_t(wire_.scale_bytes)));
  }
  route_ = {places_.as<i32>(), begins_.as<i32>(), tokens_.as<i32>()};
  i64 bytes = 0;
  plan_cuda_buffers(wire_, 0, &bytes);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(bytes, "expert parallel"));
  buffers_ = plan_cuda_buffers(wire_, base.offset, &bytes);
  return {};
}

Range CudaAllToAll::local_experts() const {
  return {wire_.experts_begin(comm_->rank()), wire_.experts_begin(comm_->rank() + 1)};
}

i64 CudaAllToAll::most_rows() const {
  return std::min(local_experts().size() * wire_.capacity,
                  i64(wire_.ranks / wire_.dp_size) * wire_.max_tokens * wire_.per_token);
}

TensorView CudaAllToAll::row_begins() const {
  return TensorView::dense(begins_.data(), DType::kI32, {local_experts().size() + 1}, DeviceKind::kCuda);
}

GatheredRows CudaAllToAll::gathered() const {
  const i64 rows = options_.map_rows ? gathered_rows(wire_) : 0;
  return {TensorView::dense(gathered_x_.data(), DType::kU8, {rows, i64(wire_.x_words) * 16}, DeviceKind::kCuda),
          TensorView::dense(gathered_scales_.data(), DType::kU8, {rows, wire_.scale_bytes}, DeviceKind::kCuda)};
}

i64 CudaAllToAll::dropped_pairs() const {
  return i64(report_.as<volatile CudaReport>()->dropped);
}

Status CudaAllToAll::report() const {
  const volatile CudaReport& r = *report_.as<volatile CudaReport>();
  if (r.dropped > 0)
    return error(Code::kResourceExhausted, "dispatch: expert {}: {} rows came, capacity {}; {} pairs are left out",
                 u32(r.expert), u32(r.rows), wire_.capacity, u64(r.dropped));
  if (r.refused > 0)
    return error(Code::kResourceExhausted, "dispatch: bound_m of rank {}: {} tokens more than there are", comm_->rank(),
                 u64(r.refused));
  if (r.bad_indices > 0)
    return error(Code::kInvalidArgument, "dispatch: indices: {} of rank {} is not one of {} experts", i32(r.bad_index),
                 comm_->rank(), wire_.experts);
  return {};
}

Status CudaAllToAll::check(const DispatchArgs& a) const {
  const i64 m = a.indices.shape.rank() == 2 ? a.indices.dim(0) : 0, local = local_experts().size();
  WEFT_TRY(expect_table(kDispatch, "indices", a.indices, DType::kI32, {-1, wire_.per_token}));
  if (m > wire_.max_tokens)
    return error(Code::kInvalidArgument, "dispatch: indices: {} are more than max_num_tokens = {}",
                 a.indices.describe(), wire_.max_tokens);
  const i64 x_bytes = i64(wire_.x_words) * 16;
  if (options_.cast_x_to_fp8) {
    WEFT_TRY(expect_cast_input(a, m, x_bytes));
    WEFT_TRY(expect_rows("x", a.x, m, dtype_bytes(a.x.dtype, x_bytes), 16));
  } else {
    WEFT_TRY(expect_rows("x", a.x, m, x_bytes, 16));
    if (wire_.scale_bytes > 0) WEFT_TRY(expect_rows("x_scale", a.x_scale, m, wire_.scale_bytes, 4));
  }
  WEFT_TRY(expect_places("expert_x", a.expert_x, local, wire_.capacity, x_bytes, 16));
  if (wire_.scale_bytes > 0) {
    WEFT_TRY(expect_places("expert_x_scale", a.expert_x_scale, local, wire_.capacity, wire_.scale_bytes, 4));
  }
  if (a.out_num_tokens.data != nullptr)
    WEFT_TRY(expect_table(kDispatch, "out_num_tokens", a.out_num_tokens, DType::kI32, {local}));
  if (given(a.weights)) WEFT_TRY(expect_table(kDispatch, "weights", a.weights, DType::kF32, {m, wire_.per_token}));
  const bool places = a.expert_x.data != nullptr || a.expert_x_scale.data != nullptr;
  if (options_.map_rows ? places : a.row_map.data != nullptr || a.row_experts.data != nullptr)
    return error(Code::kInvalidArgument, "dispatch: {} where map_rows = {}",
                 options_.map_rows ? "expert_x, expert_x_scale" : "row_map, row_experts", options_.map_rows);
  if (a.row_map.data != nullptr)
    WEFT_TRY(expect_table(kDispatch, "row_map", a.row_map, DType::kI32, {local, wire_.capacity}));
  if (a.row_experts.data != nullptr)
    WEFT_TRY(
        expect_table(kDispatch, "row_experts", a.row_experts, DType::kI32, {gathered_rows(wire_), wire_.per_token}));
  return comm_->status();
}

CudaCallPlace CudaAllToAll::call_place(const char* op) {
  return {comm_->peers(op), wire_, buffers_, route_, report_.as<CudaReport>(), comm_->max_ctas(), gathered()};
}

Status CudaAllToAll::dispatch(cudaStream_t stream, const DispatchArgs& a, int phases) {
  const NvtxRange range{kDispatch};
  const bool send = (phases & kSend) != 0, receive = (phases & kReceive) != 0;
  WEFT_TRY(check(a));
  WEFT_TRY(expect_turn(kDispatch, dispatch_sent_, send));
  dispatched_tokens_ = a.indices.dim(0);
  const CudaDispatchParams p = dispatch_params(call_place(kDispatch), options_, a, send, receive);
  WEFT_TRY(launch(kDispatch, dispatch_kernel_of(travelling_as(options_, a.x), p.grid.unroll),
                  {.grid = unsigned(p.grid.ctas),
                   .block = kCudaThreads,
                   .shared_bytes = size_t(p.grid.shared_bytes),
                   .early = early()},
                  stream, p));
  dispatch_sent_ = !receive;
  weights_known_ = !wire_.exact && given(a.weights);
  return {};
}

Status CudaAllToAll::check(const CombineArgs& a) const {
  WEFT_TRY(expect_table(kCombine, "indices", a.indices, DType::kI32, {-1, wire_.per_token}));
  const i64 m = a.indices.dim(0), hidden = wire_.y_words * (16 / dtype_bytes(options_.combine_dtype, 1));
  WEFT_TRY(expect_table(kCombine, "weights", a.weights, DType::kF32, {m, wire_.per_token}));
  const bool packed = a.expert_y.shape.rank() == 2;
  const Shape y = packed ? Shape{-1, hidden} : Shape{local_experts().size(), wire_.capacity, hidden};
  WEFT_TRY(expect_summable("combine: expert_y", a.expert_y.dtype));
  const i64 row_bytes = dtype_bytes(a.expert_y.dtype, hidden);
  const bool fits = row_bytes <= i64(wire_.y_words) * 16 && row_bytes % 16 == 0;
  WEFT_TRY(expect_tensor("combine: expert_y", a.expert_y, fits ? a.expert_y.dtype : options_.combine_dtype, y));
  WEFT_TRY(expect_cuda(kCombine, "expert_y", a.expert_y));
  WEFT_TRY(expect_tensor("combine: out", a.out, a.out.dtype, {m, hidden}));
  WEFT_TRY(expect_summable("combine: out", a.out.dtype));
  if (a.out.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "combine: out: not in CUDA memory");
  if (reinterpret_cast<uintptr_t>(a.out.data) % 16 != 0 || a.out.byte_strides[0] % 16 != 0)
    return error(Code::kInvalidArgument, "combine: out: address and row stride must be multiples of 16");
  if (m != dispatched_tokens_)
    return error(Code::kInvalidArgument, "combine: indices: the dispatch had {} rows, found {}", dispatched_tokens_,
                 a.indices.describe());
  if (packed && a.expert_y.dim(0) < most_rows())
    return error(Code::kInvalidArgument, "combine: expert_y: up to {} rows can come, found {}", most_rows(),
                 a.expert_y.describe());
  if (a.accumulate && a.out.dtype != DType::kF32)
    return error(Code::kInvalidArgument, "combine: out: accumulate needs f32, found {}", a.out.describe());
  return comm_->status();
}

Status CudaAllToAll::combine(cudaStream_t stream, const CombineArgs& a, int phases) {
  const NvtxRange range{kCombine};
  WEFT_TRY(check(a));
  WEFT_TRY(expect_turn(kCombine, combine_sent_, (phases & kSend) != 0));
  const CudaCombineParams p =
      combine_params(call_place(kCombine), a, weights_known_, (phases & kSend) != 0, (phases & kReceive) != 0);
  WEFT_TRY(with_element(a.expert_y.dtype, [&](auto element) {
    return launch(kCombine, combine_kernel_of<decltype(element)>(wire_.exact, p.grid.unroll),
                  {.grid = unsigned(p.grid.ctas), .block = kCudaThreads, .early = early()}, stream, p);
  }));
  combine_sent_ = !p.receive;
  return {};
}

}  // namespace weft::ep
