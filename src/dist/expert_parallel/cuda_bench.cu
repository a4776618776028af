#include "dist/expert_parallel/cuda_bench.h"

#include <algorithm>

#include "comm/cuda_bench_ranks.cuh"
#include "comm/cuda_timing.cuh"
#include "comm/nccl.cuh"
#include "dist/expert_parallel/cuda_testing.cuh"
#include "ops/quantise/quantise.cuh"

namespace weft::ep {
namespace {

constexpr int kRoutings = 5, kLength = 20;  // of a graph, in calls
constexpr i64 kScaleBlock = 128;

struct Variant {
  std::string name;
  std::function<Status(int)> call;           // with routing number
  i64 row_bytes;                             // that travel per (token, peer); 0 = a rival
  std::function<Status()> before = nullptr;  // of combine alone: the dispatch whose rows it returns, of one routing
  CudaGraph graph = {};
  std::vector<double> us = {};
};

AllToAllShape shape_of(const CudaExpertBenchOptions& o, i64 tokens, int rank, int ranks) {
  return {.max_num_tokens = tokens,
          .num_experts = o.experts,
          .experts_per_token = o.top_k,
          .rank = rank,
          .world_size = ranks,
          .hidden_dim = o.hidden,
          .hidden_dim_bytes = o.hidden,
          .hidden_dim_scale_bytes = divide_up(o.hidden, kScaleBlock) * i64(sizeof(float))};
}
// All that can come, but for many tokens, which would fill hosts: there twice the average.
AllToAllOptions options_of(const CudaExpertBenchOptions& o, i64 tokens, int ranks) {
  const i64 all = tokens * ranks, average = all * o.top_k / o.experts;
  return {.expert_capacity = all <= 1024 ? all : 2 * average + 64};
}

// One size on one rank.
class SizeBench {
 public:
  SizeBench(CudaCommunicator& comm, cudaStream_t stream, NcclCommunicator* nccl, const CudaExpertBenchOptions& options,
            i64 tokens)
      : comm_(comm), stream_(stream), nccl_(nccl), options_(options), tokens_(tokens) {}

  Status run(CudaExpertBenchReport& report) {
    WEFT_TRY(check());
    WEFT_TRY(prepare());
    std::vector<Variant> variants = make_variants();
    for (Variant& variant : variants) {
      if (variant.before) WEFT_TRY(variant.before());
      for (int r = 0; r < kRoutings; ++r) WEFT_TRY(variant.call(variant.before ? 0 : r));  // warm
      WEFT_ASSIGN(variant.graph, capture_graph(stream_, [&]() -> Status {
                    for (int i = 0; i < kLength; ++i) WEFT_TRY(variant.call(variant.before ? 0 : i % kRoutings));
                    return {};
                  }));
      WEFT_TRY(once(variant, 2).status());
    }
    WEFT_TRY(in_shuffled_rounds(variants.size(), options_.repeats, [&](size_t i) -> Status {
      WEFT_ASSIGN(const double us, once(variants[i], tokens_ <= 256 ? 10 : 2));
      variants[i].us.push_back(us);
      return {};
    }));
    const i64 travels = busiest_rows();
    for (Variant& v : variants) {
      std::sort(v.us.begin(), v.us.end());
      const size_t n = v.us.size();
      const i64 bytes = travels * v.row_bytes;
      report.rows.push_back(
          {tokens_, v.name, v.us[n / 2], v.us[n / 4], v.us[n * 3 / 4], bytes, double(bytes) / (kLinkGBs * 1e3)});
    }
    if (!options_.trace) return {};
    WEFT_ASSIGN(auto trace, trace_calls(comm_, stream_, [this]() -> Status {
                  WEFT_TRY(dispatch(0));
                  return combine(0);
                }));
    report.traces.push_back(std::move(trace));
    return {};
  }

 private:
  Status check() {
    CheckCase check;
    check.shape = shape_of(options_, tokens_, comm_.rank(), comm_.size());
    check.options = options_of(options_, tokens_, comm_.size());
    check.x_dtype = DType::kU8;
    check.scale_block = kScaleBlock;
    WEFT_ASSIGN(check.routing, parse_routing(options_.routing));
    WEFT_ASSIGN(const auto self, CudaCheck::create(comm_, stream_, check));
    const u64 calls = tokens_ <= 1024 ? 2 : 1;  // of many tokens a checked call takes hosts 7 s
    for (u64 call = 0; call < calls; ++call) WEFT_TRY(self->run(call).status());
    return {};
  }

