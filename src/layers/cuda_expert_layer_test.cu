#include <cmath>

#include "comm/cuda_testing.cuh"
#include "dist/exchange/fused_element.cuh"
#include "layers/cuda_expert_layer.cuh"
#include "ops/cuda_testing.cuh"
#include "ops/moe_route/moe_route.h"

namespace weft {
namespace {

using namespace testing;

constexpr i64 kHidden = 264, kFfn = 72, kExperts = 24, kPerToken = 4;

Status expect(bool holds, const std::string& what) {
  return holds ? Status() : error(Code::kAborted, "{}", what);
}
Result<std::vector<std::byte>> fetch(const TensorView& view) {
  std::vector<std::byte> bytes(size_t(dtype_bytes(view.dtype, view.shape.elements())));
  WEFT_CUDA_TRY(cudaMemcpy(bytes.data(), view.data, bytes.size(), cudaMemcpyDefault));
  return bytes;
}

// One rank: its rows, and the experts of all, so that it can say what must come out.
class Rank {
 public:
  static constexpr CudaExpertLayerShape kShape{
      .max_tokens = 100, .hidden = kHidden, .experts = kExperts, .per_token = kPerToken, .ffn = kFfn};
  explicit Rank(DType dtype) : dtype_(dtype) {}

  Status prepare(CudaCommunicator& comm, cudaStream_t stream) {
    CudaExpertLayerShape shape = kShape;
    shape.dtype = dtype_;
    comm_ = &comm;
    stream_ = stream;
    WEFT_ASSIGN(auto layer, CudaExpertLayer::create(comm, shape));
    layer_ = std::make_unique<CudaExpertLayer>(std::move(layer));
    const auto deviation = [](i64 k) { return float(1 / std::sqrt(double(k))); };
    x_ = random_floats(dtype_, kShape.max_tokens * kHidden, 10 + u32(comm.rank()));
    router_ = random_floats(dtype_, kExperts * kHidden, 1, deviation(kHidden));
    gate_up_ = random_floats(dtype_, kExperts * 2 * kFfn * kHidden, 2, deviation(kHidden));
    down_ = random_floats(dtype_, kExperts * kHidden * kFfn, 3, deviation(kFfn));
    const Range local = layer_->local_experts();
    const auto share = [&](const std::vector<float>& all, i64 each) {
      return std::vector<float>(all.begin() + local.begin * each, all.begin() + local.end * each);
    };
    WEFT_TRY(upload(x_, x_memory_));
    WEFT_TRY(upload(x_, y_memory_));
    WEFT_TRY(upload(router_, router_memory_));
    WEFT_TRY(upload(share(gate_up_, 2 * kFfn * kHidden), gate_up_memory_));
    WEFT_TRY(upload(share(down_, kHidden * kFfn), down_memory_));
    return comm.world().barrier(Deadline::after(std::chrono::seconds(60)));
  }

  // `tokens` rows: twice as calls, then from a graph. Ranks may share a GPU: nothing here waits for all of it while
  // another rank's kernels wait for this one.
  Status check(i64 tokens) {
    const auto view = [this](const DeviceBuffer& memory, const Shape& shape) {
      return TensorView::dense(memory.data(), dtype_, shape, DeviceKind::kCuda);
    };
    const i64 local = layer_->local_experts().size();
    const CudaExpertLayerArgs args{.x = view(x_memory_, {tokens, kHidden}),
                                   .router = view(router_memory_, {kExperts, kHidden}),
                                   .gate_up = view(gate_up_memory_, {local, 2 * kFfn, kHidden}),
                                   .down = view(down_memory_, {local, kHidden, kFfn}),
                                   .y = view(y_memory_, {tokens, kHidden})};
    const auto call = [&] { return layer_->run(stream_, args); };
    WEFT_ASSIGN(const CudaGraph graph, capture_graph(stream_, call));
    std::vector<std::byte> first;
    for (int run = 0; run < 3; ++run) {
      WEFT_CUDA_TRY(cudaMemsetAsync(y_memory_.data(), 0xa5, y_memory_.bytes(), stream_));
      WEFT_TRY(comm_->synchronize(stream_));
      WEFT_TRY(comm_->world().barrier(Deadline::after(std::chrono::seconds(60))));
      WEFT_TRY(run < 2 ? call() : cuda_status(cudaGraphLaunch(graph.get(), stream_), "cudaGraphLaunch"));
      WEFT_TRY(comm_->synchronize(stream_));
      WEFT_TRY(comm_->world().barrier(Deadline::after(std::chrono::seconds(60))));
      WEFT_ASSIGN(auto bytes, fetch(args.y));
      if (run == 0) first = std::move(bytes);
      WEFT_TRY(expect(run == 0 || bytes == first, fmt::format("{} tokens: run {} gave other bits", tokens, run)));
    }
    WEFT_TRY(layer_->report());
    WEFT_TRY(check_route(tokens));
    return check_sums(tokens, first);
  }

