// For fuzz targets that need files.
#pragma once
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

namespace weft {

// A folder of this process in memory, made at the first call and gone with the process unless that crashes.
inline const std::filesystem::path& fuzz_folder() {
  struct Folder {
    std::filesystem::path path = fmt::format("/dev/shm/weft_fuzz_{}", ::getpid());
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace weft
