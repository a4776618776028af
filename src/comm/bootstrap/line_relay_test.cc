#include "comm/bootstrap/line_relay.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace weft {
namespace {

struct Sink {
  Sink() {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
  // All that a queue on `write` holds.
  std::string take(OutputQueue& queue) {
    std::string all;
    char buffer[8192];
    while (!queue.empty()) {
      queue.write_some();
      const ssize_t got = ::read(read.get(), buffer, sizeof buffer);
      if (got > 0) all.append(buffer, size_t(got));
    }
    return all;
  }
  Fd read, write;
};

TEST(LineRelay, PrefixesWholeLinesHoweverTheyArrive) {
  const std::string text("one\ntwo\0three\n\nlast", 19);
  const std::string expected("[7] one\n[7] two\0three\n[7] \n[7] last\n", 36);
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    Sink sink;
    OutputQueue queue(sink.write.get());
    LineRelay relay("[7] ", queue);
    for (size_t at = 0; at < text.size(); at += piece) relay.push(std::string_view(text).substr(at, piece));
    relay.finish();
    EXPECT_EQ(sink.take(queue), expected) << piece;
  }
}

TEST(LineRelay, CutsOnlyLinesAboveTheLimit) {
  for (const size_t length : {LineRelay::kLongest - 1, LineRelay::kLongest, LineRelay::kLongest + 1}) {
    Sink sink;
    OutputQueue queue(sink.write.get());
    LineRelay relay("[0] ", queue);
    relay.push(std::string(length, 'x'));
    relay.push("\nnext\n");
    const std::string all = sink.take(queue);
    EXPECT_EQ(all.size(), 4 + length + 1 + 9 + (length > LineRelay::kLongest ? 5 : 0));
    EXPECT_TRUE(all.ends_with("x\n[0] next\n"));
  }
}

TEST(OutputQueue, DropsEverythingOnceTheReaderIsGone) {
  ::signal(SIGPIPE, SIG_IGN);
  Sink sink;
  OutputQueue queue(sink.write.get());
  sink.read.reset();
  queue.push("lost");
  queue.write_some();
  EXPECT_TRUE(queue.broken());
  EXPECT_TRUE(queue.empty());
  ::signal(SIGPIPE, SIG_DFL);
}

}  // namespace
}  // namespace weft