 private:
  Status upload(const std::vector<float>& values, DeviceBuffer& memory) const {
    return with_fused_element(dtype_, [&](auto element) -> Status {
      std::vector<decltype(element)> rounded(values.begin(), values.end());
      WEFT_ASSIGN(memory, DeviceBuffer::create(rounded.size() * 2));
      return cuda_status(cudaMemcpy(memory.data(), rounded.data(), rounded.size() * 2, cudaMemcpyDefault), "upload");
    });
  }
  float get(const std::vector<std::byte>& raw, i64 i) const {
    return with_fused_element(dtype_,
                              [&](auto element) { return float(CudaMatrix::get<decltype(element)>(raw, size_t(i))); });
  }

  // The logits are those of the router; experts and weights those of the logits.
  Status check_route(i64 tokens) {
    WEFT_ASSIGN(const auto logits, fetch(layer_->logits(tokens)));
    WEFT_ASSIGN(const auto ids, fetch(layer_->ids(tokens)));
    WEFT_ASSIGN(const auto weights, fetch(layer_->weights(tokens)));
    ids_.assign(size_t(tokens * kPerToken), -1);
    weights_.assign(ids_.size(), 0);
    std::vector<float> row(kExperts), expected(kPerToken);
    std::vector<i32> expected_ids(kPerToken);
    for (i64 t = 0; t < tokens; ++t) {
      for (i64 e = 0; e < kExperts; ++e) {
        row[size_t(e)] = get(logits, t * kExperts + e);
        double sum = 0;
        for (i64 i = 0; i < kHidden; ++i)
          sum += double(x_[size_t(t * kHidden + i)]) * double(router_[size_t(e * kHidden + i)]);
        WEFT_TRY(expect(std::abs(double(row[size_t(e)]) - sum) <= storage_error(dtype_, sum) + 1e-5,
                        fmt::format("token {}, expert {}: logit {}, expected {}", t, e, row[size_t(e)], sum)));
      }
      moe_route_reference(row.data(), kExperts, kPerToken, kShape.normalise, expected_ids.data(), expected.data());
      for (i64 j = 0; j < kPerToken; ++j) {
        const size_t at = size_t(t * kPerToken + j);
        ids_[at] = CudaMatrix::get<i32>(ids, at);
        weights_[at] = CudaMatrix::get<float>(weights, at);
        WEFT_TRY(expect(ids_[at] == expected_ids[size_t(j)] && std::abs(weights_[at] - expected[size_t(j)]) < 1e-5f,
                        fmt::format("token {}, choice {}: expert {} weight {}, expected {} {}", t, j, ids_[at],
                                    weights_[at], expected_ids[size_t(j)], expected[size_t(j)])));
      }
    }
    return {};
  }

