#include "dist/exchange/cuda_moe_bench.h"

#include <algorithm>
#include <random>

#include "comm/cuda_bench_ranks.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "dist/ag_moe/ag_moe.cuh"
#include "dist/moe_ar/moe_ar.cuh"
#include "ops/gemm/cublas.cuh"

namespace weft {
namespace {

constexpr i64 kExperts = 128, kPerToken = 8;
constexpr int kCalls = 20;

struct Shape4 {
  const char* name;
  i64 n, k;
};
constexpr Shape4 kGather[] = {{"qwen3-30b-a3b gate_up", 384, 2048}, {"qwen3-235b-a22b gate_up", 768, 4096}};
constexpr Shape4 kReduce[] = {{"qwen3-30b-a3b down", 2048, 192}, {"qwen3-235b-a22b down", 4096, 384}};

struct Variant {
  std::string name;
  std::function<Status()> call;
  const void* y = nullptr;  // where the operator's output comes, if it is one
};

TensorView dense(const void* data, DType dtype, Shape shape) {
  return TensorView::dense(const_cast<void*>(data), dtype, shape, DeviceKind::kCuda);
}

// One rank, one shape, one number of tokens.
class SizeBench {
 public:
  SizeBench(CudaCommunicator& comm, cudaStream_t stream, const CudaMoeBenchOptions& options, NcclCommunicator* nccl,
            const Shape4& shape, i64 m)
      : comm_(comm), stream_(stream), options_(options), nccl_(nccl), shape_(shape), m_(m), rows_(m * kPerToken) {}

  Status run(CudaMoeBenchReport& report) {
    WEFT_TRY(make_inputs());
    if (options_.op == "ag_moe") {
      WEFT_TRY(make_gather());
    } else {
      WEFT_TRY(make_reduce());
    }
    for (const Variant& variant : variants_) {
      WEFT_TRY(settle(variant.call));  // loads what is loaded lazily
      WEFT_TRY(compare(variant));
    }
    for (const std::string& regime : options_.regimes) {
      std::vector<TimedCall> calls;
      for (const Variant& variant : variants_) calls.push_back({variant.name, variant.call});
      WEFT_ASSIGN(const auto times,
                  time_calls(comm_, stream_, calls, regime == "burst" ? Regime::kBurst : Regime::kSustained, kCalls,
                             options_.repeats));
      for (size_t i = 0; i < times.size(); ++i) {
        const CallTime& t = times[i];
        report.rows.push_back(
            {shape_.name,
             shape_.n,
             shape_.k,
             {m_, regime, variants_[i].name, t.us, t.us_lower, t.us_upper, t.ratio, t.ratio_lower, t.ratio_upper}});
      }
    }
    for (const Variant& variant : variants_) {
      if (!options_.trace || !variant.y) continue;
      WEFT_ASSIGN(auto trace, trace_calls(comm_, stream_, variant.call));
      report.traces.push_back(std::move(trace));
    }
    return {};
  }

 private:
  static Deadline deadline() { return Deadline::after(std::chrono::seconds(60)); }
  static Result<DeviceBuffer> buffer(i64 elements) { return DeviceBuffer::create(size_t(elements) * 2); }
  bool splits_evenly() const { return m_ % comm_.size() == 0; }
  i64 own_rows() const { return split_range(m_, comm_.size(), comm_.rank()).size(); }
  TensorView matrix(const DeviceBuffer& b, i64 rows, i64 columns) const {
    return dense(b.data(), options_.dtype, {rows, columns});
  }
  TensorView weight() const { return dense(w_.data(), options_.dtype, {kExperts, shape_.n, shape_.k}); }
  TensorView offsets() const { return dense(offsets_.data(), DType::kI32, {kExperts + 1}); }
  TensorView map() const { return dense(map_.data(), DType::kI32, {rows_}); }
  TensorView token_rows() const { return dense(token_rows_.data(), DType::kI32, {m_, kPerToken}); }
  TensorView table(const DeviceBuffer& b) const { return dense(b.data(), DType::kF32, {m_, kPerToken}); }

  Status settle(const std::function<Status()>& call) const {
    WEFT_TRY(call());
    WEFT_TRY(comm_.synchronize(stream_));
    return comm_.world().barrier(deadline());
  }

