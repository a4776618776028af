// For tests that run kernels on the emulator; include device/emulator/language.h first.
#pragma once
#include <gtest/gtest.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEFT_NO_EMULATOR "ThreadSanitizer does not follow fibres"
#endif
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define WEFT_NO_EMULATOR "GCC leaves templates' static variables out of the section that they name (its bug 70435)"
#endif

#if defined(WEFT_NO_EMULATOR)
#define WEFT_NEED_EMULATOR() GTEST_SKIP() << WEFT_NO_EMULATOR
#else
#define WEFT_NEED_EMULATOR() static_cast<void>(0)
#endif