  Status prepare() {
    const AllToAllShape s = shape_of(options_, tokens_, comm_.rank(), comm_.size());
    WEFT_ASSIGN(routing_, parse_routing(options_.routing));
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm_, s, options_of(options_, tokens_, comm_.size())));
    op_ = std::make_unique<CudaAllToAll>(std::move(op));
    AllToAllOptions casts = options_of(options_, tokens_, comm_.size());
    casts.cast_x_to_fp8 = true;
    WEFT_ASSIGN(auto cast_op, CudaAllToAll::create(comm_, s, casts));
    cast_op_ = std::make_unique<CudaAllToAll>(std::move(cast_op));
    AllToAllOptions maps = options_of(options_, tokens_, comm_.size());
    maps.map_rows = true;
    WEFT_ASSIGN(auto map_op, CudaAllToAll::create(comm_, s, maps));
    map_op_ = std::make_unique<CudaAllToAll>(std::move(map_op));
    WEFT_TRY(prepare_cuda_quantise());
    const size_t places = size_t(op_->local_experts().size() * op_->capacity()), m = size_t(tokens_);
    const size_t pairs = m * size_t(s.experts_per_token), hidden = size_t(s.hidden_dim);
    WEFT_ASSIGN(x_, DeviceBuffer::create(m * hidden));
    WEFT_ASSIGN(floats_, DeviceBuffer::create(m * hidden * 2));
    WEFT_ASSIGN(scales_, DeviceBuffer::create(m * size_t(s.hidden_dim_scale_bytes)));
    WEFT_ASSIGN(indices_, DeviceBuffer::create(kRoutings * pairs * 4));
    WEFT_ASSIGN(weights_, DeviceBuffer::create(kRoutings * pairs * 4));
    WEFT_ASSIGN(counts_, DeviceBuffer::create(size_t(op_->local_experts().size()) * 4));
    WEFT_ASSIGN(expert_x_, DeviceBuffer::create(places * hidden));
    WEFT_ASSIGN(expert_scales_, DeviceBuffer::create(places * size_t(s.hidden_dim_scale_bytes)));
    WEFT_ASSIGN(row_map_, DeviceBuffer::create(places * 4));
    WEFT_ASSIGN(y_, DeviceBuffer::create(places * hidden * 2));
    WEFT_ASSIGN(out_, DeviceBuffer::create(m * hidden * 2));
    WEFT_ASSIGN(gathered_, DeviceBuffer::create(m * hidden * 2 * size_t(comm_.size())));
    WEFT_ASSIGN(timer_, GraphTimer::create());
    for (DeviceBuffer* buffer : {&x_, &floats_, &scales_, &y_, &gathered_})
      WEFT_CUDA_TRY(cudaMemsetAsync(buffer->data(), 0x31, buffer->bytes(), stream_));
    for (int r = 0; r < kRoutings; ++r) {
      const auto indices = make_indices(s, routing_, u64(r), comm_.rank(), tokens_);
      const auto weights = make_weights(s, u64(r), comm_.rank(), tokens_);
      WEFT_CUDA_TRY(cudaMemcpyAsync(indices_.as<i32>() + size_t(r) * pairs, indices.data(), pairs * 4,
                                    cudaMemcpyDefault, stream_));
      WEFT_CUDA_TRY(cudaMemcpyAsync(weights_.as<float>() + size_t(r) * pairs, weights.data(), pairs * 4,
                                    cudaMemcpyDefault, stream_));
    }
    count_rows();
    return comm_.synchronize(stream_);
  }

