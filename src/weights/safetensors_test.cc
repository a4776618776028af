#include "weights/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

namespace weft {
namespace {

// A file with `header` as its directory and `data_bytes` zero bytes of data.
std::filesystem::path write_file(const std::string& header, size_t data_bytes) {
  const auto path = std::filesystem::path(testing::TempDir()) /
                    fmt::format("weft_{}.safetensors", testing::UnitTest::GetInstance()->current_test_info()->name());
  std::ofstream out(path, std::ios::binary);
  const u64 size = header.size();
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << header << std::string(data_bytes, '\0');
  return path;
}

TEST(Safetensors, ReadsTypesShapesAndOffsets) {
  auto file = SafetensorsFile::open(
      write_file(R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                 R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}})",
                 32));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->tensor("x")->describe(), "f32 [2, 3]");
  EXPECT_EQ(file->tensor("ids")->data - file->tensor("x")->data, 24);
  EXPECT_EQ(file->tensor("y").status().code(), Code::kNotFound);
}

TEST(Safetensors, RefusesMalformedFilesByName) {
  const struct {
    std::string header;
    size_t data;
    const char* says;
  } cases[] = {
      {"[]", 0, "not a JSON object"},
      {R"({"x":3})", 0, "tensor 'x': field '(entry)'"},
      {R"({"x":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'x': field 'dtype'"},
      {R"({"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 4, "type F8_E4M3 is not supported"},
      {R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "field 'shape'"},
      {R"({"x":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,4]}})", 4, "field 'shape'"},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "reach past"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "reach past"},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "shape needs 8 bytes, data_offsets span 4"},
  };
  for (const auto& test : cases) {
    const auto file = SafetensorsFile::open(write_file(test.header, test.data));
    ASSERT_FALSE(file.ok()) << test.header;
    EXPECT_NE(file.status().message().find(test.says), std::string::npos) << file.status().message();
  }
}

TEST(Safetensors, RefusesATruncatedHeader) {
  const auto path = write_file("{}", 0);
  for (int size : {0, 7, 9}) {
    std::filesystem::resize_file(write_file("{}", 0), uintmax_t(size));
    EXPECT_EQ(SafetensorsFile::open(path).status().code(), Code::kDataLoss) << size;
  }
}

}  // namespace
}  // namespace weft
