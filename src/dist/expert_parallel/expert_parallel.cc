#include "dist/expert_parallel/expert_parallel.h"

#include <atomic>

#include "base/mix.h"
#include "dist/expert_parallel/plan.h"

namespace weft::ep {
namespace {

constexpr const char* kDispatch = "dispatch";
constexpr const char* kCombine = "combine";

Status expect_between(const char* field, i64 value, i64 least, i64 most) {
  if (value >= least && value <= most) return {};
  return error(Code::kInvalidArgument, "expert parallel: {}: expected {} to {}, found {}", field, least, most, value);
}

Status check_shape(const AllToAllShape& s, const AllToAllOptions& o) {
  constexpr i64 kMost = i64(1) << 24;
  WEFT_TRY(expect_between("world_size", s.world_size, 1, kMaxRanks));
  WEFT_TRY(expect_between("max_num_tokens", s.max_num_tokens, 0, kMost));
  WEFT_TRY(expect_between("num_experts", s.num_experts, 1, kMost));
  WEFT_TRY(expect_between("experts_per_token", s.experts_per_token, 1, std::min(s.num_experts, kMaxPerToken)));
  WEFT_TRY(expect_between("hidden_dim", s.hidden_dim, 1, kMost));
  WEFT_TRY(expect_between("hidden_dim_bytes", s.hidden_dim_bytes, 1, kMost));
  WEFT_TRY(expect_between("hidden_dim_scale_bytes", s.hidden_dim_scale_bytes, 0, kMost));
  WEFT_TRY(expect_between("expert_capacity", o.expert_capacity, 0, kMost));
  WEFT_TRY(expect_summable("expert parallel: combine_dtype", o.combine_dtype));
  WEFT_TRY(expect_cast_sizes(s, o));
  if (s.dp_size >= 1 && s.world_size % s.dp_size == 0) return {};
  return error(Code::kInvalidArgument, "expert parallel: dp_size: expected a divisor of world_size {}, found {}",
               s.world_size, s.dp_size);
}

Status same_on_all_ranks(Communicator& comm, const AllToAllShape& s, const AllToAllOptions& o) {
  u64 hash = 0;
  for (const i64 number :
       {s.max_num_tokens, s.num_experts, s.experts_per_token, i64(s.dp_size), s.hidden_dim, s.hidden_dim_bytes,
        s.hidden_dim_scale_bytes, o.expert_capacity, i64(o.combine_dtype), i64(o.combine), i64(o.cast_x_to_fp8)}) {
    hash = mix64(hash + u64(number) + 1);
  }
  WEFT_ASSIGN(const auto all, comm.exchange(hash));
  for (int r = 0; r < comm.size(); ++r) {
    if (all[size_t(r)] == hash) continue;
    return error(Code::kInvalidArgument, "expert parallel: ranks {} and {} differ in shape or options", comm.rank(), r);
  }
  return {};
}

bool given(const TensorView& view) {
  return view.data != nullptr;
}

// Bytes of a row of the dimensions from `first` on.
i64 bytes_per_row(const TensorView& view, int first) {
  i64 elements = 1;
  for (int i = first; i < view.shape.rank(); ++i) elements *= view.shape[i];
  return dtype_bytes(view.dtype, elements);
}

// [rows, ...] with rows of `bytes` bytes, at any distance.
Status expect_rows(const char* name, const TensorView& view, i64 rows, i64 bytes) {
  const bool fits = view.shape.rank() >= 2 && view.dim(0) == rows && bytes_per_row(view, 1) == bytes;
  TensorView row = view;
  if (view.shape.rank() >= 1) {
    row.shape[0] = 1;
    row.byte_strides[0] = bytes;
  }
  if (fits && (rows == 0 || row.is_dense())) return {};
  return error(Code::kInvalidArgument, "dispatch: {}: expected {} rows of {} bytes, found {}", name, rows, bytes,
               view.describe());
}

// [experts, capacity, ...] with rows of `bytes` bytes, dense.
Status expect_places(const char* name, const TensorView& view, i64 experts, i64 capacity, i64 bytes) {
  if (!given(view)) return {};
  const bool fits = view.shape.rank() >= 3 && view.dim(0) == experts && view.dim(1) == capacity;
  if (fits && view.is_dense() && bytes_per_row(view, 2) == bytes) return {};
  return error(Code::kInvalidArgument, "dispatch: {}: expected dense [{}, {}] rows of {} bytes, found {}", name,
               experts, capacity, bytes, view.describe());
}

Status expect_table(const char* name, const TensorView& view, i64 rows, i64 columns) {
  if (!given(view)) return {};
  WEFT_TRY(expect_tensor(name, view, DType::kI32, {rows, columns}));
  return expect_dense("dispatch", name, view);
}

Result<Layout> plan_layout(const AllToAllShape& s, const AllToAllOptions& options) {
  WEFT_TRY(check_shape(s, options));
  Layout l;
  l.ranks = s.world_size;
  l.dp_size = s.dp_size;
  l.max_tokens = s.max_num_tokens;
  l.source_tokens = (s.max_num_tokens + s.dp_size - 1) / s.dp_size;
  l.tile_tokens = std::max<i64>(1, (l.source_tokens + kMaxTiles - 1) / kMaxTiles);
  l.experts = s.num_experts;
  l.per_token = s.experts_per_token;
  l.capacity = options.expert_capacity > 0 ? options.expert_capacity : l.max_tokens * (l.ranks / l.dp_size);
  l.capacity = std::max<i64>(1, l.capacity);
  l.hidden = s.hidden_dim;
  l.x_bytes = s.hidden_dim_bytes;
  l.scale_bytes = s.hidden_dim_scale_bytes;
  l.exact = options.combine == CombineMode::kExact;
  const i64 local = l.experts_of(0).size();  // rank 0 holds as many as any
  if (std::max(local * l.capacity, l.rows()) > INT32_MAX) {
    return error(Code::kInvalidArgument, "expert parallel: {} experts of {} rows each are more than 2^31 rows", local,
                 l.capacity);
  }
  return l;
}

// What the halves of call `epoch` may do: a receive follows its send, and nothing else does. `sent`: the last call that
// was sent alone.
Status take_turn(const char* op, u32& sent, u32 epoch, bool send, bool receive) {
  if (send && sent == epoch) {
    return error(Code::kInvalidArgument, "{}: the last send still waits for its receive", op);
  }
  if (!send && sent != epoch) return error(Code::kInvalidArgument, "{}: receive without its send", op);
  if (!receive) sent = epoch;
  return {};
}

template <class T>
T* data_of(const AlignedBuffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

}  // namespace

Result<AllToAll> AllToAll::create(Communicator& comm, const AllToAllShape& shape, const AllToAllOptions& options) {
  if (shape.world_size != comm.size() || shape.rank != comm.rank()) {
    return error(Code::kInvalidArgument, "expert parallel: rank, world_size: {} of {} is rank {} of {} here",
                 shape.rank, shape.world_size, comm.rank(), comm.size());
  }
  AllToAll op(comm, shape, options);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_all_to_all(comm, shape, options));
    return op;
  }
  WEFT_ASSIGN(op.layout_, plan_layout(shape, options));
  WEFT_TRY(same_on_all_ranks(comm, shape, options));
  WEFT_TRY(op.allocate());
  return op;
}

