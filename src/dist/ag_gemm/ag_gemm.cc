#include "dist/ag_gemm/ag_gemm.h"

#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "ag_gemm";

struct GemmHooks {
  const HostMachine& m;
  const ActivationView& x;
  const Weight& w;
  const TensorView& y;
  const float* bias;
  Run columns;  // of this thread, whole panels

  // Rows [0, rows) of `from` are rows begin and following of y.
  void multiply(const ActivationView& from, i64 begin) const {
    if (from.rows == 0 || columns.size() == 0) return;
    gemm_tile(from, w, {0, from.rows, columns.begin, columns.end}, y.row<float>(begin) + columns.begin,
              y.byte_strides[0] / i64(sizeof(float)), bias);
  }
  void local(i64 begin, i64) const { multiply(x, begin); }
  void gathered(sym<std::byte> rows, i64 begin, i64 end) const {
    const ActivationView all{m.at(rows, m.rank()), x.format, DeviceKind::kCpu, end, x.k};
    multiply(all.slice(begin, end), begin);
  }
};

}  // namespace

Result<AgGemmPlan> AgGemmPlan::create(Communicator& comm, const AgGemmShape& shape, const char* op) {
  if (shape.max_m < 0 || shape.k < 0) {
    return error(Code::kInvalidArgument, "{}: max_m, k: expected at least 0, found {}, {}", op, shape.max_m, shape.k);
  }
  AgGemmPlan plan;
  AgGemmBuffers& b = plan.buffers;
  b.row_bytes = activation_row_bytes(shape.format, shape.k);
  b.half_bytes = round_up(shape.max_m * b.row_bytes, kFlagLineBytes);
  const i64 flags = flags_per_source(kMaxTiles);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(comm.size() * flags);
  const i64 gather = layout.reserve<std::byte>(2 * b.half_bytes);
  const i64 input = layout.reserve<std::byte>(split_range(shape.max_m, comm.size(), 0).size() * b.row_bytes);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), op));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.gather = layout.at<std::byte>(base, gather);
  plan.input = layout.at<std::byte>(base, input);
  return plan;
}

ActivationView AgGemmPlan::input_view(const Communicator& comm, const AgGemmShape& shape, i64 rows) const {
  const i64 most = split_range(shape.max_m, comm.size(), 0).size();
  WEFT_CHECK(0 <= rows && rows <= most, rows, most);
  std::byte* data = comm.arena().base(comm.world_rank(comm.rank())) + input.offset;
  return {data, shape.format, DeviceKind::kCpu, rows, shape.k};
}

Status AgGemmPlan::check(const char* op, const Communicator& comm, const AgGemmShape& shape, const ActivationView& x,
                         i64 m) {
  const i64 rows = m < 0 ? -1 : split_range(m, comm.size(), comm.rank()).size();
  if (x.format == shape.format && x.k == shape.k && m <= shape.max_m && x.rows == rows) return {};
  return error(Code::kInvalidArgument, "{}: x: expected {} [{}, {}] for m = {} (at most {}), found {} [{}, {}]", op,
               activation_format_name(shape.format), rows, shape.k, m, shape.max_m, activation_format_name(x.format),
               x.rows, x.k);
}

Result<AgGemm> AgGemm::create(Communicator& comm, const AgGemmShape& shape, const AgGemmOptions& options) {
  AgGemm op(comm, shape, options);
  if (comm.device() == DeviceKind::kCuda) {
    if (shape.format != ActivationFormat::kBF16) {
      return error(Code::kInvalidArgument, "{}: format: expected bf16 on GPUs, found {}", kOp,
                   activation_format_name(shape.format));
    }
    WEFT_ASSIGN(op.gpu_, gpu::make_ag_gemm(comm, {.max_m = shape.max_m, .n = shape.n, .k = shape.k}, options.fused));
    const i64 rows = split_range(shape.max_m, comm.size(), 0).size();
    WEFT_ASSIGN(op.gpu_input_, ActivationBuffer::create(DeviceKind::kCuda, shape.format, rows, shape.k));
    return op;
  }
  WEFT_ASSIGN(op.plan_, AgGemmPlan::create(comm, shape, kOp));
  return op;
}

Status AgGemm::check(const Exec& exec, const ActivationView& x, i64 m, const Weight& w, const TensorView& y) const {
  WEFT_TRY(expect_cpu(kOp, exec));
  WEFT_TRY(AgGemmPlan::check(kOp, comm_, shape_, x, m));
  WEFT_TRY(check_gemm_input(x, w));
  WEFT_TRY(expect_tensor("ag_gemm: y", y, DType::kF32, {m, w.n()}));
  return comm_.status();
}

Status AgGemm::run(Exec& exec, const ActivationView& x, i64 m, const Weight& w, const TensorView& y,
                   const TensorView& bias) {
  if (gpu_) {
    WEFT_TRY(gpu::expect_plain(kOp, false, bias));
    WEFT_ASSIGN(const TensorView rows, activation_matrix("ag_gemm: x", x));
    return gpu::run(*gpu_, exec, rows, m, w.matrix(), y);
  }
  WEFT_TRY(check(exec, x, m, w, y));
  if (bias.data) WEFT_TRY(expect_tensor("ag_gemm: bias", bias, DType::kF32, {w.n()}));
  if (comm_.size() == 1) return gemm(exec, {.x = x, .w = w, .y = y, .bias = bias});
  if (m == 0) return exec.sync();
  HostMachine machine = comm_.machine(exec, kOp);
  const Run panels = split_run((w.n() + Weight::kPanel - 1) / Weight::kPanel, exec.num_threads(), exec.thread());
  const Run columns{std::min(w.n(), panels.begin * Weight::kPanel), std::min(w.n(), panels.end * Weight::kPanel)};
  const GemmHooks hooks{machine, x, w, y, bias.as<float>(), columns};
  return end_call(comm_, exec, ag_gemm(machine, plan_.buffers, m, x.data, m <= options_.at_once_rows, hooks));
}

}  // namespace weft
