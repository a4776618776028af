#include "device/cuda/nvtx.cuh"
#include "dist/moe_rs/moe_rs.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "moe_rs";
}  // namespace

Status check_cuda_moe_shape(const char* op, const CudaMoeShape& shape) {
  for (const i64 extent : {shape.max_m, shape.max_rows, shape.n})
    if (extent < 0 || extent > i64(1) << 24)
      return error(Code::kInvalidArgument, "{}: max_m, max_rows, n: expected 0 to 2^24, found {}, {}, {}", op,
                   shape.max_m, shape.max_rows, shape.n);
  WEFT_TRY(expect_fused_element(op, shape.dtype));
  if (shape.n % 8 == 0) return expect_sm90(op);
  return error(Code::kInvalidArgument, "{}: n: expected a multiple of 8, found {}", op, shape.n);
}

Status check_cuda_moe(const char* op, const CudaMoeShape& shape, const CudaMoeArgs& args, i64 y_rows) {
  WEFT_TRY(expect_tensor("rows", args.rows, DType::kI32, {-1, -1}).with_context(op));
  const i64 m = args.rows.dim(0), per_token = args.rows.dim(1);
  WEFT_TRY(expect_tensor("a", args.a, shape.dtype, {-1, -1}).with_context(op));
  const i64 rows = args.a.dim(0), k = args.a.dim(1);
  if (m > shape.max_m || rows > shape.max_rows)
    return error(Code::kInvalidArgument, "{}: rows {}, a {}: more than max_m = {} tokens or max_rows = {}", op,
                 args.rows.describe(), args.a.describe(), shape.max_m, shape.max_rows);
  WEFT_TRY(expect_tensor("w", args.w, shape.dtype, {-1, shape.n, k}).with_context(op));
  WEFT_TRY(expect_tensor("y", args.y, shape.dtype, {y_rows, shape.n}).with_context(op));
  WEFT_TRY(expect_tensor("weights", args.weights, DType::kF32, {m, per_token}).with_context(op));
  for (const auto& [name, view] :
       {std::pair<const char*, const TensorView&>{"rows", args.rows}, {"y", args.y}, {"weights", args.weights}})
    WEFT_TRY(expect_cuda(op, name, view));
  const TensorView products = TensorView::dense(args.y.data, shape.dtype, {rows, shape.n}, DeviceKind::kCuda);
  return check_cuda_grouped_gemm({.x = args.a, .map = {}, .offsets = args.offsets, .w = args.w, .y = products})
      .with_context(op);
}

Result<CudaMoeRs> CudaMoeRs::create(CudaCommunicator& comm, const CudaMoeShape& shape) {
  WEFT_TRY(check_cuda_moe_shape(kOp, shape));
  CudaMoeRs op(comm, shape);
  const int ranks = comm.size();
  WEFT_TRY(prepare_cuda_grouped_gemm());
  WEFT_ASSIGN(op.products_, DeviceBuffer::create(size_t(shape.max_rows * shape.n) * 2));
  if (ranks == 1) return std::move(op);
  WEFT_ASSIGN(auto words, CudaExpertWords<false>::create(comm, kOp, shape.max_m, shape.n, shape.dtype));
  op.words_ = std::move(words);
  return std::move(op);
}

Status CudaMoeRs::run(cudaStream_t stream, const CudaMoeArgs& args) {
  const NvtxRange range{kOp};
  const int ranks = comm_->size();
  WEFT_TRY(expect_tensor("moe_rs: rows", args.rows, DType::kI32, {-1, -1}));
  const i64 m = args.rows.dim(0), rows = args.a.dim(0);
  WEFT_TRY(check_cuda_moe(kOp, shape_, args, split_range(m, ranks, comm_->rank()).size()));
  WEFT_TRY(comm_->status());
  if (m == 0 || shape_.n == 0) return {};
  const TensorView products = TensorView::dense(products_.data(), shape_.dtype, {rows, shape_.n}, DeviceKind::kCuda);
  const bool early = comm_->arena().ranks_on_this_gpu() == 1;
  WEFT_TRY(cuda_grouped_gemm(stream, {.x = args.a,
                                      .map = {},
                                      .offsets = args.offsets,
                                      .w = args.w,
                                      .y = products,
                                      .sms = comm_->max_ctas(),
                                      .early = early}));
  if (ranks == 1) return cuda_expert_sum(stream, {products, args.rows, args.weights, args.y, early});
  WEFT_ASSIGN(const ExpertSums sums, expert_sums_of(products, args.rows, args.weights));
  return words_->run(stream, *comm_, sums, m, args.y.data);
}

}  // namespace weft
