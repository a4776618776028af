// CallChecker's calls on a GPU, for tests and benchmarks: tensors go there and back, everything between is the
// operator.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <random>

#include "comm/cuda_testing.cuh"
#include "dist/expert_parallel/cuda.cuh"
#include "dist/expert_parallel/selfcheck.h"

namespace weft::ep {

struct CudaCheckOptions {
  bool graph = false;  // captured once for each number of rows, then replayed
  int repeat = 1;      // calls in a row, all with the same inputs and without the host between them
  u64 late_ns = 0;     // most that a rank is held up before each call
};

static __global__ void hold_up_kernel(u64 ns) {
  const u64 start = ptx::globaltimer_ns();
  while (ptx::globaltimer_ns() - start < ns) __nanosleep(100);
}

class CudaCheck {
 public:
  // Collective. As SelfCheck, `check` lacks what the communicator and the types say.
  static Result<std::unique_ptr<CudaCheck>> create(CudaCommunicator& comm, cudaStream_t stream, CheckCase check,
                                                   const CudaCheckOptions& options = {}) {
    check.shape.rank = comm.rank();
    check.shape.world_size = comm.size();
    CallChecker::complete(check);
    WEFT_TRY(prepare_kernel("hold_up", reinterpret_cast<const void*>(hold_up_kernel), 0));
    auto made = std::unique_ptr<CudaCheck>(new CudaCheck(comm, stream, check, options));
    const AllToAllShape& s = check.shape;
    const size_t m = size_t(s.max_num_tokens), k = size_t(s.experts_per_token), h = size_t(s.hidden_dim);
    WEFT_ASSIGN(made->x_, DeviceBuffer::create(m * std::max(size_t(s.hidden_dim_bytes), 4 * h)));
    WEFT_ASSIGN(made->scales_, DeviceBuffer::create(m * size_t(s.hidden_dim_scale_bytes)));
    WEFT_ASSIGN(made->indices_, DeviceBuffer::create(m * k * 4));
    WEFT_ASSIGN(made->weights_, DeviceBuffer::create(m * k * 4));
    WEFT_ASSIGN(made->out_, DeviceBuffer::create(m * h * 4));
    WEFT_ASSIGN(made->bound_, DeviceBuffer::create(sizeof(u32)));
    WEFT_ASSIGN(auto op, CudaAllToAll::create(comm, s, check.options));
    made->op_ = std::make_unique<CudaAllToAll>(std::move(op));
    const Range local = made->op_->local_experts();
    const size_t places = size_t(local.size() * made->op_->capacity());
    WEFT_ASSIGN(made->counts_, DeviceBuffer::create(size_t(local.size()) * 4));
    if (check.map) {
      const GatheredRows rows = made->op_->gathered();
      WEFT_ASSIGN(made->row_map_, DeviceBuffer::create(places * sizeof(i32)));
      WEFT_ASSIGN(made->row_experts_, DeviceBuffer::create(size_t(rows.x.dim(0)) * k * sizeof(i32)));
      made->gathered_ = {Tensor::zeros(DType::kU8, rows.x.shape), Tensor::zeros(DType::kU8, rows.scale.shape)};
    } else {
      WEFT_ASSIGN(made->expert_x_, DeviceBuffer::create(places * size_t(s.hidden_dim_bytes)));
      WEFT_ASSIGN(made->expert_scales_, DeviceBuffer::create(places * size_t(s.hidden_dim_scale_bytes)));
    }
    WEFT_ASSIGN(made->y_, DeviceBuffer::create(places * h * size_t(dtype_bytes(check.options.combine_dtype, 1))));
    made->checker_ = std::make_unique<CallChecker>(check, local, made->op_->capacity());
    return std::move(made);
  }

  Result<u64> run(u64 call) {
    CheckedCalls calls;
    calls.dispatch = [&](const DispatchArgs& args, const CheckedCalls::Dropped& dropped) {
      return dispatch(args, dropped);
    };
    calls.combine = [&](const CombineArgs& args) { return combine(args); };
    calls.gathered = [&]() -> Result<GatheredRows> {
      const GatheredRows rows = op_->gathered(), here{gathered_[0].view, gathered_[1].view};
      WEFT_TRY(to_host(rows.x, here.x));
      WEFT_TRY(to_host(rows.scale, here.scale));
      return here;
    };
    return checker_->run(calls, call);
  }
  CudaAllToAll& op() { return *op_; }

 private:
  CudaCheck(CudaCommunicator& comm, cudaStream_t stream, const CheckCase& check, const CudaCheckOptions& options)
      : comm_(comm), stream_(stream), case_(check), options_(options), random_(u32(comm.rank()) + 1) {}

  static TensorView on_gpu(const TensorView& host, const DeviceBuffer& memory) {
    TensorView view = host;
    view.data = host.data == nullptr ? nullptr : memory.as<std::byte>();
    view.device = DeviceKind::kCuda;
    return view;
  }
  static size_t bytes_of(const TensorView& view) {
    return view.data == nullptr ? 0 : size_t(dtype_bytes(view.dtype, view.shape.elements()));
  }
  Status to_gpu(const TensorView& host, const TensorView& gpu) {
    if (bytes_of(host) == 0) return {};
    return cuda_status(cudaMemcpyAsync(gpu.data, host.data, bytes_of(host), cudaMemcpyDefault, stream_), "to GPU");
  }
  static Status to_host(const TensorView& gpu, const TensorView& host) {
    if (bytes_of(host) == 0) return {};
    return cuda_status(cudaMemcpy(host.data, gpu.data, bytes_of(host), cudaMemcpyDefault), "to host");
  }

