# Chooses the compiler before project(): clang 19 makes the faster kernels; any C++20 compiler works.
# What builds a wheel sets CXX to the compiler that made Python.
if(NOT DEFINED CMAKE_CXX_COMPILER AND (SKBUILD OR NOT DEFINED ENV{CXX}))
  find_program(WEFT_CLANGXX NAMES clang++-19)
  find_program(WEFT_CLANG NAMES clang-19)
  if(WEFT_CLANGXX AND WEFT_CLANG)
    set(CMAKE_CXX_COMPILER ${WEFT_CLANGXX})
    set(CMAKE_C_COMPILER ${WEFT_CLANG})
  endif()
endif()
find_program(WEFT_CCACHE NAMES ccache)
if(WEFT_CCACHE)
  # Paths below the source folder count relative to the build folder: presets and clones share what compiles alike.
  set(WEFT_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${WEFT_CCACHE})
  if(NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${WEFT_LAUNCHER})
  endif()
endif()