Result<i64> AllToAll::symmetric_bytes(const AllToAllShape& shape, const AllToAllOptions& options) {
  WEFT_ASSIGN(const Layout layout, plan_layout(shape, options));
  i64 bytes = 0;
  plan_buffers(layout, dtype_bytes(options.combine_dtype, layout.hidden), 0, &bytes);
  return bytes;
}

Status AllToAll::allocate() {
  const Layout& l = layout_;
  const i64 part_bytes = dtype_bytes(options_.combine_dtype, l.hidden), local = l.experts_of(0).size();
  i64 bytes = 0;
  plan_buffers(l, part_bytes, 0, &bytes);
  WEFT_ASSIGN(const auto base, comm_.alloc<std::byte>(bytes, "expert parallel"));
  buffers_ = plan_buffers(l, part_bytes, base.offset, &bytes);

  Memory& own = memory_;
  route_.counter_pitch = round_up(l.experts, 16);
  own.places = AlignedBuffer(size_t(l.rows() * l.per_token) * sizeof(i32));
  own.begins = AlignedBuffer(size_t(local + 1) * sizeof(i32));
  own.tokens = AlignedBuffer(size_t(l.ranks) * sizeof(i64));
  own.counters = AlignedBuffer(size_t(kMaxCtas * route_.counter_pitch) * sizeof(i64));
  own.reports = AlignedBuffer(2 * sizeof(Report));
  own.sent = AlignedBuffer(kMaxCtas * sizeof(Sent));
  if (options_.cast_x_to_fp8) {
    own.cast_x = AlignedBuffer(size_t(l.max_tokens * l.x_bytes));
    own.cast_scales = AlignedBuffer(size_t(l.max_tokens * l.scale_bytes));
  }
  route_.places = data_of<i32>(own.places);
  route_.begins = data_of<i32>(own.begins);
  route_.tokens = data_of<i64>(own.tokens);
  route_.counters = data_of<i64>(own.counters);
  route_.reports = data_of<Report>(own.reports);
  return {};
}

