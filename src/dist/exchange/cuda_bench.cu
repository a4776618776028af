#include "dist/exchange/cuda_bench.h"

#include <algorithm>

#include "base/divide.h"
#include "comm/cuda_bench_ranks.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "dist/ag_gemm/ag_gemm.cuh"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "dist/gemm_rs/gemm_rs.cuh"
#include "ops/gemm/cublas.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

struct Op {
  std::function<Status(i64 m)> run;
  void* y;
};

struct Variant {
  std::string name;
  std::function<Status()> call;
  void* y;  // where the operator's output comes, nullptr = nowhere
};

class RankBench {
 public:
  RankBench(CudaCommunicator& comm, cudaStream_t stream, const CudaFusedBenchOptions& options)
      : comm_(comm), stream_(stream), options_(options), gathers_(options.op == "ag_gemm") {}

  Status run(CudaFusedBenchReport& report) {
    most_ = *std::max_element(options_.m.begin(), options_.m.end());
    const i64 n = options_.n, k = options_.k;
    WEFT_ASSIGN(cublas_, Cublas::open(stream_));
    auto nccl = NcclCommunicator::create(comm_.world(), deadline());
    if (!nccl.ok() && nccl.status().code() != Code::kUnavailable) return nccl.status();
    report.cublas = cublas_->version();
    report.nccl = nccl.ok() ? (*nccl)->version() : nccl.status().message();
    if (nccl.ok()) nccl_ = std::move(nccl.value());
    WEFT_ASSIGN(x_, DeviceBuffer::create(size_t(most_ * k) * 2));  // own rows first, for ag_gemm
    WEFT_ASSIGN(y_, DeviceBuffer::create(size_t(most_ * n) * 2));
    WEFT_ASSIGN(expected_, DeviceBuffer::create(size_t(most_ * n) * 2));
    WEFT_ASSIGN(between_, DeviceBuffer::create(size_t(most_ * std::max(n, k)) * 2));
    WEFT_TRY(fill_random(stream_, options_.dtype, x_.data(), most_ * k, u32(comm_.rank()) + 1));
    // Weights come from memory, as a model's do: so much of them passes by before the first are read again.
    constexpr i64 kPassing = 256 << 20;
    weights_.resize(size_t(std::clamp<i64>(divide_up(kPassing, n * k * 2), 2, 24)));
    for (size_t i = 0; i < weights_.size(); ++i) {
      WEFT_ASSIGN(weights_[i], DeviceBuffer::create(size_t(n * k) * 2));
      WEFT_TRY(fill_random(stream_, options_.dtype, weights_[i].data(), n * k, u32(comm_.rank() + 101 + 16 * i)));
    }
    for (const std::string& name : options_.variants) WEFT_TRY(make(name));
    for (const i64 m : options_.m) WEFT_TRY(size(m, report));
    for (const i64 m : options_.m)
      for (size_t i = 0; options_.trace && i < ops_.size(); ++i) WEFT_TRY(trace(ops_[i], m, report));
    return {};
  }

 private:
  TensorView matrix(void* data, i64 rows, i64 columns) const {
    return TensorView::dense(data, options_.dtype, {rows, columns}, DeviceKind::kCuda);
  }
  // The next call's weights.
  void* weights() { return weights_[next_weights_++ % weights_.size()].data(); }
  static Deadline deadline() { return Deadline::after(std::chrono::seconds(60)); }
  i64 own_rows(i64 m) const { return split_range(m, comm_.size(), comm_.rank()).size(); }

  Status make(const std::string& name) {
    const i64 n = options_.n, k = options_.k;
    const CudaFusedOptions options{.variant = name, .constant_w = true};  // as a model's are
    if (gathers_) {
      WEFT_ASSIGN(auto op, CudaAgGemm::create(comm_, {.max_m = most_, .k = k, .dtype = options_.dtype}, options));
      auto shared = std::make_shared<CudaAgGemm>(std::move(op));
      ops_.push_back({[=, this](i64 m) {
                        return shared->run(stream_, matrix(x_.data(), own_rows(m), k), m, matrix(weights(), n, k),
                                           matrix(y_.data(), m, n));
                      },
                      y_.data()});
    } else if (options_.op == "gemm_rs") {
      WEFT_ASSIGN(auto op,
                  CudaGemmRs::create(comm_, {.max_m = most_, .n = n, .k = k, .dtype = options_.dtype}, options));
      auto shared = std::make_shared<CudaGemmRs>(std::move(op));
      ops_.push_back({[=, this](i64 m) {
                        return shared->run(stream_, matrix(x_.data(), m, k), matrix(weights(), n, k),
                                           matrix(y_.data(), own_rows(m), n));
                      },
                      y_.data()});
    } else {
      WEFT_ASSIGN(auto op,
                  CudaGemmAr::create(comm_, {.max_m = most_, .n = n, .k = k, .dtype = options_.dtype}, options));
      auto shared = std::make_shared<CudaGemmAr>(std::move(op));
      ops_.push_back({[=, this](i64 m) {
                        return shared->run(stream_, matrix(x_.data(), m, k), matrix(weights(), n, k),
                                           shared->output(m));
                      },
                      shared->output(0).data});
    }
    return {};
  }

