#include "dist/expert_parallel/cuda_programs.h"

#include <algorithm>

#include "base/divide.h"
#include "comm/cuda_timing.cuh"
#include "dist/expert_parallel/cuda_testing.cuh"

namespace weft::ep {
namespace {

constexpr int kRoutings = 5;

CheckCase completed(CheckCase check, const World& world) {
  check.shape.rank = world.rank();
  check.shape.world_size = world.size();
  CallChecker::complete(check);
  return check;
}

// Symmetric memory for `operators` of them.
Result<size_t> arena_bytes(const CheckCase& check, int operators) {
  WEFT_ASSIGN(const CudaWire wire, plan_cuda_wire(check.shape, check.options));
  i64 bytes = 0;
  plan_cuda_buffers(wire, 0, &bytes);
  return size_t(operators * round_up(bytes, 4096) + (1 << 20));
}

// Runs work(communicator, stream) and does not let this rank's memory go while others use it.
Status with_gpu(World& world, const CheckCase& check, int operators, std::chrono::nanoseconds deadline,
                const std::function<Status(CudaCommunicator&, cudaStream_t)>& work) {
  CudaCommunicatorOptions options;
  WEFT_ASSIGN(options.arena_bytes, arena_bytes(check, operators));
  options.deadline = deadline;
  WEFT_ASSIGN(const auto comm, CudaCommunicator::create(world, options));
  WEFT_ASSIGN(const CudaStream stream, make_stream());
  const Status outcome = work(*comm, stream.get());
  if (!outcome.ok()) world.fail(outcome);  // then synchronize() ends kernels that wait
  const Status ended = comm->synchronize(stream.get());
  WEFT_TRY(outcome);
  WEFT_TRY(ended);
  return world.barrier(Deadline::after(std::chrono::seconds(60)));
}

// An operator and its tensors, all that a call needs on the GPU.
class Site {
 public:
  static Result<std::unique_ptr<Site>> create(CudaCommunicator& comm, cudaStream_t stream, const CheckCase& check) {
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, check.shape, check.options));
    auto site = std::unique_ptr<Site>(new Site(stream, check, std::move(op)));
    WEFT_TRY(site->allocate());
    WEFT_TRY(comm.synchronize(stream));
    return std::move(site);
  }

  // what: 0 = dispatch, 1 = combine, 2 = both.
  Status call(int what, int routing) {
    if (what != 1) WEFT_TRY(dispatch(routing));
    return what != 0 ? combine(routing) : Status();
  }

 private:
  Site(cudaStream_t stream, const CheckCase& check, CudaAllToAll op)
      : stream_(stream), case_(check), op_(std::move(op)) {}

  Status allocate() {
    const AllToAllShape& s = case_.shape;
    const size_t m = size_t(s.max_num_tokens), hidden = size_t(s.hidden_dim);
    const size_t places = size_t(op_.local_experts().size() * op_.capacity());
    const size_t pairs = m * size_t(s.experts_per_token);
    WEFT_ASSIGN(x_, DeviceBuffer::create(m * size_t(std::max(s.hidden_dim_bytes, 4 * s.hidden_dim))));
    WEFT_ASSIGN(scales_, DeviceBuffer::create(m * size_t(s.hidden_dim_scale_bytes)));
    WEFT_ASSIGN(indices_, DeviceBuffer::create(kRoutings * pairs * sizeof(i32)));
    WEFT_ASSIGN(weights_, DeviceBuffer::create(kRoutings * pairs * sizeof(float)));
    WEFT_ASSIGN(counts_, DeviceBuffer::create(size_t(op_.local_experts().size()) * sizeof(i32)));
    if (case_.map) {
      WEFT_ASSIGN(row_map_, DeviceBuffer::create(places * sizeof(i32)));
    } else {
      WEFT_ASSIGN(expert_x_, DeviceBuffer::create(places * size_t(s.hidden_dim_bytes)));
      WEFT_ASSIGN(expert_scales_, DeviceBuffer::create(places * size_t(s.hidden_dim_scale_bytes)));
    }
    WEFT_ASSIGN(y_, DeviceBuffer::create(places * size_t(dtype_bytes(case_.options.combine_dtype, s.hidden_dim))));
    WEFT_ASSIGN(out_, DeviceBuffer::create(m * hidden * size_t(dtype_bytes(case_.out_dtype, 1))));
    for (const DeviceBuffer* buffer : {&x_, &scales_, &y_})
      if (buffer->bytes() > 0) WEFT_CUDA_TRY(cudaMemsetAsync(buffer->data(), 0x31, buffer->bytes(), stream_));
    for (int r = 0; r < kRoutings; ++r) {
      const int group = s.rank / s.dp_size;
      const auto indices = make_indices(s, case_.routing, u64(r), group, s.max_num_tokens);
      const auto weights = make_weights(s, u64(r), group, s.max_num_tokens);
      WEFT_CUDA_TRY(cudaMemcpyAsync(indices_.as<i32>() + size_t(r) * pairs, indices.data(), pairs * sizeof(i32),
                                    cudaMemcpyDefault, stream_));
      WEFT_CUDA_TRY(cudaMemcpyAsync(weights_.as<float>() + size_t(r) * pairs, weights.data(), pairs * sizeof(float),
                                    cudaMemcpyDefault, stream_));
    }
    return {};
  }

