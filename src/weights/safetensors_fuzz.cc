// libFuzzer target: any bytes as model.safetensors, and as the index of a folder, either fail to open or give tensors
// that can be read in full.
#include <fstream>

#include "base/fuzz_folder.h"
#include "weights/checkpoint.h"

namespace weft {
namespace {

void open_as(const char* name, const uint8_t* data, size_t size) {
  const std::filesystem::path path = fuzz_folder() / name;
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), std::streamsize(size));
  const auto checkpoint = open_safetensors_checkpoint(fuzz_folder());
  if (checkpoint.ok()) {
    volatile u8 sink = 0;
    for (const auto& [tensor, view] : (*checkpoint)->tensors()) {
      const i64 bytes = dtype_bytes(view.dtype, view.shape.elements());
      for (i64 i = 0; i < bytes; ++i) sink = sink ^ u8(view.data[i]);
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  weft::open_as("model.safetensors", data, size);
  weft::open_as("model.safetensors.index.json", data, size);
  return 0;
}