Range AllToAll::local_experts() const {
  return split_range(experts_, comm_.size(), comm_.rank());
}

u32 AllToAll::last_dispatch() const {
  std::byte* own = comm_.arena().base(comm_.world_rank(comm_.rank()));
  auto* word = reinterpret_cast<EpochWord*>(own + buffers_.dispatched.offset);
  return std::atomic_ref<u32>(word->finished).load(std::memory_order_acquire);
}

TensorView AllToAll::gathered(sym<std::byte> halves, i64 bytes, i64 pitch) const {
  std::byte* own = comm_.arena().base(comm_.world_rank(comm_.rank()));
  TensorView rows = TensorView::dense(own + (halves + (last_dispatch() & 1) * layout_.rows() * pitch).offset,
                                      DType::kU8, {layout_.rows(), bytes});
  rows.byte_strides[0] = pitch;
  return rows;
}

GatheredRows AllToAll::gathered() const {
  if (gpu_) return gpu::gathered(*gpu_);
  return {gathered(buffers_.x, layout_.x_bytes, buffers_.x_pitch),
          gathered(buffers_.scales, layout_.scale_bytes, buffers_.scale_pitch)};
}

Status AllToAll::check(const Exec& exec, const DispatchArgs& a) const {
  const Layout& l = layout_;
  const i64 m = a.indices.shape.rank() == 2 ? a.indices.dim(0) : 0, local = local_experts().size();
  WEFT_TRY(expect_cpu(kDispatch, exec));
  if (exec.num_threads() > kMaxCtas) {
    return error(Code::kInvalidArgument, "dispatch: at most {} threads, found {}", kMaxCtas, exec.num_threads());
  }
  WEFT_TRY(expect_tensor("dispatch: indices", a.indices, DType::kI32, {-1, l.per_token}));
  WEFT_TRY(expect_dense(kDispatch, "indices", a.indices));
  if (m > l.max_tokens) {
    return error(Code::kInvalidArgument, "dispatch: indices: {} are more than max_num_tokens = {}",
                 a.indices.describe(), l.max_tokens);
  }
  if (options_.cast_x_to_fp8) {
    WEFT_TRY(expect_cast_input(a, m, l.hidden));
  } else {
    WEFT_TRY(expect_rows("x", a.x, m, l.x_bytes));
    if (l.scale_bytes > 0) WEFT_TRY(expect_rows("x_scale", a.x_scale, m, l.scale_bytes));
  }
  if (given(a.weights)) {
    WEFT_TRY(expect_tensor("dispatch: weights", a.weights, DType::kF32, {m, l.per_token}));
    WEFT_TRY(expect_dense(kDispatch, "weights", a.weights));
  }
  WEFT_TRY(expect_places("expert_x", a.expert_x, local, l.capacity, l.x_bytes));
  WEFT_TRY(expect_places("expert_x_scale", a.expert_x_scale, local, l.capacity, l.scale_bytes));
  if (given(a.out_num_tokens)) {
    WEFT_TRY(expect_tensor("dispatch: out_num_tokens", a.out_num_tokens, DType::kI32, {local}));
  }
  WEFT_TRY(expect_table("row_map", a.row_map, local, l.capacity));
  WEFT_TRY(expect_table("row_experts", a.row_experts, l.rows(), l.per_token));
  return comm_.status();
}

