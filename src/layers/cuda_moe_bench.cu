#include "layers/cuda_moe_bench.h"

#include <algorithm>

#include "comm/nccl.cuh"
#include "layers/cuda_layer_bench.cuh"
#include "layers/moe_layer.h"
#include "layers/workspace.h"
#include "ops/gemm/gemm.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft {
namespace {

using namespace layer_bench;

// ids of this rank's experts, from 0; others are no expert.
__global__ void local_ids_kernel(const i32* ids, i64 n, i32 first, i32 count, i32* local) {
  for (i64 i = blockIdx.x * i64(blockDim.x) + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x) {
    const i32 e = ids[i] - first;
    local[i] = e >= 0 && e < count ? e : -1;
  }
}

TensorView dense_view(const DeviceBuffer& memory, DType dtype, const Shape& shape) {
  return TensorView::dense(memory.data(), dtype, shape, DeviceKind::kCuda);
}

class RankMoe {
 public:
  RankMoe(CudaCommunicator& comm, cudaStream_t stream, const CudaMoeLayerBenchOptions& options)
      : comm_(comm), handle_(Communicator::on_gpu(comm)), stream_(stream), o_(options) {}

  Status prepare() {
    most_ = *std::max_element(o_.m.begin(), o_.m.end());
    const int ranks = comm_.size(), rank = comm_.rank();
    WEFT_ASSIGN(const LayerMode mode, parse_layer_mode(o_.mode));
    if (mode == LayerMode::kAuto) return error(Code::kInvalidArgument, "moe: mode: expected ar or ag_rs");
    if (o_.ep < 1 || ranks % o_.ep != 0)
      return error(Code::kInvalidArgument, "moe: ep: expected a divisor of {} ranks, found {}", ranks, o_.ep);
    const int tp = ranks / o_.ep;
    if (o_.ffn < 8 * tp || o_.ffn % 8 != 0)
      return error(Code::kInvalidArgument, "moe: ffn: expected a multiple of 8, 8 columns for every rank, found {}",
                   o_.ffn);
    WEFT_ASSIGN(plan_, ParallelPlan::create(handle_, {.tp = tp, .ep = o_.ep}));
    experts_ = split_range(o_.experts, o_.ep, plan_->ep.rank());
    columns_ = split_range(o_.ffn / 8, tp, plan_->tp.rank()).size() * 8;
    const ActivationFormat format = plain_format(o_.dtype);
    WEFT_ASSIGN(moe_, MoeParallel::create(*plan_,
                                          {.max_tokens = most_,
                                           .hidden = o_.hidden,
                                           .experts = o_.experts,
                                           .per_token = o_.per_token,
                                           .expert_ffn = columns_,
                                           .in_format = format,
                                           .out_format = format},
                                          mode));
    const i64 pairs = most_ * o_.per_token, local = experts_.size();
    WEFT_TRY(elements(x_, most_ * o_.hidden));
    WEFT_TRY(elements(ids_, 2 * pairs));
    WEFT_TRY(elements(weights_, 2 * pairs));
    WEFT_ASSIGN(residual_, make_tensor(DeviceKind::kCuda, DType::kF32, {most_, o_.hidden}));
    WEFT_TRY(fill_random(stream_, o_.dtype, x_.data(), most_ * o_.hidden, 1));  // the same on every rank
    MoeWeights weights;
    WEFT_ASSIGN(Tensor router, random_weights({o_.experts, o_.hidden}, 2, o_.hidden));
    WEFT_ASSIGN(Tensor gate_up, random_weights({local, 2 * columns_, o_.hidden}, 100 + u32(rank), o_.hidden));
    WEFT_ASSIGN(Tensor down, random_weights({local, o_.hidden, columns_}, 200 + u32(rank), o_.ffn));
    WEFT_ASSIGN(weights.router, Weight::on_gpu("router", std::move(router)));
    WEFT_ASSIGN(weights.gate_up, GroupedWeight::on_gpu("gate_up", std::move(gate_up)));
    WEFT_ASSIGN(weights.down, GroupedWeight::on_gpu("down", std::move(down)));
    layer_.emplace(std::move(weights), 0.0f, o_.normalise);
    return comm_.synchronize(stream_);
  }

  Result<CudaMlpCheckRow> check(i64 m) {
    WEFT_TRY(set_input(m));
    return check_calls(
        comm_, stream_, m, [&] { return call(m); }, [&](const std::vector<float>& y) { return distance_of(m, y); });
  }

