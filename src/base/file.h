// Files: owned descriptors, read-only mappings, atomic replacement.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// A whole file mapped read-only. Pages come from the page cache as they are touched.
class MappedFile {
 public:
  // Errors: kNotFound, or kIo with the system's reason; both name the path.
  static Result<MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  // Gives the physical pages of a range back (they are read again if touched): for tensors that were repacked.
  void drop(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  std::span<const std::byte> bytes_;
  std::string path_;
};

// "No such file or directory" and so on, for the calling thread's errno.
std::string errno_text();

// The whole file as a string. Errors name the path.
Result<std::string> read_file(const std::filesystem::path& path);

// The user's cache folder of weft: $XDG_CACHE_HOME/weft or ~/.cache/weft. Not created.
Result<std::filesystem::path> cache_folder();

}  // namespace weft
