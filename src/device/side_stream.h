// SideStream: work of a GPU beside an Exec's stream.
#pragma once
#include <memory>

#include "device/exec.h"

namespace weft {

class SideStream {
 public:
  // On the current GPU. Errors: CUDA's; kUnimplemented in a build without CUDA.
  static Result<SideStream> create();

  // What runs by the Exec returned follows what is on exec's stream so far, and nothing on that stream follows it until
  // join(). It may use sm_budget() multiprocessors, half of them. Captures into a graph.
  Result<Exec> fork(const Exec& exec);
  // exec's stream waits for the work beside it. The next operator on it runs by the Exec returned, which does not start
  // early.
  Result<Exec> join(const Exec& exec);

  int sm_budget() const { return sm_budget_; }

 private:
  struct Handles;
  std::shared_ptr<Handles> handles_;
  int sm_budget_ = 0;
};

}  // namespace weft
