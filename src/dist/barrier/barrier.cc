#include "dist/barrier/barrier.h"

#include "dist/exchange/plan.h"

namespace weft {

Result<Barrier> Barrier::create(Communicator& comm) {
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 flags = layout.reserve<u32>(comm.size() * kFlagsPerLine);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), "barrier"));
  Barrier op(comm);
  op.buffers_ = {layout.at<EpochWord>(base, epoch), {layout.at<u32>(base, flags), kFlagsPerLine}};
  return op;
}

Status Barrier::run(Exec& exec) {
  WEFT_TRY(expect_cpu("barrier", exec));
  WEFT_TRY(comm_.status());
  WEFT_TRY(exec.sync());  // the rank has come when all its threads have
  HostMachine m = comm_.machine(exec, "barrier");
  return end_call(comm_, exec, barrier(m, buffers_));
}

}  // namespace weft
