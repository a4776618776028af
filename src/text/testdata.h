// The golden files of the text tests (scripts/make_text_goldens.py made them with Hugging Face's libraries).
#pragma once
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace weft::testdata {

using Json = nlohmann::ordered_json;

inline std::string file(const std::string& name) {
  const std::string path = std::string(WEFT_SOURCE_DIR) + "/src/text/testdata/" + name;
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline Json json(const std::string& name) {
  return Json::parse(file(name));
}

}  // namespace weft::testdata
