#include "base/huge_buffer.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace weft {
namespace {

TEST(HugeBuffer, BuffersAreZeroAlignedAndApart) {
  std::vector<HugeBuffer> buffers;
  for (const size_t bytes : {size_t(1), size_t(0), size_t(64), size_t(100), size_t(40) << 20, size_t(1000)}) {
    buffers.emplace_back(bytes);
    const HugeBuffer& buffer = buffers.back();
    ASSERT_EQ(buffer.size(), bytes);
    ASSERT_EQ(reinterpret_cast<size_t>(buffer.data()) % AlignedBuffer::kAlignment, 0u);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(buffer.data()[i], std::byte(0));
    std::fill_n(buffer.data(), bytes, std::byte(buffers.size()));
  }
  for (size_t b = 0; b < buffers.size(); ++b) {
    for (size_t i = 0; i < buffers[b].size(); ++i) ASSERT_EQ(buffers[b].data()[i], std::byte(b + 1));
  }
}

TEST(HugeBuffer, ABufferOutlivesItsThreadAndItsNeighbours) {
  HugeBuffer kept;
  std::thread([&] {
    HugeBuffer neighbour(100);
    kept = HugeBuffer(100);
    std::fill_n(kept.data(), 100, std::byte(7));
  }).join();
  const HugeBuffer copy = kept;
  kept = {};
  for (size_t i = 0; i < 100; ++i) ASSERT_EQ(copy.data()[i], std::byte(7));
}

}  // namespace
}  // namespace weft