  Status make_inputs() {
    std::mt19937 random(1);  // the same routing on every rank
    std::vector<i32> order(kExperts), ids;
    std::vector<float> factors;
    for (i32 e = 0; e < i32(kExperts); ++e) order[size_t(e)] = e;
    for (i64 t = 0; t < m_; ++t)
      for (size_t j = 0; j < size_t(kPerToken); ++j) {  // the first steps of a shuffle
        std::swap(order[j], order[j + random() % (order.size() - j)]);
        ids.push_back(order[j]);
        factors.push_back(float(random() % 1000) / 4000.0f);
      }
    for (DeviceBuffer* b : {&ids_, &factors_, &map_, &placed_, &token_rows_}) {
      WEFT_ASSIGN(*b, DeviceBuffer::create(ids.size() * 4));
    }
    WEFT_ASSIGN(offsets_, DeviceBuffer::create(size_t(kExperts + 1) * 4));
    WEFT_CUDA_TRY(cudaMemcpy(ids_.data(), ids.data(), ids.size() * 4, cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaMemcpy(factors_.data(), factors.data(), factors.size() * 4, cudaMemcpyDefault));
    WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
    WEFT_TRY(cuda_sort_experts(stream_, {.ids = dense(ids_.data(), DType::kI32, {m_, kPerToken}),
                                         .offsets = offsets(),
                                         .map = map(),
                                         .rows = token_rows(),
                                         .weights = table(factors_),
                                         .placed = table(placed_)}));
    WEFT_ASSIGN(w_, buffer(kExperts * shape_.n * shape_.k));
    WEFT_TRY(fill_random(stream_, options_.dtype, w_.data(), kExperts * shape_.n * shape_.k, u32(comm_.rank()) + 101));
    const i64 x_rows = options_.op == "ag_moe" ? m_ : rows_;
    WEFT_ASSIGN(x_, buffer(x_rows * shape_.k));  // of ag_moe: own rows first
    WEFT_TRY(fill_random(stream_, options_.dtype, x_.data(), x_rows * shape_.k, u32(comm_.rank()) + 1));
    for (DeviceBuffer* b : {&y_, &expected_, &product_}) {
      WEFT_ASSIGN(*b, buffer(rows_ * shape_.n));
    }
    return {};
  }

  Status grouped(const TensorView& x, bool gathers, const DeviceBuffer& y) const {
    return cuda_grouped_gemm(stream_, {.x = x,
                                       .map = gathers ? map() : TensorView{},
                                       .offsets = offsets(),
                                       .w = weight(),
                                       .y = matrix(y, rows_, shape_.n)});
  }

  Status make_gather() {
    out_elements_ = rows_ * shape_.n;
    WEFT_ASSIGN(all_, buffer(m_ * shape_.k));
    variants_.push_back({"weft/grouped_gemm", [this] { return grouped(matrix(all_, m_, shape_.k), true, expected_); }});
    if (nccl_ && splits_evenly()) {
      plain_ = [this]() -> Status {
        WEFT_TRY(nccl_->all_gather(options_.dtype, x_.data(), all_.data(), size_t(own_rows() * shape_.k), stream_));
        return grouped(matrix(all_, m_, shape_.k), true, expected_);
      };
      variants_.push_back({"grouped_gemm+nccl", plain_});
    }
    for (const std::string& name : options_.variants) {
      WEFT_ASSIGN(auto made,
                  CudaAgMoe::create(comm_, {.max_m = m_, .k = shape_.k, .dtype = options_.dtype}, {.variant = name}));
      auto op = std::make_shared<CudaAgMoe>(std::move(made));
      variants_.push_back({"weft/" + name,
                           [this, op] {
                             return op->run(stream_, {.x = matrix(x_, own_rows(), shape_.k),
                                                      .m = m_,
                                                      .map = map(),
                                                      .offsets = offsets(),
                                                      .w = weight(),
                                                      .y = matrix(y_, rows_, shape_.n)});
                           },
                           y_.data()});
    }
    return {};
  }

  Status make_reduce() {
    const bool scatters = options_.op == "moe_rs";
    out_elements_ = (scatters ? own_rows() : m_) * shape_.n;
    WEFT_ASSIGN(all_, buffer(m_ * shape_.n));
    variants_.push_back(
        {"weft/grouped_gemm", [this] { return grouped(matrix(x_, rows_, shape_.k), false, product_); }});
    if (nccl_ && splits_evenly()) {
      plain_ = [this, scatters]() -> Status {
        WEFT_TRY(grouped(matrix(x_, rows_, shape_.k), false, product_));
        WEFT_TRY(cuda_expert_sum(
            stream_, {matrix(product_, rows_, shape_.n), token_rows(), table(placed_), matrix(all_, m_, shape_.n)}));
        if (scatters)
          return nccl_->reduce_scatter(options_.dtype, all_.data(), expected_.data(), size_t(own_rows() * shape_.n),
                                       stream_);
        return nccl_->all_reduce(options_.dtype, all_.data(), expected_.data(), size_t(m_ * shape_.n), stream_);
      };
      variants_.push_back({"grouped_gemm+nccl", plain_});
    }
    const CudaMoeShape shape{.max_m = m_, .max_rows = rows_, .n = shape_.n, .dtype = options_.dtype};
    const auto add = [this](auto made) {
      auto op = std::make_shared<decltype(made)>(std::move(made));
      variants_.push_back({"weft/auto",
                           [this, op] {
                             return op->run(stream_, {.a = matrix(x_, rows_, shape_.k),
                                                      .offsets = offsets(),
                                                      .rows = token_rows(),
                                                      .weights = table(placed_),
                                                      .w = weight(),
                                                      .y = matrix(y_, out_elements_ / shape_.n, shape_.n)});
                           },
                           y_.data()});
    };
    if (scatters) {
      WEFT_ASSIGN(auto op, CudaMoeRs::create(comm_, shape));
      add(std::move(op));
    } else {
      WEFT_ASSIGN(auto op, CudaMoeAr::create(comm_, shape));
      add(std::move(op));
    }
    return {};
  }

  Status compare(const Variant& variant) const {
    if (!variant.y || !plain_) return {};
    WEFT_CUDA_TRY(cudaMemsetAsync(y_.data(), 0xff, size_t(out_elements_) * 2, stream_));
    WEFT_TRY(plain_());
    WEFT_TRY(settle(variant.call));
    WEFT_ASSIGN(const double distance,
                relative_distance(stream_, options_.dtype, variant.y, expected_.data(), out_elements_));
    // Both sides round products and a rank's sums and may sum in other orders.
    if (!(distance <= 0x1p-7))
      return error(Code::kAborted, "{}, {} tokens: {} differs from NCCL's by {}", shape_.name, m_, variant.name,
                   distance);
    return comm_.world().barrier(deadline());
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CudaMoeBenchOptions& options_;
  NcclCommunicator* nccl_;
  const Shape4 shape_;
  const i64 m_, rows_;
  i64 out_elements_ = 0;
  std::vector<Variant> variants_;
  std::function<Status()> plain_;  // into expected_; empty where NCCL cannot
  DeviceBuffer x_, w_, y_, expected_, product_, all_, ids_, factors_, placed_, offsets_, map_, token_rows_;
};

Status bench_rank(CudaCommunicator& comm, cudaStream_t stream, const CudaMoeBenchOptions& options,
                  CudaMoeBenchReport& report) {
  WEFT_TRY(prepare_cuda_grouped_gemm());
  auto nccl = NcclCommunicator::create(comm.world(), Deadline::after(std::chrono::seconds(60)));
  if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
  report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
  for (const Shape4& shape : options.op == "ag_moe" ? kGather : kReduce)
    for (const i64 m : options.m)
      WEFT_TRY(SizeBench(comm, stream, options, nccl.ok() ? nccl->get() : nullptr, shape, m).run(report));
  return {};
}

}  // namespace

Result<CudaMoeBenchReport> bench_cuda_moe(const CudaMoeBenchOptions& options) {
  WEFT_ASSIGN(auto report, begin_report<CudaMoeBenchReport>(options.op, options.ranks));
  if (options.m.empty()) return error(Code::kInvalidArgument, "{}: no sizes given", options.op);
  WEFT_TRY(
      fill_report(report, size_t(6) << 30, [&](CudaCommunicator& comm, cudaStream_t stream, CudaMoeBenchReport& mine) {
        return bench_rank(comm, stream, options, mine);
      }));
  return report;
}

}  // namespace weft
