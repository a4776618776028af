// What a GGUF file says about a model, without its tensors.
#include "models/config.h"

#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "weights/gguf_writer.h"

namespace weft {
namespace {

// A file with all keys that any model needs, and those that `more` sets.
template <class More>
Result<ModelConfig> config_with(const std::string& arch, More more) {
  GgufWriter writer;
  writer.set("general.architecture", arch);
  for (const char* key : {"block_count", "expert_count", "expert_used_count", "expert_feed_forward_length"}) {
    if (arch == "qwen3moe" || std::string_view(key) == "block_count") writer.set(arch + "." + key, u32(2));
  }
  for (const char* key : {"embedding_length", "feed_forward_length"}) writer.set(arch + "." + key, u32(64));
  writer.set(arch + ".context_length", u32(512));
  writer.set(arch + ".attention.head_count", u32(4));
  writer.set(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  const Tensor embedding = Tensor::zeros(DType::kF32, {3, 64});
  writer.tensor("token_embd.weight", embedding.view);
  more(writer);
  const std::string path = ::testing::TempDir() + "/config.gguf";
  WEFT_TRY(writer.write(path));
  WEFT_ASSIGN(const GgufFile file, GgufFile::open(path));
  return config_from_gguf(file);
}

Result<ModelConfig> with_window(const std::string& arch, u32 window) {
  return config_with(arch, [&](GgufWriter& writer) { writer.set(arch + ".attention.sliding_window", window); });
}

TEST(GgufConfig, WindowsAreHonouredInAllLayersOrRefusedByName) {
  for (const char* arch : {"llama", "qwen3moe"}) {
    const auto config = with_window(arch, 100);
    ASSERT_TRUE(config.ok()) << config.status().message();
    EXPECT_EQ(config->windows, (std::vector<i64>{100, 100})) << arch;
  }
  for (const std::string arch : {"qwen2", "qwen3", "seed_oss"}) {
    const std::string message = with_window(arch, 100).status().message();
    EXPECT_NE(message.find(arch + ".attention.sliding_window is not supported"), std::string::npos) << message;
  }
}

TEST(GgufConfig, WindowsThatNoSequenceOutgrowsAreNone) {
  for (const char* arch : {"llama", "qwen2"}) {
    for (const u32 window : {0u, 512u, 4096u}) {
      const auto config = with_window(arch, window);
      ASSERT_TRUE(config.ok()) << config.status().message();
      EXPECT_EQ(config->window(0), 0) << arch << " " << window;
    }
  }
}

TEST(GgufConfig, PatternsOfWindowsAreRefusedByName) {
  const auto config =
      config_with("llama", [](GgufWriter& writer) { writer.set("llama.attention.sliding_window_pattern", u32(2)); });
  EXPECT_NE(config.status().message().find("llama.attention.sliding_window_pattern"), std::string::npos);
}

}  // namespace
}  // namespace weft
