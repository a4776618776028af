#include "device/cuda/nvtx.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "dist/moe_rs/moe_rs.cuh"
#include "ops/gemm/gemm.cuh"
#include "ops/grouped_gemm/cuda_sum.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "moe_rs";
constexpr int kThreads = 512;

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  ReduceScatterBuffers<bf16> buffers;
  ExpertSums sums;
  bf16* y;  // own rows
  i64 m;
  int tiles;  // of a rank's tokens
};

// reduce_scatter()'s protocol (dist/reduce_scatter/protocol.h) with sums that go from registers to the peers' stages,
// and own ones that are made when the peers' are added: nothing lies in between.
template <int Ranks>
__global__ void __launch_bounds__(kThreads, 1) moe_rs_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaMachine<Ranks> m(params.group);
  const ReduceScatterBuffers<bf16>& b = params.buffers;
  const u32 epoch = m.epoch(b.epoch), per_row = u32(params.sums.n / 8);  // packs of 8, none of which spans two rows
  const sym<bf16> half = b.stage + half_of<Fault::kNone>(epoch) * Ranks * b.slot;
  // visit(pack, sums) for this rank's sums of tile `tile` of p's tokens, rounded to bf16.
  const auto each_pack = [&](int p, i64 tile, auto&& visit) {
    const Run tokens = split_run(params.m, Ranks, p);
    const Tiles tiles = cut_into(tokens.size() * params.sums.n, params.tiles);
    if (tile >= tiles.count) return;
    const i64 first = tiles.begin(tile) / 8;
    each_lane(m, tiles.end(tile) / 8 - first, [&](i64 i) {
      const u32 pack = u32(first + i);
      float sums[8];
      params.sums.add_up(tokens.begin + pack / per_row, pack % per_row * 8, sums);
#pragma unroll
      for (float& sum : sums) sum = widen(narrow<bf16>(sum));
      visit(i64(pack) * 8, sums);
    });
  };
  peers(m, [&](int p) {
    m.tiles(params.tiles, [&](i64 first, i64 last) {
      for (i64 tile = first; tile < last; ++tile)
        each_pack(p, tile,
                  [&](i64 at, const float* sums) { store_sums(m.at(half + (m.rank() * b.slot + at), p), sums, 8); });
      stores_done<Fault::kNone>(m);
      if (m.lane() == 0) {
        for (i64 tile = first; tile < last; ++tile) signal<Fault::kNone>(m, b.arrived.at(m.rank(), tile), p, epoch);
        m.flush(p);
      }
      return true;
    });
  });
  const bool heard = m.tiles(params.tiles, [&](i64 first, i64 last) {
    for (i64 tile = first; tile < last; ++tile) {
      if (!peers_until(m, [&](int p) { return hear<Fault::kNone>(m, b.arrived.at(p, tile), p, epoch); })) return false;
      each_pack(m.rank(), tile, [&](i64 at, const float* own) {
        float sums[8];
        for (int p = 0; p < Ranks; ++p) {
          const Pack<bf16> part = p == m.rank() ? Pack<bf16>{} : m.get((half + (p * b.slot + at)).as<Pack<bf16>>());
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float value = p == m.rank() ? own[i] : widen(part.values[i]);
            sums[i] = p == 0 ? value : sums[i] + value;
          }
        }
        store_sums(params.y + at, sums, 8);
      });
    }
    return true;
  });
  if (heard) finish(m, b.epoch, epoch);
}

}  // namespace

Status check_cuda_moe_shape(const char* op, const CudaMoeShape& shape) {
  for (const i64 extent : {shape.max_m, shape.max_rows, shape.n})
    if (extent < 0 || extent > i64(1) << 24)
      return error(Code::kInvalidArgument, "{}: max_m, max_rows, n: expected 0 to 2^24, found {}, {}, {}", op,
                   shape.max_m, shape.max_rows, shape.n);
  if (shape.n % 8 == 0) return expect_sm90(op);
  return error(Code::kInvalidArgument, "{}: n: expected a multiple of 8, found {}", op, shape.n);
}

Status check_cuda_moe(const char* op, const CudaMoeShape& shape, const CudaMoeArgs& args, i64 y_rows) {
  WEFT_TRY(expect_tensor("rows", args.rows, DType::kI32, {-1, -1}).with_context(op));
  const i64 m = args.rows.dim(0), per_token = args.rows.dim(1);
  WEFT_TRY(expect_tensor("a", args.a, DType::kBF16, {-1, -1}).with_context(op));
  const i64 rows = args.a.dim(0), k = args.a.dim(1);
  if (m > shape.max_m || rows > shape.max_rows)
    return error(Code::kInvalidArgument, "{}: rows {}, a {}: more than max_m = {} tokens or max_rows = {}", op,
                 args.rows.describe(), args.a.describe(), shape.max_m, shape.max_rows);
  WEFT_TRY(expect_tensor("w", args.w, DType::kBF16, {-1, shape.n, k}).with_context(op));
  WEFT_TRY(expect_tensor("y", args.y, DType::kBF16, {y_rows, shape.n}).with_context(op));
  WEFT_TRY(expect_tensor("pairs", args.pairs, DType::kI32, {rows}).with_context(op));
  WEFT_TRY(expect_tensor("weights", args.weights, DType::kF32, {m, per_token}).with_context(op));
  for (const auto& [name, view] : {std::pair<const char*, const TensorView&>{"rows", args.rows},
                                   {"y", args.y},
                                   {"pairs", args.pairs},
                                   {"weights", args.weights}})
    WEFT_TRY(expect_cuda(op, name, view));
  const TensorView products = TensorView::dense(args.y.data, DType::kBF16, {rows, shape.n}, DeviceKind::kCuda);
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
  WEFT_TRY(with_ranks(ranks, [&](auto count) {  // before the collective allocation, which waits for all ranks
    return prepare_kernel(kOp, reinterpret_cast<const void*>(moe_rs_kernel<count()>), 0);
  }));
  ReduceScatterBuffers<bf16>& b = op.buffers_;
  b.slot = round_up(split_range(shape.max_m, ranks, 0).size() * shape.n, kTileUnit);
  const i64 flags = flags_per_source(kCudaMaxCtas);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 stage = layout.reserve<bf16>(2 * ranks * b.slot);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.stage = layout.at<bf16>(base, stage);
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
  const TensorView products = TensorView::dense(products_.data(), DType::kBF16, {rows, shape_.n}, DeviceKind::kCuda);
  WEFT_TRY(cuda_grouped_gemm(
      stream, {.x = args.a, .map = {}, .offsets = args.offsets, .w = args.w, .y = products, .sms = comm_->max_ctas()}));
  if (ranks == 1) return cuda_expert_sum(stream, {products, args.pairs, args.rows, args.weights, args.y});
  const i64 most = split_range(m, ranks, 0).size() * shape_.n;
  const CudaGrid grid = cuda_grid(most * 16, comm_->max_ctas());  // 8 experts are read for a row that is sent
  return with_ranks(ranks, [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp),
                                 buffers_,
                                 {products.as<const bf16>(), shape_.n, args.pairs.as<const i32>(),
                                  args.rows.as<const i32>(), args.weights.as<const float>(), int(args.rows.dim(1))},
                                 args.y.as<bf16>(),
                                 m,
                                 grid.ctas};
    return launch(kOp, moe_rs_kernel<count()>, {.grid = unsigned(grid.ctas), .block = kThreads}, stream, params);
  });
}

}  // namespace weft
