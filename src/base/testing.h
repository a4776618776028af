// What tests of functions with a Status share.
#pragma once
#include <gtest/gtest.h>

#include "base/status.h"

#define WEFT_ASSERT_OK(expression)                                         \
  do {                                                                     \
    const ::weft::Status status_ = (expression);                           \
    ASSERT_TRUE(status_.ok()) << #expression << ": " << status_.message(); \
  } while (0)
