# weft_precompile(<target> [<header>...]): where WEFT_PCH is on, the target's C++ files find the standard library, fmt and
# these headers parsed, which halves a cold build. Every file still includes what it uses: a build without it shows.
function(weft_precompile target)
  if(WEFT_PCH)
    target_precompile_headers(${target} PRIVATE <algorithm> <atomic> <chrono> <cmath> <condition_variable> <cstring>
      <deque> <filesystem> <fstream> <functional> <map> <memory> <mutex> <optional> <random> <span> <sstream> <string>
      <string_view> <thread> <utility> <vector> <fmt/format.h> ${ARGN})
  endif()
endfunction()
