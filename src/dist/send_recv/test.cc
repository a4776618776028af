#include "dist/send_recv/send_recv.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

// A pipeline: rank r passes what it gets to r + 1. The first rank runs ahead of slow ones as far as it may.
TEST(SendRecv, MessagesPassThroughAPipelineInOrder) {
  for (const int ranks : {2, 3, 5}) {
    const int messages = repeated_calls(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, SendRecv::create(comm, {40000}));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      std::mt19937 sizes(3), delays(u32(comm.rank()));
      for (int message = 0; message < messages; ++message) {
        const i64 n = message % 100 == 0 ? 10000 : i64(sizes() % 300);
        if (comm.rank() > 0 && delays() % 64 == 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(delays() % 200));
        }
        Tensor x = comm.rank() == 0 ? filled(DType::kF32, {n}, u64(message), 0) : Tensor::zeros(DType::kF32, {n});
        WEFT_TRY(pool->run([&](Exec& exec) -> Status {
          if (comm.rank() > 0) WEFT_TRY(op.receive(exec, x.view, comm.rank() - 1));
          if (comm.rank() + 1 < ranks) WEFT_TRY(op.send(exec, x.view, comm.rank() + 1));
          return {};
        }));
        for (i64 i = 0; i < n; i += 1 + n / 16) {
          WEFT_TRY(expect_value("x", i, element(u64(message), 0, i), load(x.view, i)));
        }
      }
      return {};
    }));
  }
}

TEST(SendRecv, AWrongSizeIsReportedAndTheNextMessageArrives) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, SendRecv::create(comm, {64}));
    WEFT_ASSIGN(auto pool, small_pool(2));
    Tensor x = filled(DType::kF32, {16}, 1, 0), y = Tensor::zeros(DType::kF32, {16});
    const auto receive = [&](TensorView view) {
      return pool->run([&](Exec& exec) { return op.receive(exec, view, 0); });
    };
    const auto send = [&](TensorView view, int peer) {
      return pool->run([&](Exec& exec) { return op.send(exec, view, peer); });
    };
    if (comm.rank() == 0) {
      EXPECT_EQ(send(x.view, 0).message(), "send: peer: expected another rank of 2, found 0 on rank 0");
      Tensor large = Tensor::zeros(DType::kF32, {17});
      EXPECT_EQ(send(large.view, 1).message(), "send: x: f32 [17] holds more than max_bytes = 64");
      WEFT_TRY(send(x.view.rows(0, 3), 1));
      return send(x.view, 1);
    }
    EXPECT_EQ(receive(y.view).message(), "receive: y: rank 0 sent 12 bytes, found f32 [16]");
    WEFT_TRY(receive(y.view));
    for (i64 i = 0; i < 16; ++i) WEFT_TRY(expect_value("y", i, element(1, 0, i), load(y.view, i)));
    return {};
  }));
}

}  // namespace
}  // namespace weft
