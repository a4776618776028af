#include "dist/send_recv/send_recv.h"

#include "dist/bench_site.h"

namespace weft {

// Ranks 0 and 1, 2 and 3 ... send a message there and back; a last rank without a partner looks on.
Status bench_send_recv(BenchSite& site) {
  WEFT_ASSIGN(auto op, SendRecv::create(site.comm, {site.n * 4}));
  const int rank = site.comm.rank(), peer = rank ^ 1;
  const bool paired = peer < site.comm.size();
  const TensorView x = site.x(site.n), y = site.y(paired ? site.n : 0);
  const auto ping_pong = [=](SendRecv& send_recv, Exec& exec) -> Status {
    if (!paired) return {};
    if (rank < peer) WEFT_TRY(send_recv.send(exec, x, peer));
    WEFT_TRY(send_recv.receive(exec, y, peer));
    return rank < peer ? Status() : send_recv.send(exec, x, peer);
  };
  site.push(
      "send_recv", "ping_pong", std::move(op), y, [peer](i64 i) { return BenchSite::number(peer, i); }, ping_pong);
  return {};
}

}  // namespace weft