Status AllToAll::outcome(const Report& r) const {
  if (r.refusing_rank >= 0) {
    return error(Code::kResourceExhausted, "dispatch: bound_m of rank {}: {} tokens more than there are",
                 r.refusing_rank, r.refused_tokens);
  }
  if (r.odd_member >= 0) {
    return error(Code::kInvalidArgument, "dispatch: x: rank {} has another number of tokens than its DP group",
                 r.odd_member);
  }
  if (r.bad_source >= 0) {
    return error(Code::kInvalidArgument, "dispatch: indices: {} of rank {} is not one of {} experts", r.bad_index,
                 r.bad_source, layout_.experts);
  }
  if (r.dropped == 0) return {};
  return error(Code::kResourceExhausted, "dispatch: expert {}: {} rows came, capacity {}; {} pairs are left out",
               r.expert, r.expert_rows, layout_.capacity, r.dropped);
}

// This thread's share of these tokens, to where send and receive read them.
void AllToAll::cast(const Exec& exec, const TensorView& x, Run tokens) {
  const Run share = split_run(tokens.size(), exec.num_threads(), exec.thread());
  with_element(x.dtype, [&](auto element) {
    for (i64 t = tokens.begin + share.begin; t < tokens.begin + share.end; ++t)
      quantise_fp8(x.row<decltype(element)>(t), layout_.hidden, data_of<u8>(memory_.cast_x) + t * layout_.x_bytes,
                   reinterpret_cast<float*>(memory_.cast_scales.data() + t * layout_.scale_bytes));
  });
}

Status AllToAll::dispatch(Exec& exec, const DispatchArgs& a, int phases) {
  if (gpu_) return gpu::dispatch(*gpu_, exec, a, (phases & kSend) != 0, (phases & kReceive) != 0);
  WEFT_TRY(check(exec, a));
  const bool scaled = layout_.scale_bytes > 0;
  DispatchInput in{a.x.data,
                   a.x.byte_strides[0],
                   scaled ? a.x_scale.data : nullptr,
                   scaled ? a.x_scale.byte_strides[0] : 0,
                   a.indices.as<i32>(),
                   a.indices.dim(0),
                   a.bound_m};
  if (options_.cast_x_to_fp8) {
    in.x = memory_.cast_x.data();
    in.x_stride = layout_.x_bytes;
    in.scales = memory_.cast_scales.data();
    in.scale_stride = layout_.scale_bytes;
  }
  HostMachine m = comm_.machine(exec, kDispatch);
  WEFT_TRY(take_turn(kDispatch, sent_by(exec).dispatch, m.epoch(buffers_.dispatched), (phases & kSend) != 0,
                     (phases & kReceive) != 0));
  if (options_.cast_x_to_fp8 && (phases & kSend)) {
    cast(exec, a.x, layout_.run_of(comm_.rank(), bounded(in, layout_).tokens));
    WEFT_TRY(exec.sync());
  }
  if (phases & kSend) ep::dispatch_send(m, layout_, buffers_, in);
  if (!(phases & kReceive)) return exec.sync();
  const DispatchOutput out{a.out_num_tokens.as<i32>(), a.expert_x.data, scaled ? a.expert_x_scale.data : nullptr,
                           a.row_map.as<i32>(), a.row_experts.as<i32>()};
  u32 epoch = 0;
  WEFT_TRY(end_call(comm_, exec, ep::dispatch_receive(m, layout_, buffers_, in, route_, out, epoch)));
  // The next dispatch writes the other report, so a slow thread still finds this one.
  return outcome(route_.reports[epoch & 1]);
}