  // `call` enqueues one call of the operator; `rows` tells graphs apart.
  Status enqueue(std::map<i64, CudaGraph>& graphs, i64 rows, const std::function<Status()>& call) {
    const auto all = [&]() -> Status {
      for (int i = 0; i < options_.repeat; ++i) {
        if (options_.late_ns > 0)
          WEFT_TRY(launch("hold_up", hold_up_kernel, {}, stream_, random_() % (options_.late_ns + 1)));
        WEFT_TRY(call());
      }
      return {};
    };
    if (!options_.graph) {
      WEFT_TRY(all());
    } else {
      if (!graphs.contains(rows)) {
        WEFT_ASSIGN(graphs[rows], capture_graph(stream_, all));
      }
      WEFT_CUDA_TRY(cudaGraphLaunch(graphs[rows].get(), stream_));
    }
    return comm_.synchronize(stream_);
  }

  Status dispatch(const DispatchArgs& host, const CheckedCalls::Dropped& dropped) {
    DispatchArgs a = host;
    a.x = on_gpu(host.x, x_);
    a.x_scale = on_gpu(host.x_scale, scales_);
    a.indices = on_gpu(host.indices, indices_);
    a.out_num_tokens = on_gpu(host.out_num_tokens, counts_);
    a.expert_x = on_gpu(host.expert_x, expert_x_);
    a.expert_x_scale = on_gpu(host.expert_x_scale, expert_scales_);
    a.row_map = on_gpu(host.row_map, row_map_);
    a.row_experts = on_gpu(host.row_experts, row_experts_);
    a.bound_m = host.bound_m == nullptr ? nullptr : bound_.as<u32>();
    a.weights = on_gpu(host.weights, weights_);
    WEFT_TRY(to_gpu(host.weights, a.weights));
    if (a.bound_m != nullptr)
      WEFT_CUDA_TRY(cudaMemcpyAsync(bound_.data(), host.bound_m, sizeof(u32), cudaMemcpyDefault, stream_));
    WEFT_TRY(to_gpu(host.x, a.x));
    WEFT_TRY(to_gpu(host.x_scale, a.x_scale));
    WEFT_TRY(to_gpu(host.indices, a.indices));
    WEFT_TRY(to_gpu(host.out_num_tokens, a.out_num_tokens));
    WEFT_TRY(to_gpu(host.expert_x, a.expert_x));
    WEFT_TRY(to_gpu(host.expert_x_scale, a.expert_x_scale));
    WEFT_TRY(to_gpu(host.row_map, a.row_map));
    WEFT_TRY(to_gpu(host.row_experts, a.row_experts));
    WEFT_TRY(comm_.synchronize(stream_));
    const i64 before = op_->dropped_pairs();
    WEFT_TRY(enqueue(dispatches_, host.indices.dim(0), [&]() -> Status {
      if (!case_.split) return op_->dispatch(stream_, a);
      WEFT_TRY(op_->dispatch_send(stream_, a));
      WEFT_TRY(launch("hold_up", hold_up_kernel, {}, stream_, random_() % 20'000));
      return op_->dispatch_receive(stream_, a);
    }));
    const i64 found = op_->dropped_pairs() - before;
    if (found != dropped.here * options_.repeat)
      return error(Code::kDataLoss, "{} pairs beyond the capacity, {} reported", dropped.here * options_.repeat, found);
    WEFT_TRY(to_host(a.out_num_tokens, host.out_num_tokens));
    WEFT_TRY(to_host(a.expert_x, host.expert_x));
    WEFT_TRY(to_host(a.row_map, host.row_map));
    WEFT_TRY(to_host(a.row_experts, host.row_experts));
    return to_host(a.expert_x_scale, host.expert_x_scale);
  }

  Status combine(const CombineArgs& host) {
    CombineArgs a = host;
    a.expert_y = on_gpu(host.expert_y, y_);
    a.indices = on_gpu(host.indices, indices_);
    a.weights = on_gpu(host.weights, weights_);
    a.out = on_gpu(host.out, out_);
    WEFT_TRY(to_gpu(host.expert_y, a.expert_y));
    WEFT_TRY(to_gpu(host.indices, a.indices));
    WEFT_TRY(to_gpu(host.weights, a.weights));
    WEFT_TRY(to_gpu(host.out, a.out));
    WEFT_TRY(comm_.synchronize(stream_));
    WEFT_TRY(enqueue(combines_, host.indices.dim(0), [&]() -> Status {
      if (!case_.split) return op_->combine(stream_, a);
      WEFT_TRY(op_->combine_send(stream_, a));
      WEFT_TRY(launch("hold_up", hold_up_kernel, {}, stream_, random_() % 20'000));
      return op_->combine_receive(stream_, a);
    }));
    return to_host(a.out, host.out);
  }

  CudaCommunicator& comm_;
  const cudaStream_t stream_;
  const CheckCase case_;
  const CudaCheckOptions options_;
  std::mt19937_64 random_;
  std::unique_ptr<CudaAllToAll> op_;
  std::unique_ptr<CallChecker> checker_;
  DeviceBuffer x_, scales_, indices_, weights_, bound_, counts_, expert_x_, expert_scales_, row_map_, row_experts_, y_,
      out_;
  std::array<Tensor, 2> gathered_;                  // here, for maps: x and scales
  std::map<i64, CudaGraph> dispatches_, combines_;  // by rows
};

}  // namespace weft::ep