  static TensorView view(const DeviceBuffer& buffer, DType dtype, const Shape& shape, i64 offset_bytes = 0) {
    return TensorView::dense(buffer.as<std::byte>() + offset_bytes, dtype, shape, DeviceKind::kCuda);
  }
  TensorView bytes() const { return view(x_, DType::kU8, {tokens_, options_.hidden}); }
  TensorView floats() const { return view(floats_, DType::kBF16, {tokens_, options_.hidden}); }
  TensorView scales() const { return view(scales_, DType::kF32, {tokens_, divide_up(options_.hidden, kScaleBlock)}); }
  Status dispatch(int routing, bool with_weights = false) {
    return dispatch(*op_, routing, bytes(), scales(), with_weights);
  }
  Status dispatch(CudaAllToAll& op, int routing, const TensorView& x, const TensorView& x_scale, bool with_weights) {
    const i64 k = options_.top_k, local = op.local_experts().size(), cap = op.capacity();
    const bool maps = &op == map_op_.get();
    const TensorView copies = view(expert_x_, DType::kU8, {local, cap, options_.hidden});
    const TensorView copied_scales =
        view(expert_scales_, DType::kF32, {local, cap, divide_up(options_.hidden, kScaleBlock)});
    return op.dispatch(stream_, {.x = x,
                                 .x_scale = x_scale,
                                 .indices = view(indices_, DType::kI32, {tokens_, k}, routing * tokens_ * k * 4),
                                 .weights = with_weights ? weights(routing) : TensorView{},
                                 .out_num_tokens = view(counts_, DType::kI32, {local}),
                                 .expert_x = maps ? TensorView{} : copies,
                                 .expert_x_scale = maps ? TensorView{} : copied_scales,
                                 .row_map = maps ? view(row_map_, DType::kI32, {local, cap}) : TensorView{}});
  }
  TensorView weights(int routing) const {
    return view(weights_, DType::kF32, {tokens_, options_.top_k}, routing * tokens_ * options_.top_k * 4);
  }
  Status combine(int routing) {
    const i64 k = options_.top_k;
    return op_->combine(
        stream_, {.expert_y = view(y_, DType::kBF16, {op_->local_experts().size(), op_->capacity(), options_.hidden}),
                  .indices = view(indices_, DType::kI32, {tokens_, k}, routing * tokens_ * k * 4),
                  .weights = weights(routing),
                  .out = view(out_, DType::kBF16, {tokens_, options_.hidden})});
  }

  std::vector<Variant> make_variants() {
    const i64 x_bytes = x_row_bytes(), y_bytes = options_.hidden * 2;
    std::vector<Variant> variants;
    for (const bool known : {false, true}) {  // whether dispatch takes combine's weights along
      const std::string name = known ? "weft/known_" : "weft/";
      variants.push_back({name + "dispatch", [=, this](int r) { return dispatch(r, known); }, x_bytes});
      variants.push_back(
          {name + "combine", [this](int r) { return combine(r); }, y_bytes, [=, this] { return dispatch(0, known); }});
      variants.push_back({name + "pair",
                          [=, this](int r) -> Status {
                            WEFT_TRY(dispatch(r, known));
                            return combine(r);
                          },
                          x_bytes + y_bytes});
    }
    variants.push_back(
        {"weft/cast_dispatch", [this](int r) { return dispatch(*cast_op_, r, floats(), {}, false); }, x_bytes});
    variants.push_back(
        {"weft/map_dispatch", [this](int r) { return dispatch(*map_op_, r, bytes(), scales(), false); }, x_bytes});
    variants.push_back({"weft/quantise_dispatch",
                        [this](int r) -> Status {
                          WEFT_TRY(cuda_quantise_fp8(stream_, {.x = floats(), .q = bytes(), .scales = scales()}));
                          return dispatch(r);
                        },
                        x_bytes});
    if (nccl_ == nullptr) return variants;
    const auto gather = [=, this] {
      return nccl_->all_gather_bf16(gathered_.as<std::byte>(), y_.data(), size_t(tokens_ * x_bytes / 2), stream_);
    };
    const auto reduce = [this] {
      return nccl_->reduce_scatter_bf16(gathered_.data(), out_.data(), size_t(tokens_ * options_.hidden), stream_);
    };
    variants.push_back({"nccl/all_gather", [=](int) { return gather(); }, 0});
    variants.push_back({"nccl/reduce_scatter", [=](int) { return reduce(); }, 0});
    variants.push_back({"nccl/pair",
                        [=](int) -> Status {
                          WEFT_TRY(gather());
                          return reduce();
                        },
                        0});
    // Each (token, rank) row once to its rank, and back; who wants which rows is known to all beforehand.
    const auto exchange = [this](int routing, bool back) {
      std::vector<NcclMessage> messages;
      std::byte* sent = y_.as<std::byte>();
      std::byte* received = gathered_.as<std::byte>();
      const size_t bytes = size_t(back ? options_.hidden * 2 : x_row_bytes());
      for (int peer = 0; peer < comm_.size(); ++peer) {
        const int self = comm_.rank();
        if (peer == self) continue;
        const size_t there = size_t(rows_between(routing, back ? peer : self, back ? self : peer)) * bytes;
        const size_t here = size_t(rows_between(routing, back ? self : peer, back ? peer : self)) * bytes;
        if (there > 0) messages.push_back({NcclMessage::Way::kSend, peer, sent, there});
        if (here > 0) messages.push_back({NcclMessage::Way::kReceive, peer, received, here});
        sent += there;
        received += here;
      }
      return nccl_->exchange(messages, stream_);
    };
    variants.push_back({"nccl/exact_dispatch", [=](int r) { return exchange(r, false); }, 0});
    variants.push_back({"nccl/exact_combine", [=](int r) { return exchange(r, true); }, 0});
    variants.push_back({"nccl/exact_pair",
                        [=](int r) -> Status {
                          WEFT_TRY(exchange(r, false));
                          return exchange(r, true);
                        },
                        0});
    return variants;
  }