  // cuBLAS and NCCL one after the other, into `expected_`. NCCL takes equal shares only.
  Status unfused(i64 m) {
    const i64 n = options_.n, k = options_.k, share = m / comm_.size();
    if (gathers_) {
      WEFT_TRY(nccl_->all_gather(options_.dtype, x_.data(), between_.data(), size_t(share * k), stream_));
      return cublas_->gemm(between_.data(), weights(), expected_.data(), int(m), int(n), int(k), options_.dtype);
    }
    WEFT_TRY(cublas_->gemm(x_.data(), weights(), between_.data(), int(m), int(n), int(k), options_.dtype));
    if (options_.op == "gemm_rs")
      return nccl_->reduce_scatter(options_.dtype, between_.data(), expected_.data(), size_t(share * n), stream_);
    return nccl_->all_reduce(options_.dtype, between_.data(), expected_.data(), size_t(m * n), stream_);
  }

  std::vector<Variant> variants_of(i64 m) {
    const i64 n = options_.n, k = options_.k;
    std::vector<Variant> variants;
    variants.push_back({"cublas",
                        [=, this] {
                          return cublas_->gemm(x_.data(), weights(), between_.data(), int(m), int(n), int(k),
                                               options_.dtype);
                        },
                        nullptr});
    variants.push_back({"weft/gemm",
                        [=, this] {
                          CudaGemmArgs args{matrix(x_.data(), m, k), matrix(weights(), n, k),
                                            matrix(between_.data(), m, n)};
                          args.constant_w = true;
                          return cuda_gemm(stream_, args);
                        },
                        nullptr});
    if (nccl_ && m % comm_.size() == 0) variants.push_back({"cublas+nccl", [=, this] { return unfused(m); }, nullptr});
    for (size_t i = 0; i < ops_.size(); ++i)
      variants.push_back({"weft/" + options_.variants[i], [=, this] { return ops_[i].run(m); }, ops_[i].y});
    return variants;
  }

  Status compare(const Variant& variant, i64 m) {
    if (!variant.y || !nccl_ || m % comm_.size() != 0) return {};
    const i64 elements = (options_.op == "gemm_rs" ? own_rows(m) : m) * options_.n;
    WEFT_CUDA_TRY(cudaMemsetAsync(variant.y, 0xff, size_t(elements) * 2, stream_));
    next_weights_ = 0;
    WEFT_TRY(unfused(m));
    next_weights_ = 0;
    WEFT_TRY(variant.call());
    WEFT_TRY(comm_.synchronize(stream_));
    WEFT_TRY(comm_.world().barrier(deadline()));
    WEFT_ASSIGN(const double distance,
                relative_distance(stream_, options_.dtype, variant.y, expected_.data(), elements));
    // Both sides round a rank's product (bf16: 2^-9 of it) and sum in other orders.
    if (!(distance <= 0x1p-7))
      return error(Code::kAborted, "{} at m = {}: {} differs from cuBLAS + NCCL by {}", options_.op, m, variant.name,
                   distance);
    return comm_.world().barrier(deadline());
  }

  Status size(i64 m, CudaFusedBenchReport& report) {
    const std::vector<Variant> variants = variants_of(m);
    for (const Variant& variant : variants) {
      WEFT_TRY(variant.call());  // loads what is loaded lazily
      WEFT_TRY(comm_.synchronize(stream_));
      WEFT_TRY(comm_.world().barrier(deadline()));
      WEFT_TRY(compare(variant, m));
    }
    for (const std::string& regime : options_.regimes) {
      const bool burst = regime == "burst";
      const double flop = 2.0 * double(m) * double(options_.n) * double(options_.k);
      const int length = burst ? 20 : std::clamp(int(1.7e13 / flop), 20, 400);
      std::vector<TimedCall> calls;
      for (const Variant& variant : variants) calls.push_back({variant.name, variant.call});
      WEFT_ASSIGN(const auto times, time_calls(comm_, stream_, calls, burst ? Regime::kBurst : Regime::kSustained,
                                               length, options_.repeats));
      for (size_t i = 0; i < times.size(); ++i) {
        const CallTime& t = times[i];
        report.rows.push_back(
            {m, regime, variants[i].name, t.us, t.us_lower, t.us_upper, t.ratio, t.ratio_lower, t.ratio_upper});
      }
    }
    return {};
  }

  Status trace(const Op& op, i64 m, CudaFusedBenchReport& report) {
    WEFT_ASSIGN(auto trace, trace_calls(comm_, stream_, [&] { return op.run(m); }));
    report.traces.push_back(std::move(trace));
    return {};
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CudaFusedBenchOptions& options_;
  const bool gathers_;
  i64 most_ = 0;
  std::unique_ptr<Cublas> cublas_;
  std::unique_ptr<NcclCommunicator> nccl_;
  std::vector<Op> ops_;
  std::vector<DeviceBuffer> weights_;
  size_t next_weights_ = 0;
  DeviceBuffer x_, y_, expected_, between_;
};

}  // namespace

Result<CudaFusedBenchReport> bench_cuda_fused(const CudaFusedBenchOptions& options) {
  WEFT_ASSIGN(auto report, begin_report<CudaFusedBenchReport>(options.op, options.ranks));
  if (options.m.empty()) return error(Code::kInvalidArgument, "{}: no sizes given", options.op);
  WEFT_TRY(fill_report(report, size_t(4) << 30,
                       [&](CudaCommunicator& comm, cudaStream_t stream, CudaFusedBenchReport& mine) {
                         return RankBench(comm, stream, options).run(mine);
                       }));
  return report;
}

}  // namespace weft
