#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <new>

namespace weft {

AlignedBuffer::AlignedBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(base);
}

AlignedBuffer::~AlignedBuffer() {
  if (release_ != nullptr) {
    release_(data_);
  } else if (data_ != nullptr) {
    ::munmap(data_, bytes_);
  }
}

}  // namespace weft