  // Microseconds per call on the slowest rank.
  Result<double> once(const Variant& variant, int replays) {
    if (variant.before) WEFT_TRY(variant.before());
    WEFT_TRY(comm_.synchronize(stream_));
    WEFT_ASSIGN(const double us, timer_.time(comm_, stream_, variant.graph, replays));
    return us / (replays * kLength);
  }

  i64 x_row_bytes() const { return options_.hidden + divide_up(options_.hidden, kScaleBlock) * i64(sizeof(float)); }

  // Tokens of rank `from` that rank `to`, another one, wants.
  i64 rows_between(int routing, int from, int to) const { return between_[size_t(routing)][size_t(from)][size_t(to)]; }
  void count_rows() {
    const int ranks = comm_.size();
    const AllToAllShape s = shape_of(options_, tokens_, 0, ranks);
    const auto wire = plan_cuda_wire(s, {});
    between_.assign(kRoutings, std::vector(size_t(ranks), std::vector<i64>(size_t(ranks))));
    for (int routing = 0; routing < kRoutings; ++routing)
      for (int r = 0; r < ranks; ++r) {
        const auto indices = make_indices(s, routing_, u64(routing), r, tokens_);
        for (i64 t = 0; t < tokens_; ++t) {
          u32 wanted = 0;
          for (i64 j = 0; j < options_.top_k; ++j)
            if (const i32 index = indices[size_t(t * options_.top_k + j)]; index >= 0)
              wanted |= 1u << wire->rank_of(index);
          for (int p = 0; p < ranks; ++p)
            if (p != r && (wanted >> p & 1) != 0) ++between_[size_t(routing)][size_t(r)][size_t(p)];
        }
      }
  }
  // The most (token, peer) rows that any rank sends or receives, over the first routing.
  i64 busiest_rows() const {
    i64 most = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      i64 sent = 0, received = 0;
      for (int p = 0; p < comm_.size(); ++p) {
        sent += rows_between(0, r, p);
        received += rows_between(0, p, r);
      }
      most = std::max({most, sent, received});
    }
    return most;
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  NcclCommunicator* const nccl_;
  const CudaExpertBenchOptions& options_;
  const i64 tokens_;
  Routing routing_ = Routing::kUniform;
  std::unique_ptr<CudaAllToAll> op_, cast_op_, map_op_;
  DeviceBuffer x_, floats_, scales_, indices_, weights_, counts_, expert_x_, expert_scales_, row_map_, y_, out_,
      gathered_;
  GraphTimer timer_;
  std::vector<std::vector<std::vector<i64>>> between_;  // [routing][from][to]
};

}  // namespace

Result<CudaExpertBenchReport> bench_cuda_experts(const CudaExpertBenchOptions& options) {
  CudaExpertBenchReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  report.ranks = bench_ranks(options.ranks);
  if (options.tokens.empty()) return error(Code::kInvalidArgument, "no numbers of tokens given");
  i64 arena = 64 << 20;  // what the operators of all sizes take, those of the checks too
  for (const i64 tokens : options.tokens) {
    WEFT_ASSIGN(const CudaWire wire, plan_cuda_wire(shape_of(options, tokens, 0, report.ranks), {}));
    i64 bytes = 0;
    plan_cuda_buffers(wire, 0, &bytes);
    arena += 4 * round_up(bytes, 4096);
  }
  WEFT_TRY(fill_report(
      report, size_t(arena), [&](CudaCommunicator& comm, cudaStream_t stream, CudaExpertBenchReport& mine) -> Status {
        auto nccl = NcclCommunicator::create(comm.world(), Deadline::after(std::chrono::seconds(60)));
        if (!nccl.ok()) mine.nccl = nccl.status().message();  // ranks that share a GPU, too
        if (nccl.ok()) mine.nccl = (*nccl)->version();
        for (const i64 tokens : options.tokens)
          WEFT_TRY(SizeBench(comm, stream, nccl.ok() ? nccl->get() : nullptr, options, tokens).run(mine));
        return {};
      }));
  return report;
}

}  // namespace weft::ep
