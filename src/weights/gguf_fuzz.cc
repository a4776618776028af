// libFuzzer target: any bytes either fail to parse or give an index that can be read in full.
#include <cstring>
#include <memory>

#include "weights/gguf.h"

namespace weft {
namespace {

template <class T>
void read_as(const MetaValue& value) {
  T out{};
  (void)value.to(&out);
}

void read_everything(const GgufIndex& index) {
  for (const auto& [key, value] : index.metadata) {
    (void)value.describe();
    read_as<bool>(value);
    read_as<i32>(value);
    read_as<u64>(value);
    read_as<float>(value);
    read_as<std::string>(value);
    read_as<std::vector<i64>>(value);
    read_as<std::vector<float>>(value);
    read_as<std::vector<std::string_view>>(value);
  }
  volatile u8 sink = 0;
  for (const auto& [name, view] : index.tensors) {
    const i64 bytes = dtype_bytes(view.dtype, view.shape.elements());
    for (i64 i = 0; i < bytes; ++i) sink = sink ^ u8(view.data[i]);
  }
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A heap block of exactly this size, so that AddressSanitizer sees the first byte past the end.
  const auto copy = std::make_unique<std::byte[]>(size);
  if (size) std::memcpy(copy.get(), data, size);
  const auto index = weft::parse_gguf({copy.get(), size});
  if (index.ok()) weft::read_everything(*index);
  return 0;
}
