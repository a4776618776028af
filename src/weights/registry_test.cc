#include "weights/registry.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace weft {
namespace {

namespace fs = std::filesystem;

// An empty cache folder for one test.
class Registry : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("weft_registry_" + std::to_string(::getpid()));
    fs::create_directories(root_ / "weft");
    ::setenv("XDG_CACHE_HOME", root_.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path root_;
};

TEST_F(Registry, NamesResolveToTheCachedFileOnceItIsWhole) {
  const ModelSource* model = find_model("smollm2-135m");
  ASSERT_NE(model, nullptr);
  const fs::path path = root_ / "weft" / model->file_name;
  const std::string end = "(" + path.string() + "); run: weft fetch smollm2-135m";

  EXPECT_EQ(resolve_model("smollm2-135m").status().message(), "model smollm2-135m is not fetched yet " + end);
  std::ofstream(path) << "part";
  EXPECT_EQ(resolve_model("smollm2-135m").status().message(), "model smollm2-135m is incomplete " + end);
  EXPECT_FALSE(*is_fetched(*model));
  fs::resize_file(path, model->bytes);  // sparse
  EXPECT_EQ(*resolve_model("smollm2-135m"), path);
  EXPECT_TRUE(*is_fetched(*model));
}

TEST_F(Registry, PathsStandForThemselves) {
  const std::string file = root_ / "model.gguf";
  EXPECT_EQ(resolve_model(file).status().message(), "model " + file + ": no such file or folder");
  std::ofstream(file) << "x";
  EXPECT_EQ(*resolve_model(file), file);
  EXPECT_EQ(*resolve_model(root_), root_);
}

TEST_F(Registry, UnknownNamesListTheKnownOnes) {
  EXPECT_EQ(find_model("smolm2"), nullptr);
  EXPECT_EQ(resolve_model("smolm2").status().message(),
            "unknown model 'smolm2': expected a .gguf file, a model folder or one of: smollm2-135m");
}

TEST(RegistryTable, EntriesAreComplete) {
  for (const ModelSource& model : known_models()) {
    EXPECT_EQ(std::string_view(model.sha256).find_first_not_of("0123456789abcdef"), std::string_view::npos);
    EXPECT_EQ(std::string_view(model.sha256).size(), 64u);
    EXPECT_NE(std::string_view(model.requirement).find("=="), std::string_view::npos) << "pinned";
    EXPECT_EQ(find_model(model.name), &model);
  }
}

}  // namespace
}  // namespace weft
