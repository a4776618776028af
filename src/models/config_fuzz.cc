// libFuzzer target: any bytes as config.json either fail to read or give a model that check_config() accepts and that
// can be cut for ranks or refused.
#include <unistd.h>

#include <fstream>

#include "models/config.h"

namespace weft {
namespace {

const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    const auto made = std::filesystem::path("/dev/shm") / fmt::format("weft_config_fuzz_{}", ::getpid());
    std::filesystem::create_directories(made);
    return made;
  }();
  return path;
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft;
  std::ofstream(folder() / "config.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), std::streamsize(size));
  const auto config = config_from_folder(folder());
  if (!config.ok()) return 0;
  WEFT_CHECK(check_config("fuzz", *config).ok());
  WEFT_CHECK(config->windows.empty() || i64(config->windows.size()) == config->layers);
  for (const int tp : {1, 2, 3}) (void)make_shard_plan(shard_dims(*config, 1), tp, tp - 1);
  return 0;
}
