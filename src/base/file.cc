#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace weft {

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::string errno_text() {
  return std::strerror(errno);
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return error(errno == ENOENT ? Code::kNotFound : Code::kIo, "{}: {}", path.string(), errno_text());
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return error(Code::kIo, "{}: {}", path.string(), errno_text());
  if (!S_ISREG(info.st_mode)) return error(Code::kInvalidArgument, "{}: not a regular file", path.string());
  MappedFile file;
  file.path_ = path.string();
  if (info.st_size > 0) {
    void* base = ::mmap(nullptr, size_t(info.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (base == MAP_FAILED) return error(Code::kIo, "{}: mmap: {}", path.string(), errno_text());
    file.bytes_ = {static_cast<const std::byte*>(base), size_t(info.st_size)};
  }
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(path_, other.path_);
  return *this;
}

void MappedFile::drop(std::span<const std::byte> range) const {
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE));
  const auto begin = (uintptr_t(range.data()) + page - 1) / page * page;  // whole pages inside the range only
  const auto end = uintptr_t(range.data() + range.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return error(errno == ENOENT ? Code::kNotFound : Code::kIo, "{}: {}", path.string(), errno_text());
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) return error(Code::kIo, "{}: read failed: {}", path.string(), errno_text());
  return text.str();
}

Result<std::filesystem::path> cache_folder() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) return std::filesystem::path(xdg) / "weft";
  if (const char* home = std::getenv("HOME"); home && *home) return std::filesystem::path(home) / ".cache" / "weft";
  return error(Code::kNotFound, "no cache folder: neither XDG_CACHE_HOME nor HOME is set");
}

}  // namespace weft
