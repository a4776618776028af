// What the kernels of a call are and what they are launched with: by CudaAllToAll, and in tests by the emulator.
#pragma once
#include "dist/expert_parallel/cuda_combine.cuh"
#include "dist/expert_parallel/cuda_dispatch.cuh"

namespace weft::ep {

// What calls of one rank have in common.
struct CudaCallPlace {
  CudaPeers peers;
  const CudaWire& wire;
  const CudaBuffers& buffers;
  CudaRoute route;
  CudaReport* report;
  int max_ctas;
  GatheredRows gathered;  // where options.map_rows
};

// x: u8 = as it is; unroll: up to 4 / its bytes.
inline auto dispatch_kernel_of(DType x, int unroll) {
  if (x == DType::kF32) return ep_dispatch_kernel<float, 1>;
  if (x == DType::kBF16) return unroll == 1 ? ep_dispatch_kernel<bf16, 1> : ep_dispatch_kernel<bf16, 2>;
  if (x == DType::kF16) return unroll == 1 ? ep_dispatch_kernel<f16, 1> : ep_dispatch_kernel<f16, 2>;
  return unroll == 1 ? ep_dispatch_kernel<u8, 1> : unroll == 2 ? ep_dispatch_kernel<u8, 2> : ep_dispatch_kernel<u8, 4>;
}
template <class T>
auto combine_kernel_of(bool exact, int unroll) {
  if (exact) return unroll == 1 ? ep_combine_kernel<T, true, 1> : ep_combine_kernel<T, true, 2>;
  return unroll == 1 ? ep_combine_kernel<T, false, 1> : ep_combine_kernel<T, false, 2>;
}

// The type that dispatch_kernel_of() asks for.
inline DType travelling_as(const AllToAllOptions& options, const TensorView& x) {
  return options.cast_x_to_fp8 ? x.dtype : DType::kU8;
}

// Arguments as CudaAllToAll::dispatch() has checked them.
inline CudaDispatchParams dispatch_params(const CudaCallPlace& place, const AllToAllOptions& options,
                                          const DispatchArgs& a, bool send, bool receive) {
  const auto in_words = [](const TensorView& view, i64 row_bytes) {
    return (reinterpret_cast<uintptr_t>(view.data) | uintptr_t(row_bytes)) % 16 == 0;
  };
  const CudaWire& wire = place.wire;
  const i64 m = a.indices.dim(0);
  CudaDispatchParams p{};
  p.peers = place.peers;
  p.wire = wire;
  p.buffers = place.buffers;
  p.route = place.route;
  p.report = place.report;
  p.grid = plan_cuda_dispatch(wire, int(divide_up(m, wire.dp_size)), place.max_ctas, send, receive,
                              int(dtype_bytes(travelling_as(options, a.x), 1)));
  p.send = send;
  p.receive = receive;
  p.x = a.x.data;
  p.x_stride = a.x.byte_strides[0];
  p.indices = a.indices.as<i32>();
  p.indices_in_words = in_words(a.indices, wire.per_token * i64(sizeof(i32)));
  p.weights = wire.exact ? nullptr : a.weights.as<float>();
  p.tokens = u32(m);
  p.bound = a.bound_m;
  p.counts = a.out_num_tokens.as<i32>();
  const TensorView& to_scales = options.map_rows ? place.gathered.scale : a.expert_x_scale;
  p.to_x = options.map_rows ? place.gathered.x.data : a.expert_x.data;
  p.maps = options.map_rows;
  p.row_map = a.row_map.as<i32>();
  p.row_experts = a.row_experts.as<i32>();
  if (wire.scale_bytes > 0) {
    if (!options.cast_x_to_fp8) {
      p.scales = a.x_scale.data;
      p.scale_stride = a.x_scale.byte_strides[0];
      p.scales_in_words = in_words(a.x_scale, p.scale_stride);
    }
    p.to_scales = to_scales.data;
    p.to_scales_in_words = in_words(to_scales, wire.scale_bytes);
  }
  return p;
}

// Likewise. weights_known: the dispatch took them along.
inline CudaCombineParams combine_params(const CudaCallPlace& place, const CombineArgs& a, bool weights_known, bool send,
                                        bool receive) {
  const i64 m = a.indices.dim(0);
  CudaCombineParams p{};
  p.peers = place.peers;
  p.wire = place.wire;
  // Narrower rows lie closer together. Readers clear what they read, so calls of different types may follow each other.
  p.wire.y_words = int(dtype_bytes(a.expert_y.dtype, a.out.dim(1)) / 16);
  p.buffers = place.buffers;
  p.route = place.route;
  p.send = send;
  p.receive = receive;
  p.grid = plan_cuda_combine(p.wire, int(divide_up(m, p.wire.dp_size)), place.max_ctas, send, receive);
  p.y = a.expert_y.as<const Word>();
  p.packed = a.expert_y.shape.rank() == 2;
  p.indices = a.indices.as<i32>();
  p.weights = a.weights.as<float>();
  p.weights_known = weights_known;
  p.tokens = int(m);
  p.out = a.out.data;
  p.out_stride = a.out.byte_strides[0];
  p.out_dtype = a.out.dtype;
  p.accumulate = a.accumulate;
  return p;
}

}  // namespace weft::ep