  Status time(CudaMlpReport& report) {
    report.cublas = "not used";
    auto nccl = NcclCommunicator::create(comm_.world(), deadline());
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    if (nccl.ok()) nccl_ = std::move(nccl.value());
    const i64 pairs = most_ * o_.per_token;
    WEFT_TRY(elements(all_x_, most_ * o_.hidden));
    WEFT_TRY(elements(logits_, most_ * o_.experts));
    WEFT_TRY(elements(activated_, pairs * columns_));
    WEFT_TRY(elements(products_, pairs * o_.hidden));
    WEFT_TRY(elements(sums_, most_ * o_.hidden));
    WEFT_TRY(elements(y_, most_ * o_.hidden));
    for (DeviceBuffer* buffer : {&local_ids_, &map_, &placed_, &places_}) WEFT_TRY(elements(*buffer, 2 * pairs));
    WEFT_TRY(elements(offsets_, 2 * (o_.experts + 1)));
    for (const i64 m : o_.m) {
      if (m == 0) continue;
      WEFT_TRY(set_input(m));
      WEFT_TRY(call(m).status());
      WEFT_TRY(routing(m));
      std::vector<NamedCall> calls;
      calls.emplace_back("local", [=, this] { return apart(m, false); });
      if (nccl_ && m % comm_.size() == 0) calls.emplace_back("local+nccl", [=, this] { return apart(m, true); });
      calls.emplace_back("weft/" + o_.mode + (o_.ep > 1 ? fmt::format("/ep{}", o_.ep) : ""),
                         [=, this] { return call(m).status(); });
      const double flop = 6.0 * double(m * o_.per_token) * double(o_.hidden) * double(o_.ffn) / comm_.size();
      WEFT_TRY(time_variants(comm_, stream_, m, o_.regimes, flop, o_.repeats, calls, report));
    }
    return {};
  }

 private:
  static Status elements(DeviceBuffer& buffer, i64 count) {
    WEFT_ASSIGN(buffer, DeviceBuffer::create(size_t(std::max<i64>(count, 8)) * 2));
    return {};
  }
  Result<Tensor> random_weights(const Shape& shape, u32 seed, i64 whole_k) {
    WEFT_ASSIGN(Tensor made, make_tensor(DeviceKind::kCuda, o_.dtype, shape));
    WEFT_TRY(fill_weights(stream_, o_.dtype, made.view.data, shape.elements(), seed, whole_k));
    return std::move(made);
  }
  const TensorView& gate_up() const { return layer_->weights().gate_up.matrices(); }
  const TensorView& down() const { return layer_->weights().down.matrices(); }
  const TensorView& router() const { return layer_->weights().router.matrix(); }
  TensorView tokens(i64 first, i64 count) const {
    return matrix(x_.as<u16>() + first * o_.hidden, count, o_.hidden, o_.dtype);
  }
  bool sharded() const { return o_.mode != "ar"; }
  Range rows(i64 m) const { return sharded() ? split_range(m, comm_.size(), comm_.rank()) : Range{0, m}; }

  // This rank's of the first m rows of x to where a norm would write them.
  Status set_input(i64 m) {
    const Range mine = rows(m);
    if (mine.size() == 0) return {};
    const ActivationView to = moe_->input(mine.size());
    const size_t row_bytes = size_t(o_.hidden) * 2;
    WEFT_CUDA_TRY(cudaMemcpy2DAsync(to.data, size_t(to.row_bytes()), x_.as<u16>() + mine.begin * o_.hidden, row_bytes,
                                    row_bytes, size_t(mine.size()), cudaMemcpyDefault, stream_));
    return comm_.synchronize(stream_);
  }

  // The residual is not looked at: what the layer adds waits beside it.
  Result<TensorView> call(i64 m) {
    Exec exec = comm_.exec(stream_);
    Residual residual{.rows = leading(residual_, rows(m).size(), o_.hidden)};
    WEFT_TRY(layer_->project(exec, *moe_, m, residual));
    return residual.addend;
  }

