// Products whose K is split over ranks, added while they are computed: what gemm_ar and moe_ar, gemm_rs and moe_rs have
// in common. What is multiplied is the caller's.
#pragma once
#include "base/aligned_buffer.h"
#include "dist/all_reduce/all_reduce.h"
#include "dist/exchange/partial.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {

// Every rank gets the sum: all_reduce's protocols, which produce tiles as they send them.
class SplitKReduce {
 public:
  SplitKReduce() = default;
  // `most`: see AllReducePlan. Collective.
  static Result<SplitKReduce> create(Communicator& comm, const Tiles& most, const AllReduceOptions& options,
                                     const char* op) {
    SplitKReduce reduce;
    WEFT_ASSIGN(reduce.plan_, AllReducePlan<float>::create(comm, most, options.name, op));
    reduce.partial_ = AlignedBuffer(size_t(round_up(most.elements, kTileUnit)) * sizeof(float));
    return Result<SplitKReduce>(std::move(reduce));  // nvcc would copy what is only named
  }

  // y [cut.rows, cut.n] = (or +=, if accumulate) the sum over ranks of what multiply(begin, end, out) writes: tiles
  // [begin, end) of this rank's product. Ends with exec.sync().
  template <class Multiply>
  Status run(Communicator& comm, Exec& exec, const char* op, const ProductTiles& cut, const TensorView& y,
             bool accumulate, const Multiply& multiply) const {
    HostMachine m = comm.machine(exec, op);
    const Hooks<Multiply> hooks{multiply, cut, y, accumulate, reinterpret_cast<float*>(partial_.data())};
    return end_call(comm, exec, plan_.run(m, cut.tiles, hooks));
  }

 private:
  template <class Multiply>
  struct Hooks {
    const Multiply& multiply;
    const ProductTiles& cut;
    const TensorView& y;
    bool accumulate;
    float* partial;
    void produce(i64 first, i64 last) const { multiply(first, last, partial); }
    const float* own(i64 i) const { return partial + i; }
    void sink(i64 tile, i64 i, const float* sums, i64 n) const { cut.store(tile, i, sums, n, y, accumulate); }
  };
  AllReducePlan<float> plan_;
  AlignedBuffer partial_;  // this rank's product
};

// Every rank gets its rows of the sum: reduce_scatter's protocol. Tiles of rank + 1's rows are computed and sent first,
// the own rows last, when the peers' have had time to arrive.
class SplitKScatter {
 public:
  SplitKScatter() = default;
  // Collective.
  static Result<SplitKScatter> create(Communicator& comm, i64 max_rows, i64 n, const char* op) {
    SplitKScatter scatter;
    const i64 slot = split_range(max_rows, comm.size(), 0).size() * round_up(n, 4);
    WEFT_ASSIGN(scatter.buffers_, plan_reduce_scatter<float>(comm, slot, op));
    scatter.partial_ = AlignedBuffer(size_t(max_rows * round_up(n, 4)) * sizeof(float));
    return Result<SplitKScatter>(std::move(scatter));
  }

  // y [own rows, n] = (or +=) this rank's rows of the sum over ranks of what multiply(rows, cut, begin, end, out)
  // writes: tiles [begin, end) of cut(rows.size(), n) of those rows of this rank's product. Ends with exec.sync().
  template <class Cut, class Multiply>
  Status run(Communicator& comm, Exec& exec, const char* op, i64 rows, i64 n, const TensorView& y, bool accumulate,
             const Cut& cut, const Multiply& multiply) const {
    HostMachine m = comm.machine(exec, op);
    const auto rows_of = [&](int p) { return split_range(rows, comm.size(), p); };
    const auto cut_of = [&](int p) { return cut(rows_of(p).size(), n); };
    float* partial = reinterpret_cast<float*>(partial_.data());
    const auto shard = [&](int p) { return partial + rows_of(p).begin * round_up(n, 4); };
    const auto produce = [&](int p, i64 first, i64 last) { multiply(rows_of(p), cut_of(p), first, last, shard(p)); };
    const Hooks<decltype(produce), decltype(shard)> hooks{produce, shard, cut_of(comm.rank()), y, accumulate};
    return end_call(comm, exec, reduce_scatter(m, buffers_, [&](int p) { return cut_of(p).tiles; }, hooks));
  }

 private:
  template <class Produce, class Shard>
  struct Hooks {
    Produce produce;
    Shard shard;
    ProductTiles mine;
    const TensorView& y;
    bool accumulate;
    const float* own(int p, i64 i) const { return shard(p) + i; }
    void sink(i64 tile, i64 i, const float* sums, i64 count) const { mine.store(tile, i, sums, count, y, accumulate); }
  };
  ReduceScatterBuffers<float> buffers_;
  AlignedBuffer partial_;  // this rank's product, shard by shard
};

}  // namespace weft
