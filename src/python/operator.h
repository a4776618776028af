// What AllToAll of the Python package drives: one rank's expert-parallel operator on one kind of device.
#pragma once
#include <chrono>
#include <memory>

#include "comm/bootstrap/world.h"
#include "dist/expert_parallel/expert_parallel.h"

namespace weft::python {

struct OperatorSpec {
  ep::AllToAllShape shape;
  ep::AllToAllOptions options;
  std::chrono::nanoseconds deadline{};  // of each wait for another rank
  int threads = 0;                      // CPU: of this rank; 0 = its share of the CPUs
  int device = -1;                      // GPU; -1 = rank modulo the number of visible GPUs
};

struct Halves {
  bool send = true, receive = true;
};

// Created and called by all ranks of the world in the same order, by one thread at a time. stream: a cudaStream_t.
class Operator {
 public:
  virtual ~Operator() = default;
  virtual DeviceKind device() const = 0;
  virtual Status dispatch(const ep::DispatchArgs& args, Halves halves, void* stream) = 0;
  // bound_m: null, or where the CPU form finds the number that the dispatch had.
  virtual Status combine(const ep::CombineArgs& args, const u32* bound_m, Halves halves, void* stream) = 0;
  virtual Range local_experts() const = 0;
  virtual i64 capacity() const = 0;
  virtual i64 dropped_pairs() const = 0;
  // GPUs: what the dispatches that have run found wrong; on CPUs each call says so itself.
  virtual Status report() const = 0;
};

// Collective. Errors: those of ep::AllToAll and Communicator, or of their CUDA forms.
Result<std::unique_ptr<Operator>> make_cpu_operator(std::shared_ptr<World> world, const OperatorSpec& spec);
// kUnimplemented where the package was built without CUDA.
Result<std::unique_ptr<Operator>> make_cuda_operator(std::shared_ptr<World> world, const OperatorSpec& spec);
bool built_with_cuda();

}  // namespace weft::python