  // ids_ and weights_ of the last call's m tokens, of all ranks, on every rank.
  Status routing(i64 m) {
    WEFT_TRY(comm_.synchronize(stream_));
    const bool own = o_.ep > 1 && sharded();  // what each knows
    const i64 each = o_.per_token, mine = own ? rows(m).size() : m;
    const MoeParallel::Routing& routed = moe_->routing();
    for (const auto& [from, to] : {std::pair{&routed.ids, &ids_}, std::pair{&routed.weights, &weights_}}) {
      std::string bytes(size_t(mine * each) * 4, '\0');
      WEFT_CUDA_TRY(cudaMemcpy2D(bytes.data(), 4, from->data, size_t(from->byte_strides[1]), 4, bytes.size() / 4,
                                 cudaMemcpyDefault));
      if (own) {
        WEFT_ASSIGN(const auto all, comm_.world().all_gather(bytes, deadline()));
        bytes.clear();
        for (const std::string& theirs : all) bytes += theirs;
      }
      WEFT_CUDA_TRY(cudaMemcpy(to->data(), bytes.data(), bytes.size(), cudaMemcpyDefault));
    }
    return {};
  }

  Result<double> distance_of(i64 m, const std::vector<float>& y) {
    if (m == 0) return 0.0;
    WEFT_TRY(routing(m));
    const i64 count = std::min(m, kSampledRows), stride = m / count, each = o_.per_token;
    std::vector<i32> ids(size_t(count * each));
    std::vector<float> weights(ids.size());
    for (i64 s = 0; s < count; ++s) {
      const size_t bytes = size_t(each) * 4;
      WEFT_CUDA_TRY(cudaMemcpy(ids.data() + s * each, ids_.as<i32>() + s * stride * each, bytes, cudaMemcpyDefault));
      WEFT_CUDA_TRY(
          cudaMemcpy(weights.data() + s * each, weights_.as<float>() + s * stride * each, bytes, cudaMemcpyDefault));
    }
    WEFT_TRY(check_routing(count, stride, ids, weights));
    WEFT_ASSIGN(const auto their_ids, DeviceBuffer::create(ids.size() * 4));
    WEFT_ASSIGN(const auto their_weights, DeviceBuffer::create(ids.size() * 4));
    WEFT_CUDA_TRY(cudaMemcpy(their_ids.data(), ids.data(), ids.size() * 4, cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaMemcpy(their_weights.data(), weights.data(), ids.size() * 4, cudaMemcpyDefault));
    const Samples samples{.count = count,
                          .stride = stride,
                          .per_token = each,
                          .ids = their_ids.as<i32>(),
                          .weights = their_weights.as<float>(),
                          .first_expert = experts_.begin,
                          .experts = experts_.size()};
    return with_fused_element(o_.dtype, [&](auto element) {
      using T = decltype(element);
      return distance<T>(comm_, stream_, samples, x_.as<T>(), o_.hidden, gate_up().as<T>(), down().as<T>(), columns_,
                         rows(m), y);
    });
  }

  // Against logits in f64. A logit is rounded once: by 2^-9 of it, f16 2^-12.
  Status check_routing(i64 count, i64 stride, const std::vector<i32>& ids, const std::vector<float>& weights) const {
    WEFT_ASSIGN(const auto router, floats_of(this->router()));
    std::vector<double> logits(size_t(o_.experts));
    for (i64 s = 0; s < count; ++s) {
      WEFT_ASSIGN(const auto x, floats_of(tokens(s * stride, 1)));
      double largest = 0, sum = 0, all = 0, least = std::numeric_limits<double>::infinity();
      for (i64 e = 0; e < o_.experts; ++e) {
        double dot = 0;
        for (i64 i = 0; i < o_.hidden; ++i) dot += double(x[size_t(i)]) * double(router[size_t(e * o_.hidden + i)]);
        logits[size_t(e)] = dot;
        largest = std::max(largest, std::abs(dot));
        all += std::exp(dot);
      }
      const double slack = (o_.dtype == DType::kF16 ? 0x1p-11 : 0x1p-8) * largest + 1e-6;
      std::vector<bool> chosen(size_t(o_.experts));
      for (i64 j = 0; j < o_.per_token; ++j) {
        const i32 e = ids[size_t(s * o_.per_token + j)];
        if (e < 0 || e >= o_.experts || chosen[size_t(e)])
          return error(Code::kDataLoss, "token {}: choice {} is expert {}, of {}", s * stride, j, e, o_.experts);
        chosen[size_t(e)] = true;
        least = std::min(least, logits[size_t(e)]);
        sum += std::exp(logits[size_t(e)]);
      }
      for (i64 e = 0; e < o_.experts; ++e)
        if (!chosen[size_t(e)] && logits[size_t(e)] > least + slack)
          return error(Code::kDataLoss, "token {}: expert {} is left out with logit {}, one with {} is in", s * stride,
                       e, logits[size_t(e)], least);
      for (i64 j = 0; j < o_.per_token; ++j) {
        const size_t at = size_t(s * o_.per_token + j);
        const double expected = std::exp(logits[size_t(ids[at])]) / (o_.normalise ? sum : all);
        if (!(std::abs(double(weights[at]) - expected) <= expected * (std::exp(2 * slack) - 1) + 1e-6))
          return error(Code::kDataLoss, "token {}: expert {} has weight {}, expected {}", s * stride, ids[at],
                       weights[at], expected);
      }
    }
    return {};
  }

  // This rank's share of the work, routed as in the last call: operators one after the other, x and sums by NCCL.
  Status apart(i64 m, bool communicates) {
    const Range mine = rows(m);
    const i64 pairs = m * o_.per_token, share = m / comm_.size(), local = experts_.size();
    WEFT_TRY(cuda_gemm(stream_, {.x = tokens(mine.begin, mine.size()),
                                 .w = router(),
                                 .y = matrix(logits_.data(), mine.size(), o_.experts, o_.dtype)}));
    TensorView x = tokens(0, m);
    if (communicates && sharded()) {
      WEFT_TRY(nccl_->all_gather(o_.dtype, x_.as<u16>() + mine.begin * o_.hidden, all_x_.data(),
                                 size_t(share * o_.hidden), stream_));
      x = matrix(all_x_.data(), m, o_.hidden, o_.dtype);
    }
    WEFT_TRY(launch("local_ids", local_ids_kernel, {.grid = 64, .block = 256}, stream_, ids_.as<i32>(), pairs,
                    i32(experts_.begin), i32(local), local_ids_.as<i32>()));
    const TensorView offsets = dense_view(offsets_, DType::kI32, {local + 1}),
                     map = dense_view(map_, DType::kI32, {pairs});
    const TensorView placed = dense_view(placed_, DType::kF32, {m, o_.per_token});
    const TensorView places = dense_view(places_, DType::kI32, {m, o_.per_token});
    const TensorView activated = matrix(activated_.data(), pairs, columns_, o_.dtype);
    const TensorView products = matrix(products_.data(), pairs, o_.hidden, o_.dtype);
    const TensorView sums = matrix(sums_.data(), m, o_.hidden, o_.dtype);
    WEFT_TRY(cuda_sort_experts(stream_, {.ids = dense_view(local_ids_, DType::kI32, {m, o_.per_token}),
                                         .offsets = offsets,
                                         .map = map,
                                         .rows = places,
                                         .weights = dense_view(weights_, DType::kF32, {m, o_.per_token}),
                                         .placed = placed,
                                         .early = true}));
    WEFT_TRY(cuda_grouped_gemm(
        stream_,
        {.x = x, .map = map, .offsets = offsets, .w = gate_up(), .y = activated, .swiglu = true, .early = true}));
    WEFT_TRY(cuda_grouped_gemm(
        stream_, {.x = activated, .map = {}, .offsets = offsets, .w = down(), .y = products, .early = true}));
    WEFT_TRY(
        cuda_expert_sum(stream_, {.products = products, .rows = places, .weights = placed, .y = sums, .early = true}));
    if (!communicates) return {};
    return sharded() ? nccl_->reduce_scatter(o_.dtype, sums_.data(), y_.data(), size_t(share * o_.hidden), stream_)
                     : nccl_->all_reduce(o_.dtype, sums_.data(), y_.data(), size_t(m * o_.hidden), stream_);
  }

  CudaCommunicator& comm_;
  Communicator handle_;
  const cudaStream_t stream_;
  const CudaMoeLayerBenchOptions& o_;
  i64 most_ = 0, columns_ = 0;
  Range experts_;  // whose weights this rank holds
  std::optional<ParallelPlan> plan_;
  std::unique_ptr<MoeParallel> moe_;
  std::optional<MoeLayer> layer_;
  Tensor residual_;
  DeviceBuffer x_, ids_, weights_;
  // Of the rivals.
  std::unique_ptr<NcclCommunicator> nccl_;
  DeviceBuffer y_, all_x_, logits_, activated_, products_, sums_, local_ids_, offsets_, map_, placed_, places_;
};

constexpr size_t kArenaBytes = size_t(4) << 30;

}  // namespace

Result<CudaMlpReport> check_cuda_moe_layer(const CudaMoeLayerBenchOptions& options) {
  return run_layer<RankMoe>("moe", options, kArenaBytes, false);
}
Result<CudaMlpReport> bench_cuda_moe_layer(const CudaMoeLayerBenchOptions& options) {
  return run_layer<RankMoe>("moe", options, kArenaBytes, true);
}

}  // namespace weft