  // sqrt(sum (y - r)^2 / sum r^2), r in f64 throughout. Each of gate, up, the activated product, the expert's row, a
  // rank's sum and the result is rounded (rms error 2^-9 / sqrt(3) relative in bf16): together about 0.003, or an
  // eighth of it.
  Status check_sums(i64 tokens, const std::vector<std::byte>& y) {
    double wrong = 0, size = 0;
    std::vector<double> row(kHidden), activated(kFfn);
    const auto dot = [](const float* a, const auto* b, i64 k) {
      double sum = 0;
      for (i64 i = 0; i < k; ++i) sum += double(a[i]) * double(b[i]);
      return sum;
    };
    for (i64 t = 0; t < tokens; ++t) {
      std::fill(row.begin(), row.end(), 0.0);
      const float* x = x_.data() + t * kHidden;
      for (i64 j = 0; j < kPerToken; ++j) {
        const i64 e = ids_[size_t(t * kPerToken + j)];
        const float* gate_up = gate_up_.data() + e * 2 * kFfn * kHidden;
        for (i64 f = 0; f < kFfn; ++f) {
          const double gate = dot(gate_up + f * kHidden, x, kHidden),
                       up = dot(gate_up + (kFfn + f) * kHidden, x, kHidden);
          activated[size_t(f)] = gate / (1 + std::exp(-gate)) * up;
        }
        const float* down = down_.data() + e * kHidden * kFfn;
        for (i64 i = 0; i < kHidden; ++i)
          row[size_t(i)] += double(weights_[size_t(t * kPerToken + j)]) * dot(down + i * kFfn, activated.data(), kFfn);
      }
      for (i64 i = 0; i < kHidden; ++i) {
        const double difference = double(get(y, t * kHidden + i)) - row[size_t(i)];
        wrong += difference * difference;
        size += row[size_t(i)] * row[size_t(i)];
      }
    }
    const double error = size > 0 ? std::sqrt(wrong / size) : 0;
    return expect(error <= (dtype_ == DType::kF16 ? 0x1p-10 : 0x1p-7) && (error > 0) == (tokens > 0),
                  fmt::format("{} tokens: {} from the reference", tokens, error));
  }

  DType dtype_;
  CudaCommunicator* comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<CudaExpertLayer> layer_;
  std::vector<float> x_, router_, gate_up_, down_, weights_;
  std::vector<i32> ids_;
  DeviceBuffer x_memory_, y_memory_, router_memory_, gate_up_memory_, down_memory_;
};

class CudaExpertLayerTest : public ::testing::TestWithParam<DType> {};

TEST_P(CudaExpertLayerTest, IsTheReferenceUpToRounding) {
  WEFT_NEED_GPUS(1);
  for (const int ranks : {1, 2, 3, test_ranks()}) {
    if (ranks > gpu_ranks().most_ranks(8)) continue;
    WEFT_ASSERT_OK(run_gpu_ranks(ranks, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
                     Rank rank(GetParam());
                     WEFT_TRY(rank.prepare(comm, stream));
                     // Ranks differ in their tokens, some have none.
                     for (const i64 tokens : {1, 8, 37, 100}) {
                       const i64 mine = tokens * (comm.size() - comm.rank()) / comm.size();
                       const Status outcome = rank.check(mine);
                       if (!outcome.ok())
                         return outcome.with_context(fmt::format("rank {}, {} tokens", comm.rank(), mine));
                     }
                     return {};
                   }).with_context(fmt::format("{} ranks", ranks)));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaExpertLayerTest, ::testing::Values(DType::kBF16, DType::kF16),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(CudaExpertLayer, WrongInputIsRefused) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    const auto refused = [&](CudaExpertLayerShape shape, const char* text) {
      const std::string message = CudaExpertLayer::create(comm, shape).status().message();
      return expect(message.find(text) != std::string::npos, message);
    };
    CudaExpertLayerShape shape = Rank::kShape;
    shape.experts = 12;
    WEFT_TRY(refused(shape, "experts: expected a multiple of 8"));
    shape = Rank::kShape;
    shape.ffn = 12;
    WEFT_TRY(refused(shape, "ffn: expected a multiple of 8"));
    shape = Rank::kShape;
    shape.dtype = DType::kF32;
    WEFT_TRY(refused(shape, "dtype: expected bf16 or f16"));
    WEFT_ASSIGN(auto layer, CudaExpertLayer::create(comm, Rank::kShape));
    WEFT_ASSIGN(const CudaMatrix x, CudaMatrix::create(DType::kBF16, 101, kHidden));
    CudaExpertLayerArgs args{};
    args.x = x.view();
    const std::string many = layer.run(stream, args).message();
    return expect(many.find("x: more than max_tokens = 100 rows") != std::string::npos, many);
  }));
}

}  // namespace
}  // namespace weft