Status AllToAll::check(const Exec& exec, const CombineArgs& a) const {
  const Layout& l = layout_;
  WEFT_TRY(expect_cpu(kCombine, exec));
  WEFT_TRY(expect_tensor("combine: indices", a.indices, DType::kI32, {-1, l.per_token}));
  WEFT_TRY(expect_dense(kCombine, "indices", a.indices));
  const i64 m = a.indices.dim(0);
  WEFT_TRY(expect_tensor("combine: weights", a.weights, DType::kF32, {m, l.per_token}));
  WEFT_TRY(expect_dense(kCombine, "weights", a.weights));
  const Shape y =
      a.expert_y.shape.rank() == 2 ? Shape{-1, l.hidden} : Shape{local_experts().size(), l.capacity, l.hidden};
  WEFT_TRY(expect_summable("combine: expert_y", a.expert_y.dtype));
  const bool wide = dtype_bytes(a.expert_y.dtype, 1) > dtype_bytes(options_.combine_dtype, 1);
  WEFT_TRY(expect_tensor("combine: expert_y", a.expert_y, wide ? options_.combine_dtype : a.expert_y.dtype, y));
  WEFT_TRY(expect_dense(kCombine, "expert_y", a.expert_y));
  WEFT_TRY(expect_tensor("combine: out", a.out, a.out.dtype, {m, l.hidden}));
  WEFT_TRY(expect_summable("combine: out", a.out.dtype));
  const i64 sent = route_.tokens[comm_.rank()], rows = route_.begins[local_experts().size()];
  if (m < sent) {
    return error(Code::kInvalidArgument, "combine: indices: the dispatch had {} tokens, found {}", sent,
                 a.indices.describe());
  }
  if (a.expert_y.shape.rank() == 2 && a.expert_y.dim(0) < rows) {
    return error(Code::kInvalidArgument, "combine: expert_y: the dispatch brought {} rows, found {}", rows,
                 a.expert_y.describe());
  }
  if (a.accumulate && a.out.dtype != DType::kF32) {
    return error(Code::kInvalidArgument, "combine: out: accumulate needs f32, found {}", a.out.describe());
  }
  return comm_.status();
}

template <class T>
Status AllToAll::combine_as(Exec& exec, const CombineArgs& a, int phases) {
  const CombineInput<T> in{a.expert_y.as<T>(),  layout_.hidden,        a.expert_y.shape.rank() == 2,
                           a.indices.as<i32>(), a.weights.as<float>(), a.indices.dim(0)};
  HostMachine m = comm_.machine(exec, kCombine);
  WEFT_TRY(take_turn(kCombine, sent_by(exec).combine, m.epoch(buffers_.combined), (phases & kSend) != 0,
                     (phases & kReceive) != 0));
  if (phases & kSend) {
    if (!ep::combine_send<T>(m, layout_, buffers_, in, route_)) return comm_.status();
  }
  if (!(phases & kReceive)) return exec.sync();
  const auto sink = [&](i64 token, i64 i, const float* sums, i64 count) {
    with_element(a.out.dtype, [&](auto element) {
      using Out = decltype(element);
      Out* out = a.out.row<Out>(token) + i;
      if constexpr (std::is_same_v<Out, float>) {
        if (a.accumulate) {
          for (i64 e = 0; e < count; ++e) out[e] += sums[e];
          return;
        }
      }
      sum_kernels<Out>().round_to(out, sums, count);
    });
  };
  return end_call(comm_, exec, ep::combine_receive<T>(m, layout_, buffers_, in, route_, sink));
}

Status AllToAll::combine(Exec& exec, const CombineArgs& a, int phases) {
  if (gpu_) return gpu::combine(*gpu_, exec, a, (phases & kSend) != 0, (phases & kReceive) != 0);
  WEFT_TRY(check(exec, a));
  return with_element(a.expert_y.dtype, [&](auto element) { return combine_as<decltype(element)>(exec, a, phases); });
}

}  // namespace weft::ep
