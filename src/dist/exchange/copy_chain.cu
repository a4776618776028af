#include "dist/exchange/copy_chain.cuh"

#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "copy_chain_link";

__global__ void copy_chain_link_kernel(const __grid_constant__ CudaPeers peers,
                                       const __grid_constant__ ChainWords words,
                                       const __grid_constant__ ChainLink link) {
  // The fused kernel of this call ends its count only after `sent`, so this is the running call also where it is done.
  const u32 epoch = running_epoch(reinterpret_cast<const u64*>(peers.at(words.epoch, peers.rank)));
  if (link.tell_peer >= 0) peers.notify(words.copied_at(peers.rank, link.tell_flag), link.tell_peer, epoch);
  if (link.last) {
    ptx::st_relaxed_sys(peers.at(words.previous, peers.rank), epoch);
    peers.notify(words.sent, peers.rank, epoch);
  }
  if (link.free_peer >= 0)
    peers.await(words.freed_at(link.free_peer), link.free_peer,
                ptx::ld_relaxed_sys(peers.at(words.previous, peers.rank)));
  if (link.parked) {
    wait_until(peers.fault, {peers.rank, 0, link.parked_wanted}, [&](u32& seen) {
      seen = ptx::ld_acquire_gpu(link.parked);
      return seen == link.parked_wanted;
    });
    *link.parked = 0;  // its only reader, and all writers of this call have counted
  }
}

}  // namespace

Result<CopyChain> CopyChain::create() {
  CopyChain chain;
  WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(copy_chain_link_kernel), 0));
  WEFT_ASSIGN(chain.side_, make_stream(StreamPriority::kUrgent));
  // Loads what the driver copies with where a peer is on the same GPU.
  WEFT_ASSIGN(const auto words, DeviceBuffer::create(2 * kFlagsPerLine * sizeof(u32)));
  WEFT_CUDA_TRY(cudaMemcpyAsync(words.data(), words.as<u32>() + kFlagsPerLine, kFlagsPerLine * sizeof(u32),
                                cudaMemcpyDefault, chain.side_.get()));
  WEFT_CUDA_TRY(cudaStreamSynchronize(chain.side_.get()));
  WEFT_ASSIGN(chain.forked_, make_event());
  WEFT_ASSIGN(chain.joined_, make_event());
  return std::move(chain);
}

Status CopyChain::fork(cudaStream_t stream) {
  WEFT_CUDA_TRY(cudaEventRecord(forked_.get(), stream));
  WEFT_CUDA_TRY(cudaStreamWaitEvent(side_.get(), forked_.get(), 0));
  return {};
}

Status CopyChain::link(const CudaPeers& peers, const ChainWords& words, const ChainLink& link) {
  return launch(kOp, copy_chain_link_kernel, {}, side_.get(), peers, words, link);
}

Status CopyChain::copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes,
                       size_t rows) {
  if (rows == 0 || row_bytes == 0) return {};
  if (to_stride == row_bytes && from_stride == row_bytes)
    return cuda_status(cudaMemcpyAsync(to, from, row_bytes * rows, cudaMemcpyDefault, side_.get()), "copy chain");
  return cuda_status(
      cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows, cudaMemcpyDefault, side_.get()),
      "copy chain");
}

Status CopyChain::copy_to_peers(CudaCommunicator& comm, const char* op, const ChainWords& words, sym<std::byte> all,
                                const TensorView& x, i64 m) {
  const int ranks = comm.size(), rank = comm.rank();
  const CudaPeers peers = comm.peers(op);
  const size_t row_bytes = size_t(x.dim(1)) * 2;
  const Range rows = split_range(m, ranks, rank);
  const auto peer_of = [&](int d) { return (rank + ranks - d) % ranks; };
  WEFT_TRY(link(peers, words, {.free_peer = peer_of(1)}));
  for (int d = 1; d < ranks; ++d) {
    std::byte* to = comm.at(all, peer_of(d)) + rows.begin * i64(row_bytes);
    WEFT_TRY(copy(to, row_bytes, x.data, size_t(x.byte_strides[0]), row_bytes, size_t(rows.size())));
    ChainLink next{.tell_peer = peer_of(d), .last = d == ranks - 1};
    if (!next.last) next.free_peer = peer_of(d + 1);
    WEFT_TRY(link(peers, words, next));
  }
  return {};
}

Status CopyChain::join(cudaStream_t stream) {
  WEFT_CUDA_TRY(cudaEventRecord(joined_.get(), side_.get()));
  WEFT_CUDA_TRY(cudaStreamWaitEvent(stream, joined_.get(), 0));
  return {};
}

}  // namespace weft
