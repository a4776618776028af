# One GoogleTest binary per layer (src/<layer>/**/test.cc and *_test.cc), each case a ctest test with the layer as its
# label; then the end-to-end tests of the built program under tests/, one ctest test per file, labelled e2e.
set(WEFT_TEST_TIMEOUT 300 CACHE STRING "Seconds that one test may take")
find_package(GTest REQUIRED)
include(GoogleTest)
file(GLOB layers RELATIVE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/src/*)
if(WEFT_PCH)  # precompiled once for all test programs
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/test_headers.cc CONTENT "")
  add_library(weft_test_headers OBJECT ${CMAKE_BINARY_DIR}/generated/test_headers.cc)
  set_target_properties(weft_test_headers PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(weft_test_headers PRIVATE -fPIE)  # as the programs
  target_link_libraries(weft_test_headers PRIVATE weft_core GTest::gtest)
  target_compile_definitions(weft_test_headers PRIVATE WEFT_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  weft_precompile(weft_test_headers <gtest/gtest.h> <nlohmann/json.hpp>)
endif()
foreach(layer ${layers})
  set(sources ${weft_tests})
  list(FILTER sources INCLUDE REGEX "/src/${layer}/")
  if(sources)
    add_executable(test_${layer} ${sources})
    target_link_libraries(test_${layer} PRIVATE weft_core GTest::gtest GTest::gtest_main)
    target_compile_definitions(test_${layer} PRIVATE WEFT_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    if(WEFT_PCH)
      target_precompile_headers(test_${layer} REUSE_FROM weft_test_headers)
    endif()
    gtest_discover_tests(test_${layer} TEST_PREFIX "${layer}." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT ${WEFT_TEST_TIMEOUT} LABELS ${layer})
  endif()
endforeach()

# Tests on GPUs are one program of their own: `make gpu-test` runs it where a driver is, builds only compile it.
if(WEFT_HAVE_CUDA AND weft_cuda_tests)
  add_executable(test_gpu ${weft_cuda_tests})
  target_link_libraries(test_gpu PRIVATE weft_core GTest::gtest GTest::gtest_main)
  target_compile_options(test_gpu PRIVATE -diag-suppress=177)  # TEST() declares a member that nothing refers to
endif()

# The host's side of the CUDA code, with a runtime that needs no GPU in place of the real one.
if(WEFT_HAVE_CUDA)
  add_executable(test_cuda_host tests/cuda_host/fake_cuda.cc tests/cuda_host/fake_driver.cc tests/cuda_host/test.cu)
  set_target_properties(test_cuda_host PROPERTIES CUDA_RUNTIME_LIBRARY None)
  target_link_libraries(test_cuda_host PRIVATE weft_core GTest::gtest GTest::gtest_main)
  target_include_directories(test_cuda_host SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_compile_options(test_cuda_host PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=177>)
  gtest_discover_tests(test_cuda_host TEST_PREFIX "cuda_host." DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${WEFT_TEST_TIMEOUT} LABELS cuda_host)
endif()

# Of two functions of one name in a static library the linker takes the first, silently.
add_test(NAME names COMMAND ${CMAKE_SOURCE_DIR}/scripts/check_names.py --archives $<TARGET_FILE:weft_core>
  $<TARGET_FILE:weft_operators>)

file(GLOB suites CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*_test.py)
foreach(suite ${suites})
  get_filename_component(name ${suite} NAME_WE)
  add_test(NAME e2e.${name} COMMAND ${CMAKE_SOURCE_DIR}/.venv/bin/python -m pytest -q -x -rs ${suite})
  math(EXPR suite_timeout "2 * ${WEFT_TEST_TIMEOUT}")
  set_tests_properties(e2e.${name} PROPERTIES TIMEOUT ${suite_timeout} LABELS e2e RUN_SERIAL ON ENVIRONMENT "WEFT_BINARY=$<TARGET_FILE:weft>"
    SKIP_REGULAR_EXPRESSION "^[0-9]+ skipped in|\n[0-9]+ skipped in")  # all of them; the reason is in the output
endforeach()