  static TensorView view(const DeviceBuffer& buffer, DType dtype, const Shape& shape, i64 offset_bytes = 0) {
    std::byte* data = buffer.bytes() == 0 ? nullptr : buffer.as<std::byte>() + offset_bytes;
    return TensorView::dense(data, dtype, shape, DeviceKind::kCuda);
  }
  // [tokens, experts_per_token] of a routing; elements of 4 bytes.
  TensorView of_routing(const DeviceBuffer& buffer, DType dtype, int routing) const {
    const i64 m = case_.shape.max_num_tokens, k = case_.shape.experts_per_token;
    return view(buffer, dtype, {m, k}, routing * m * k * 4);
  }

  Status dispatch(int routing) {
    const AllToAllShape& s = case_.shape;
    const i64 m = s.max_num_tokens, local = op_.local_experts().size(), cap = op_.capacity();
    const i64 scales = s.hidden_dim_scale_bytes / i64(sizeof(float));
    const bool cast = case_.options.cast_x_to_fp8;
    const DispatchArgs args{.x = view(x_, cast ? case_.cast_from : case_.x_dtype, {m, s.hidden_dim}),
                            .x_scale = cast ? TensorView{} : view(scales_, DType::kF32, {m, scales}),
                            .indices = of_routing(indices_, DType::kI32, routing),
                            .weights = case_.early ? of_routing(weights_, DType::kF32, routing) : TensorView{},
                            .out_num_tokens = view(counts_, DType::kI32, {local}),
                            .expert_x = view(expert_x_, case_.x_dtype, {local, cap, s.hidden_dim}),
                            .expert_x_scale = view(expert_scales_, DType::kF32, {local, cap, scales}),
                            .row_map = view(row_map_, DType::kI32, {local, cap})};
    if (!case_.split) return op_.dispatch(stream_, args);
    WEFT_TRY(op_.dispatch_send(stream_, args));
    return op_.dispatch_receive(stream_, args);
  }
  Status combine(int routing) {
    const AllToAllShape& s = case_.shape;
    const CombineArgs args{
        .expert_y = view(y_, case_.options.combine_dtype, {op_.local_experts().size(), op_.capacity(), s.hidden_dim}),
        .indices = of_routing(indices_, DType::kI32, routing),
        .weights = of_routing(weights_, DType::kF32, routing),
        .out = view(out_, case_.out_dtype, {s.max_num_tokens, s.hidden_dim})};
    if (!case_.split) return op_.combine(stream_, args);
    WEFT_TRY(op_.combine_send(stream_, args));
    return op_.combine_receive(stream_, args);
  }

  const cudaStream_t stream_;
  const CheckCase case_;
  CudaAllToAll op_;
  DeviceBuffer x_, scales_, indices_, weights_, counts_, expert_x_, expert_scales_, row_map_, y_, out_;
};

}  // namespace

Result<i64> test_cuda_all_to_all(World& world, const CheckCase& wanted, i64 calls, std::chrono::nanoseconds deadline) {
  const CheckCase check = completed(wanted, world);
  i64 dropped = 0;
  WEFT_TRY(with_gpu(world, check, 1, deadline, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    WEFT_ASSIGN(const auto self, CudaCheck::create(comm, stream, check));
    WEFT_ASSIGN(const u64 first, self->run(0));
    for (i64 call = 1; call < calls; ++call) WEFT_TRY(self->run(u64(call)).status());
    const std::string mine = std::to_string(self->op().dropped_pairs());
    WEFT_ASSIGN(const u64 again, self->run(0));
    if (first != again) return error(Code::kDataLoss, "rank {}: the same call gave other bits", comm.rank());
    WEFT_ASSIGN(const auto all, world.all_gather(mine, Deadline::after(std::chrono::seconds(60))));
    for (const std::string& theirs : all) dropped += std::atoll(theirs.c_str());
    return {};
  }));
  return dropped;
}

Result<CudaAllToAllTimes> time_cuda_all_to_all(World& world, const CheckCase& wanted, int samples, int repeats,
                                               std::chrono::nanoseconds deadline) {
  const CheckCase check = completed(wanted, world);
  CudaAllToAllTimes times;
  WEFT_TRY(with_gpu(world, check, 2, deadline, [&](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    {
      WEFT_ASSIGN(const auto self, CudaCheck::create(comm, stream, check));
      for (u64 call = 0; call < 2; ++call) WEFT_TRY(self->run(call).status());
    }
    WEFT_ASSIGN(const auto site, Site::create(comm, stream, check));
    WEFT_ASSIGN(const GraphTimer timer, GraphTimer::create());
    std::array<CudaGraph, 3> graphs;
    for (int what = 0; what < 3; ++what) {
      for (int r = 0; r < kRoutings; ++r) WEFT_TRY(site->call(2, r));  // what is loaded lazily is loaded now
      WEFT_TRY(comm.synchronize(stream));
      WEFT_ASSIGN(graphs[size_t(what)], capture_graph(stream, [&]() -> Status {
                    for (int i = 0; i < repeats; ++i) WEFT_TRY(site->call(what, what == 1 ? 0 : i % kRoutings));
                    return {};
                  }));
    }
    for (int sample = -1; sample < samples; ++sample) {  // the first one warms up
      for (size_t what = 0; what < 3; ++what) {
        if (what == 1) WEFT_TRY(site->call(0, 0));  // whose rows combine returns
        WEFT_TRY(comm.synchronize(stream));
        WEFT_ASSIGN(const double us, timer.time(comm, stream, graphs[what]));
        if (sample >= 0) times.us[what].push_back(us / repeats);
      }
    }
    for (auto& us : times.us) std::sort(us.begin(), us.end());
    return {};
  }));
  return times;
}

}  // namespace weft::ep
