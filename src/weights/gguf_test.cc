#include "weights/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "base/aligned_buffer.h"
#include "weights/gguf_writer.h"

namespace weft {
namespace {

// A file of this test's name in the temporary folder, removed at the end.
class TempFile {
 public:
  explicit TempFile(const std::string& bytes) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() / fmt::format("weft_{}_{}.gguf", test->name(), ::getpid());
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A small file with every kind of metadata and two tensors, 2 x 3 F32 and 1 x 32 Q4_0.
GgufWriter small_file(u64 alignment = 32) {
  static const Tensor matrix = [] {
    Tensor tensor = Tensor::zeros(DType::kF32, {2, 3});
    for (int i = 0; i < 6; ++i) tensor.view.as<float>()[i] = float(i);
    return tensor;
  }();
  static const Tensor blocks = Tensor::zeros(DType::kQ4_0, {1, 32});
  GgufWriter writer(alignment);
  writer.set("name", "tiny").set("layers", u32(30)).set("big", u64(5'000'000'000)).set("minus", i32(-1));
  writer.set("rope", 0.5f).set("flag", true);
  writer.set("tokens", std::vector<std::string>{"a", "", "bcd"});
  writer.set("kinds", std::vector<i32>{1, -2, 3}).set("scores", std::vector<float>{0.5f, -1.0f});
  writer.tensor("matrix", matrix.view).tensor("blocks", blocks.view);
  return writer;
}

TEST(Gguf, ReadsMetadataByType) {
  const TempFile temp(small_file().bytes());
  const auto file = GgufFile::open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*file->get<std::string_view>("name"), "tiny");
  EXPECT_EQ(*file->get<i64>("layers"), 30);
  EXPECT_EQ(*file->get<i32>("layers"), 30);
  EXPECT_EQ(*file->get<u64>("big"), 5'000'000'000);
  EXPECT_EQ(*file->get<float>("rope"), 0.5f);
  EXPECT_EQ(*file->get<bool>("flag"), true);
  EXPECT_EQ(*file->get<std::vector<std::string_view>>("tokens"), (std::vector<std::string_view>{"a", "", "bcd"}));
  EXPECT_EQ(*file->get<std::vector<i32>>("kinds"), (std::vector<i32>{1, -2, 3}));
  EXPECT_EQ(*file->get<std::vector<float>>("scores"), (std::vector<float>{0.5f, -1.0f}));
  EXPECT_EQ(*file->get_or<i32>("absent", 7), 7);
  EXPECT_EQ(file->find("absent"), nullptr);
}

TEST(Gguf, WrongTypeNamesKeyExpectedAndFound) {
  const TempFile temp(small_file().bytes());
  const auto file = GgufFile::open(temp.path());
  ASSERT_TRUE(file.ok());
  const std::string prefix = temp.path().string() + ": key ";
  const auto message = [&](const auto& result) { return result.status().message(); };
  EXPECT_EQ(message(file->get<i32>("absent")), prefix + "absent: missing, expected i32");
  EXPECT_TRUE(message(file->get<i32>("big")).starts_with(prefix + "big: expected i32, found u64 5000000000 (byte "));
  EXPECT_TRUE(message(file->get<u32>("minus")).starts_with(prefix + "minus: expected u32, found i32 -1 (byte "));
  EXPECT_TRUE(message(file->get<i32>("rope")).starts_with(prefix + "rope: expected i32, found f32 0.5 (byte "));
  EXPECT_TRUE(message(file->get<float>("layers")).starts_with(prefix + "layers: expected f32, found u32 30 (byte "));
  EXPECT_TRUE(message(file->get<std::vector<u32>>("kinds"))
                  .starts_with(prefix + "kinds: expected array of u32, found array of 3 i32 (byte "));
  EXPECT_TRUE(message(file->get_or<bool>("name", true)).find("expected bool, found string 'tiny'") !=
              std::string::npos);
}

TEST(Gguf, TensorsAreRowMajorAlignedAndInFileOrder) {
  for (const u64 alignment : {8, 32, 4096}) {
    const TempFile temp(small_file(alignment).bytes());
    const auto file = GgufFile::open(temp.path());
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(file->names(), (std::vector<std::string_view>{"matrix", "blocks"}));
    const TensorView* matrix = file->tensor("matrix");
    ASSERT_NE(matrix, nullptr);
    EXPECT_EQ(matrix->describe(), "f32 [2, 3]");
    EXPECT_EQ(matrix->row<float>(1)[2], 5.0f);
    EXPECT_EQ(u64(matrix->data - file->file().bytes().data()) % alignment, 0);
    EXPECT_EQ(file->tensor("blocks")->describe(), "q4_0 [1, 32]");
    EXPECT_EQ(file->tensor("absent"), nullptr);
  }
}

TEST(Gguf, NestedArraysParseToALimit) {
  // `depth` arrays around one u8.
  const auto nested = [](int depth) {
    ByteWriter payload;
    for (int i = 1; i < depth; ++i) payload.put(MetaType::kArray).put(u64(1));
    payload.put(MetaType::kU8).put(u64(1)).put(u8(9));
    GgufWriter writer;
    return writer.set_raw("deep", u32(MetaType::kArray), payload.bytes()).set("after", u32(1)).bytes();
  };
  const std::string four = nested(4), five = nested(5);
  const auto index = parse_gguf(as_bytes(four));
  ASSERT_TRUE(index.ok()) << index.status().message();
  EXPECT_EQ(index->metadata.at("deep").describe(), "array of 1 array");
  EXPECT_EQ(index->metadata.at("after").describe(), "u32 1");
  std::vector<i32> numbers;
  EXPECT_FALSE(index->metadata.at("deep").to(&numbers));
  EXPECT_EQ(parse_gguf(as_bytes(five)).status().message(), "key deep: arrays nested more than 4 deep (byte 88)");
}

TEST(Gguf, EveryTruncationIsAnErrorThatNamesAByte) {
  const std::string whole = small_file().bytes();
  ASSERT_TRUE(parse_gguf(as_bytes(whole)).ok());
  // The last block's data ends 14 bytes before the padding does.
  const size_t needed = whole.size() - (32 - 18 % 32);
  for (size_t size = 0; size < needed; ++size) {
    const std::string cut = whole.substr(0, size);  // its own allocation, for AddressSanitizer
    const Status status = parse_gguf(as_bytes(cut)).status();
    ASSERT_FALSE(status.ok()) << size;
    EXPECT_EQ(status.code(), Code::kDataLoss) << size;
    EXPECT_NE(status.message().find("(byte "), std::string::npos) << status.message();
  }
  EXPECT_TRUE(parse_gguf(as_bytes(whole.substr(0, needed))).ok());
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const std::string whole = small_file().bytes();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const u8 value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      std::string broken = whole;
      broken[i] = char(value);
      const auto index = parse_gguf(as_bytes(broken));
      if (!index.ok()) {
        EXPECT_NE(index.status().message().find("(byte "), std::string::npos);
      }
    }
  }
}

struct Corruption {
  const char* name;
  std::function<std::string()> bytes;
  Code code;
  const char* message;
};

std::string header(u32 version, u64 tensors, u64 keys) {
  return ByteWriter().raw("GGUF").put(version).put(tensors).put(keys).bytes();
}

// One key of any type, then enough room that counts are not refused for lack of it.
std::string one_key(std::string_view key, u32 type, std::string_view payload) {
  GgufWriter writer;
  return writer.set_raw(key, type, payload).bytes() + std::string(256, '\0');
}

std::string one_tensor(const std::vector<u64>& dims, u32 type, u64 offset = 0, size_t data = 256) {
  GgufWriter writer;
  return writer.tensor_raw("t", dims, type, offset, std::string(data, '\0')).bytes();
}

std::string array_payload(MetaType element, u64 count, std::string_view elements) {
  return ByteWriter().put(element).put(count).raw(elements).bytes();
}

constexpr u64 kHuge = u64(1) << 62;

const Corruption kCorruptions[] = {
    {"empty", [] { return std::string(); }, Code::kDataLoss, "header: the file ends inside it (byte 0)"},
    {"magic", [] { return std::string(64, 'x'); }, Code::kDataLoss, "not a GGUF file: no magic 'GGUF' (byte 0)"},
    {"version1", [] { return header(1, 0, 0); }, Code::kUnimplemented,
     "GGUF version 1 is not supported, only 3 is (byte 4)"},
    {"version2", [] { return header(2, 0, 0); }, Code::kUnimplemented,
     "GGUF version 2 is not supported, only 3 is (byte 4)"},
    {"big_endian", [] { return header(0x03000000, 0, 0); }, Code::kUnimplemented,
     "a big-endian GGUF file is not supported (byte 4)"},
    {"tensor_count", [] { return header(3, kHuge, 0); }, Code::kDataLoss,
     "header: 4611686018427387904 tensors cannot fit in the file (byte 8)"},
    {"tensor_count_negative", [] { return header(3, ~u64(0), 0); }, Code::kDataLoss,
     "header: 18446744073709551615 tensors cannot fit in the file (byte 8)"},
    {"key_count", [] { return header(3, 0, 1) + std::string(13, '\0'); }, Code::kDataLoss,
     "header: 1 metadata keys cannot fit in the file (byte 16)"},
    {"key_length", [] { return header(3, 0, 1) + ByteWriter().put(kHuge).bytes() + std::string(64, 'k'); },
     Code::kDataLoss, "metadata key number 0: the file ends inside it (byte 32)"},
    {"key_empty", [] { return one_key("", 4, "abcd"); }, Code::kDataLoss,
     "metadata key number 0: a name of 0 bytes, expected 1 to 65535 (byte 24)"},
    {"key_long", [] { return one_key(std::string(65536, 'k'), 4, "abcd"); }, Code::kDataLoss,
     "metadata key number 0: a name of 65536 bytes, expected 1 to 65535 (byte 24)"},
    {"key_twice", [] { return GgufWriter().set("k", u32(1)).set("k", u32(2)).bytes(); }, Code::kDataLoss,
     "key k: appears twice (byte 41)"},
    {"key_unprintable", [] { return one_key("\x1b[2J", 13, "abcd"); }, Code::kDataLoss,
     "key \\x1b[2J: unknown value type 13 (byte 36)"},
    {"value_type", [] { return one_key("k", 13, "abcd"); }, Code::kDataLoss, "key k: unknown value type 13 (byte 33)"},
    {"bool_value", [] { return one_key("k", 7, "\x02"); }, Code::kDataLoss, "key k: a bool of value 2 (byte 37)"},
    {"bool_array", [] { return one_key("k", 9, array_payload(MetaType::kBool, 3, std::string_view("\1\0\7", 3))); },
     Code::kDataLoss, "key k: a bool of value 7 (byte 51)"},
    {"string_length", [] { return one_key("k", 8, ByteWriter().put(~u64(0)).bytes()); }, Code::kDataLoss,
     "key k: the file ends inside it (byte 45)"},
    {"array_element_type", [] { return one_key("k", 9, array_payload(MetaType(99), 0, "")); }, Code::kDataLoss,
     "key k: unknown value type 99 (byte 37)"},
    {"array_count", [] { return one_key("k", 9, array_payload(MetaType::kU8, ~u64(0), "")); }, Code::kDataLoss,
     "key k: an array of 18446744073709551615 u8 cannot fit in the file (byte 41)"},
    {"array_bytes_overflow", [] { return one_key("k", 9, array_payload(MetaType::kF64, kHuge / 2, "")); },
     Code::kDataLoss, "key k: an array of 2305843009213693952 f64 cannot fit in the file (byte 41)"},
    {"array_of_strings_count", [] { return one_key("k", 9, array_payload(MetaType::kString, 100, "")); },
     Code::kDataLoss, "key k: an array of 100 string cannot fit in the file (byte 41)"},
    {"array_of_strings_length",
     [] { return one_key("k", 9, array_payload(MetaType::kString, 1, ByteWriter().put(kHuge).bytes())); },
     Code::kDataLoss, "key k: the file ends inside it (byte 57)"},
    {"alignment_zero", [] { return one_key("general.alignment", 4, std::string(4, '\0')); }, Code::kDataLoss,
     "key general.alignment: expected a power of two from 8 to 65536, found u32 0 (byte 53)"},
    {"alignment_odd", [] { return GgufWriter(48).bytes(); }, Code::kDataLoss,
     "key general.alignment: expected a power of two from 8 to 65536, found u32 48 (byte 53)"},
    {"alignment_small", [] { return GgufWriter(4).bytes(); }, Code::kDataLoss,
     "key general.alignment: expected a power of two from 8 to 65536, found u32 4 (byte 53)"},
    {"alignment_large", [] { return GgufWriter().set("general.alignment", u32(1) << 31).bytes(); }, Code::kDataLoss,
     "key general.alignment: expected a power of two from 8 to 65536, found u32 2147483648 (byte 53)"},
    {"alignment_type", [] { return GgufWriter().set("general.alignment", "32").bytes(); }, Code::kDataLoss,
     "key general.alignment: expected a power of two from 8 to 65536, found string '32' (byte 61)"},
    {"name_empty", [] { return GgufWriter().tensor_raw("", {1}, 0, 0, "abcdefgh").bytes(); }, Code::kDataLoss,
     "tensor number 0: a name of 0 bytes, expected 1 to 64 (byte 24)"},
    {"name_long", [] { return GgufWriter().tensor_raw(std::string(65, 'n'), {1}, 0, 0, "abcd").bytes(); },
     Code::kDataLoss, "tensor number 0: a name of 65 bytes, expected 1 to 64 (byte 24)"},
    {"rank_0", [] { return one_tensor({}, 0); }, Code::kDataLoss, "tensor t: 0 dimensions, expected 1 to 4 (byte 33)"},
    {"rank_5", [] { return one_tensor({1, 1, 1, 1, 1}, 0); }, Code::kDataLoss,
     "tensor t: 5 dimensions, expected 1 to 4 (byte 33)"},
    {"zero_dim", [] { return one_tensor({4, 0}, 0); }, Code::kDataLoss, "tensor t: a dimension is 0 (byte 24)"},
    {"dim_overflow", [] { return one_tensor({kHuge, 4}, 0); }, Code::kDataLoss,
     "tensor t: its F32 elements [4611686018427387904, 4] cannot fit in the file (byte 24)"},
    {"dim_product_wraps_to_small", [] { return one_tensor({u64(1) << 33, u64(1) << 31, 1}, 0); }, Code::kDataLoss,
     "tensor t: its F32 elements [8589934592, 2147483648, 1] cannot fit in the file (byte 24)"},
    {"dim_above_i64", [] { return one_tensor({~u64(0)}, 0); }, Code::kDataLoss,
     "tensor t: its F32 elements [18446744073709551615] cannot fit in the file (byte 24)"},
    {"bytes_overflow", [] { return one_tensor({kHuge}, 0); }, Code::kDataLoss,
     "tensor t: its F32 elements [4611686018427387904] cannot fit in the file (byte 24)"},
    {"half_block", [] { return one_tensor({48}, 3); }, Code::kDataLoss,
     "tensor t: rows of 48 elements are not whole Q4_1 blocks of 32 (byte 24)"},
    {"type_q4_k", [] { return GgufWriter().tensor_raw("blk.0.attn_q.weight", {256}, 12, 0, "").bytes(); },
     Code::kUnimplemented, "tensor blk.0.attn_q.weight: type Q4_K is not supported (byte 63)"},
    {"type_unknown", [] { return one_tensor({32}, 4711); }, Code::kUnimplemented,
     "tensor t: type number 4711 is not supported (byte 45)"},
    {"offset_unaligned", [] { return one_tensor({4}, 0, 16); }, Code::kDataLoss,
     "tensor t: data offset 16 is not a multiple of the alignment 32 (byte 49)"},
    {"offset_past_end", [] { return one_tensor({4}, 0, 256); }, Code::kDataLoss,
     "tensor t: 16 bytes of data at offset 256 of the data section go past the end of the file, which has 320 bytes "
     "(byte 24)"},
    {"offset_overflow", [] { return one_tensor({8}, 0, ~u64(0) - 31); }, Code::kDataLoss,
     "tensor t: 32 bytes of data at offset 18446744073709551584 of the data section go past the end of the file, "
     "which has 320 bytes (byte 24)"},
    {"tensor_twice",
     [] { return GgufWriter().tensor_raw("t", {1}, 0, 0, "abcd").tensor_raw("t", {1}, 0, 32, "abcd").bytes(); },
     Code::kDataLoss, "tensor t: appears twice (byte 57)"},
    {"overlap",
     [] {
       return GgufWriter()
           .tensor_raw("b", {4}, 0, 32, std::string(32, '\0'))
           .tensor_raw("a", {9}, 0, 0, std::string(64, '\0'))
           .bytes();
     },
     Code::kDataLoss, "tensor b: its data overlaps that of tensor a (byte 128)"},
};

TEST(Gguf, CorruptionsAreNamed) {
  for (const Corruption& corruption : kCorruptions) {
    const std::string bytes = corruption.bytes();
    const Status status = parse_gguf(as_bytes(bytes)).status();
    EXPECT_EQ(status.message(), corruption.message) << corruption.name;
    EXPECT_EQ(status.code(), corruption.code) << corruption.name;
  }
}

TEST(Gguf, OpenNamesThePath) {
  EXPECT_EQ(GgufFile::open("/nonexistent.gguf").status().message(), "/nonexistent.gguf: No such file or directory");
  const TempFile temp("GGUF");
  EXPECT_EQ(GgufFile::open(temp.path()).status().message(),
            temp.path().string() + ": header: the file ends inside it (byte 4)");
}

// The committed corpus is what the fuzzer starts from: the files of this test, written by running it with
// WEFT_WRITE_CORPUS=1, and whatever the fuzzer has found since.
TEST(Gguf, CorpusParsesOrFailsWithAByte) {
  const std::filesystem::path corpus = WEFT_SOURCE_DIR "/tests/corpus/gguf";
  if (std::getenv("WEFT_WRITE_CORPUS")) {
    std::filesystem::create_directories(corpus);
    for (const u64 alignment : {8, 32}) {
      std::ofstream(corpus / fmt::format("good_{}", alignment)) << small_file(alignment).bytes();
    }
    for (const Corruption& corruption : kCorruptions) {
      const std::string bytes = corruption.bytes();
      if (bytes.size() < 4096) std::ofstream(corpus / corruption.name) << bytes;
    }
  }
  int good = 0, bad = 0;
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    const auto file = GgufFile::open(entry.path());
    (file.ok() ? good : bad) += 1;
    if (!file.ok()) {
      EXPECT_NE(file.status().message().find("(byte "), std::string::npos) << file.status().message();
    }
  }
  EXPECT_GE(good, 2);
  EXPECT_GE(bad, 10);
}

}  // namespace
}  // namespace weft
