#include "base/huge_buffer.h"

#include <sys/mman.h>

namespace weft {
namespace {

constexpr size_t kPage = 2 << 20, kBlock = 32 << 20;

struct Block {
  std::shared_ptr<AlignedBuffer> memory;
  std::byte* next = nullptr;
  size_t left = 0;
};

Block new_block(size_t bytes) {
  const size_t whole = (bytes + kPage - 1) / kPage * kPage;
  auto memory = std::make_shared<AlignedBuffer>(whole + kPage);  // room to begin on a page border
  const size_t skip = (kPage - reinterpret_cast<size_t>(memory->data()) % kPage) % kPage;
  std::byte* begin = memory->data() + skip;
  ::madvise(begin, whole, MADV_HUGEPAGE);  // refused where the kernel has none: small pages then
  return {std::move(memory), begin, whole};
}

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  thread_local Block current;
  const size_t taken = (bytes + AlignedBuffer::kAlignment - 1) / AlignedBuffer::kAlignment * AlignedBuffer::kAlignment;
  if (taken > current.left) current = new_block(taken > kBlock ? taken : kBlock);
  block_ = current.memory;
  data_ = current.next;
  current.next += taken;
  current.left -= taken;
}

}  // namespace weft
