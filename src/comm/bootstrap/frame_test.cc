#include "comm/bootstrap/frame.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

namespace weft {
namespace {

struct Pair {
  Connection left;
  Fd right;
};

Pair make_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Connection(Fd(ends[0])), Fd(ends[1])};
}

void write_all(const Fd& fd, std::string_view bytes) {
  ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
}

TEST(Connection, FramesArriveWholeHoweverTheBytesAreCut) {
  auto [sender, raw] = make_pair();
  sender.send(FrameType::kGather, "payload");
  sender.send(FrameType::kHeartbeat);
  ASSERT_TRUE(sender.flush().ok());
  char bytes[256];
  const ssize_t count = ::read(raw.get(), bytes, sizeof bytes);
  ASSERT_EQ(count, 8 + 7 + 8);

  auto [receiver, source] = make_pair();
  std::vector<Frame> frames;
  for (ssize_t i = 0; i < count; ++i) {
    write_all(source, {bytes + i, 1});
    ASSERT_TRUE(receiver.receive().ok());
    auto frame = receiver.next(100);
    ASSERT_TRUE(frame.ok());
    if (frame->has_value()) frames.push_back(**frame);
  }
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0].type, FrameType::kGather);
  EXPECT_EQ(frames[0].payload, "payload");
  EXPECT_EQ(frames[1].type, FrameType::kHeartbeat);
}

TEST(Connection, RefusesForeignBytesAndExcessiveLengths) {
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\n"), std::string(64, '\0'), std::string(64, '\xff'),
                                   std::string("\x04\0\0\0\x65\0\0\0", 8)}) {  // a heartbeat of 101 bytes
    auto [receiver, source] = make_pair();
    write_all(source, bytes);
    ASSERT_TRUE(receiver.receive().ok());
    const auto frame = receiver.next(100);
    ASSERT_FALSE(frame.ok());
    EXPECT_EQ(frame.status().code(), Code::kDataLoss);
  }
}

TEST(Connection, WhatWasReadBeforeTheEndStaysAvailable) {
  auto [receiver, source] = make_pair();
  write_all(source, std::string_view("\x08\0\0\0\0\0\0\0", 8));
  source.reset();
  ASSERT_TRUE(receiver.receive().ok());
  EXPECT_EQ(receiver.receive().code(), Code::kUnavailable);
  auto frame = receiver.next(100);
  ASSERT_TRUE(frame.ok() && frame->has_value());
  EXPECT_EQ((*frame)->type, FrameType::kGoodbye);
}

TEST(Connection, AFullSocketKeepsTheRest) {
  auto [sender, raw] = make_pair();
  const std::string large(8 << 20, 'x');
  sender.send(FrameType::kGather, large);
  ASSERT_TRUE(sender.flush().ok());
  EXPECT_FALSE(sender.all_sent());
  size_t got = 0;
  std::vector<char> buffer(1 << 20);
  while (got < large.size() + 8) {
    const ssize_t count = ::read(raw.get(), buffer.data(), buffer.size());
    ASSERT_GT(count, 0);
    got += size_t(count);
    ASSERT_TRUE(sender.flush().ok());
  }
  EXPECT_TRUE(sender.all_sent());
  raw.reset();
  sender.send(FrameType::kHeartbeat);
  EXPECT_EQ(sender.flush().code(), Code::kUnavailable);  // and no SIGPIPE
}

TEST(ProcessInfo, KnowsItselfAndNoOther) {
  const Member self = this_process(3);
  EXPECT_EQ(self.text(self), fmt::format("rank 3 (pid {})", ::getpid()));
  EXPECT_EQ(member_state(self), 'R');
  Member later = self;
  later.start_ticks += 1;
  EXPECT_EQ(member_state(later), 'X');
  Member far = self;
  far.host_id[0] ^= 1;
  EXPECT_NE(far.text(self).find(" on "), std::string::npos);
}

}  // namespace
}  // namespace weft
