// all_reduce: the sum over all ranks, on every rank.
#pragma once
#include <memory>
#include <string>
#include <variant>

#include "comm/communicator.h"
#include "dist/all_reduce/protocol.h"

namespace weft {

class CudaAllReduce;

struct AllReduceShape {
  i64 max_elements = 0;
  DType dtype = DType::kF32;  // f32, bf16 or f16
};

struct AllReduceOptions {
  // "ll": payload and flag in one word, for the smallest sizes; on GPUs the same as one_shot. "one_shot": everybody
  // sends everything to everybody. "two_shot": reduce-scatter, then all-gather. "auto": by size. The bits of the result
  // do not depend on it.
  std::string name = "auto";
};

enum class AllReduceAlgorithm { kAuto, kLl, kOneShot, kTwoShot };
Result<AllReduceAlgorithm> parse_all_reduce(const std::string& name);
// What "auto" means for `bytes` on `ranks` ranks.
AllReduceAlgorithm choose_all_reduce(i64 bytes, int ranks);

// The symmetric memory and protocol choice that all_reduce and gemm_ar share, for elements of type T.
template <class T>
class AllReducePlan {
 public:
  // Room for calls with neither more elements nor a longer stride than `most`. Collective.
  static Result<AllReducePlan> create(Communicator& comm, const Tiles& most, const std::string& name, const char* op);
  // Runs one call; false = the communicator failed.
  template <class Hooks>
  bool run(HostMachine& m, const Tiles& tiles, Hooks&& hooks) const {
    const i64 bytes = tiles.elements * i64(sizeof(T));
    switch (algorithm_ == AllReduceAlgorithm::kAuto ? choose_all_reduce(bytes, m.ranks()) : algorithm_) {
      case AllReduceAlgorithm::kLl: return all_reduce_ll(m, buffers_, tiles, hooks);
      case AllReduceAlgorithm::kOneShot: return all_reduce_one_shot(m, buffers_, tiles, hooks);
      default: return all_reduce_two_shot(m, buffers_, tiles, hooks);
    }
  }

 private:
  AllReduceAlgorithm algorithm_ = AllReduceAlgorithm::kAuto;
  AllReduceBuffers<T> buffers_;
};

class AllReduce {
 public:
  // Collective. Errors: kInvalidArgument naming the dtype, size or algorithm; kResourceExhausted.
  static Result<AllReduce> create(Communicator& comm, const AllReduceShape& shape,
                                  const AllReduceOptions& options = {});

  // y = sum over ranks of x. x, y: the dtype of create, any equal shape, dense, the same on every rank, at most
  // max_elements; y may be x. Sums in rank order in fp32, rounded once: equal bits on every rank, run and algorithm.
  // Every thread of every rank calls it; ends with exec.sync(); no allocation. No elements: a no-op.
  // Errors: kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const TensorView& x, const TensorView& y);

 private:
  AllReduce(Communicator comm, const AllReduceShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const TensorView& x, const TensorView& y) const;
  Communicator comm_;
  AllReduceShape shape_;
  std::variant<AllReducePlan<float>, AllReducePlan<bf16>, AllReducePlan<f16>> plan_;
  std::shared_ptr<CudaAllReduce> gpu_;  // on GPUs, in its place
};

}  // namespace weft
