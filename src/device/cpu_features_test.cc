#include "device/cpu_features.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(CpuFeatures, NamesChooseTheirSetOrSayWhyNot) {
  EXPECT_TRUE(cpu_supports(CpuIsa::kGeneric));
  for (CpuIsa isa : kCpuIsas) {
    auto chosen = choose_cpu_isa(cpu_isa_name(isa));
    EXPECT_EQ(chosen.ok(), cpu_supports(isa));
    if (chosen.ok()) {
      EXPECT_EQ(*chosen, isa);
      continue;
    }
    EXPECT_EQ(chosen.status().code(), Code::kInvalidArgument);
    EXPECT_NE(chosen.status().message().find(cpu_isa_name(isa)), std::string::npos);
    EXPECT_NE(chosen.status().message().find("it can run: generic"), std::string::npos);
  }
}

TEST(CpuFeatures, UnknownNamesAreRefused) {
  for (const char* name : {"", "sse9", "AVX2"}) {
    const Status status = choose_cpu_isa(name).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("WEFT_CPU"), std::string::npos);
  }
}

TEST(CpuFeatures, WithoutANameTheBestSupportedIsChosen) {
  const CpuIsa best = *choose_cpu_isa(nullptr);
  for (CpuIsa isa : kCpuIsas) EXPECT_TRUE(!cpu_supports(isa) || isa <= best);
}

}  // namespace
}  // namespace weft
