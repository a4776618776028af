# CUDA: WEFT_CUDA is AUTO (on where nvcc >= 12.8 is found), ON (an error where it is not) or OFF. Sets WEFT_HAVE_CUDA.
# The runtime is linked statically and everything else (driver, cuBLAS, NCCL) is opened at run time, so the binaries
# start on machines without a driver.
set(WEFT_CUDA AUTO CACHE STRING "Build the CUDA code: AUTO, ON or OFF")
set_property(CACHE WEFT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(WEFT_HAVE_CUDA OFF)

if(WEFT_CUDA STREQUAL "OFF")
  set(reason "WEFT_CUDA=OFF")
elseif(WEFT_SANITIZE AND NOT WEFT_CUDA STREQUAL "ON")
  set(reason "host sanitizers are on")
else()
  find_program(WEFT_NVCC NAMES nvcc HINTS $ENV{CUDACXX} ENV CUDA_HOME
               PATHS ${CMAKE_SOURCE_DIR}/.venv-cuda/nvidia/cu13 /usr/local/cuda PATH_SUFFIXES bin)
  set(reason "no nvcc found; `scripts/setup cuda` brings one")
  if(CMAKE_CUDA_COMPILER OR WEFT_NVCC OR DEFINED ENV{CUDACXX})
    if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
      set(CMAKE_CUDA_COMPILER ${WEFT_NVCC})
    endif()
    if(NOT CMAKE_CUDA_HOST_COMPILER)
      set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
    endif()
    if(WEFT_CCACHE)
      # By its contents: every clone assembles a toolkit of its own.
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_COMPILERCHECK=content ${WEFT_LAUNCHER})
    endif()
    set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below: CMake's list cannot say compute_90a,code=sm_90a alone
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
      set(reason "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8")
    else()
      set(WEFT_HAVE_CUDA ON)
    endif()
  endif()
endif()

if(WEFT_HAVE_CUDA)
  message(STATUS "CUDA: on, nvcc ${CMAKE_CUDA_COMPILER_VERSION} (${CMAKE_CUDA_COMPILER})")
  # Only where C++ code asks, so that everything else compiles to what a build without CUDA has (and ccache knows it).
  set_source_files_properties(src/cli/bench_gpu.cc src/cli/gpu_layer.cc src/cli/programs/test_all_to_all.cc
    src/cli/programs/bench_all_to_all.cc PROPERTIES COMPILE_DEFINITIONS WEFT_HAVE_CUDA=1)
  # compress-mode: halves the device code, and so keeps the bundle below its limit.
  # 2810: nvcc takes the assignment of a [[nodiscard]] class for a discarded value.
  target_compile_options(weft_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_90a,code=sm_90a;$<$<VERSION_GREATER_EQUAL:${CMAKE_CUDA_COMPILER_VERSION},13.0>:--compress-mode=size>;--expt-relaxed-constexpr;-DFMT_CONSTEVAL=;-Werror=all-warnings;-diag-suppress=2810;-Xcompiler=-Wall,-Wextra,-ffp-contract=off$<$<CXX_COMPILER_ID:Clang>:,-Wno-gnu-designator>>")
  file(GLOB_RECURSE weft_cuda_sources CONFIGURE_DEPENDS src/*.cu)
  set(weft_cuda_tests ${weft_cuda_sources})
  list(FILTER weft_cuda_tests INCLUDE REGEX "(/|_)test\\.cu$")
  list(FILTER weft_cuda_sources EXCLUDE REGEX "(/|_)test\\.cu$|/src/python/")

  # Everything is compiled for Hopper GPUs. What has none of their instructions is compiled for GPUs of capability 8.x too:
  # the GEMM of Ampere and row operators, these also as PTX for GPUs after Hopper, collectives, and the tests of all.
  function(weft_sm80 code)
    string(JOIN "|" names ${ARGN})
    set(files ${weft_cuda_sources} ${weft_cuda_tests})
    list(FILTER files INCLUDE REGEX "/src/(${names})\\.cu$")
    set_source_files_properties(${files} PROPERTIES COMPILE_OPTIONS "-gencode=arch=compute_80,code=${code}")
  endfunction()
  weft_sm80("[sm_80,compute_80]" "ops/gemm/(cuda_gemm_sm80|cublas|cuda_test)" "ops/cuda_rows_test"
    "ops/(embedding|moe_route|quantise|rms_norm|rope|swiglu|take_rows)/cuda(_test)?")
  weft_sm80(sm_80 "comm/(clock_sync|cuda_comm_test)" "dist/exchange/cuda_words_test"
    "dist/(all_gather|all_reduce|all_to_all|barrier|broadcast|reduce_scatter|send_recv)/cuda(_norm|_test|_process_test)?")
elseif(WEFT_CUDA STREQUAL "ON")
  message(FATAL_ERROR "CUDA: WEFT_CUDA=ON, but ${reason}")
else()
  message(STATUS "CUDA: off, ${reason}")
endif()
