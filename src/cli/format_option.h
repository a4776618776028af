// The flag --format of benchmarks: what a raw weight is stored as.
#pragma once
#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "base/dtype.h"

namespace weft {

// `format` must outlive the parsing; its value is the default.
inline void add_format_option(CLI::App& app, DType& format) {
  std::map<std::string, DType> names;
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kBF16, DType::kF16, DType::kF32}) {
    names.emplace(dtype_name(dtype), dtype);
  }
  app.add_option("--format", format, "Weights: q4_0, q4_1, q8_0, bf16, f16, f32")
      ->default_str(dtype_name(format))
      ->transform(CLI::CheckedTransformer(names).description(""));
}

}  // namespace weft
