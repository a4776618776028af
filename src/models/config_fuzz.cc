// libFuzzer target: any bytes as config.json either fail to read or give a model that check_config() accepts and that
// can be cut for ranks or refused.
#include <fstream>

#include "base/fuzz_folder.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft;
  std::ofstream(fuzz_folder() / "config.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), std::streamsize(size));
  const auto config = config_from_folder(fuzz_folder());
  if (!config.ok()) return 0;
  WEFT_CHECK(check_config("fuzz", *config).ok());
  WEFT_CHECK(config->windows.empty() || i64(config->windows.size()) == config->layers);
  for (const int tp : {1, 2, 3}) (void)make_shard_plan(shard_dims(*config, 1), tp, tp - 1);
  return 0;
}
