// barrier: no rank leaves before every rank has come.
#pragma once
#include "comm/communicator.h"
#include "dist/barrier/protocol.h"

namespace weft {

class Barrier {
 public:
  // Collective. Errors: kResourceExhausted.
  static Result<Barrier> create(Communicator& comm);
  // Returns once every thread of every rank has called it: what they wrote before is then visible. Ends with
  // exec.sync(). Errors: the communicator's failure.
  Status run(Exec& exec);

 private:
  explicit Barrier(Communicator comm) : comm_(std::move(comm)) {}
  Communicator comm_;
  BarrierBuffers buffers_;
};

}  // namespace weft
