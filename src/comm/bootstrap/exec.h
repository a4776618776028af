// What a child process is started with. Make it before fork(): afterwards other threads may hold the heap's lock.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

// This process's environment, "NAME=value" each, without the names that are to be dropped.
std::vector<std::string> environment_without(const std::function<bool(std::string_view name)>& dropped);

// argv or envp of execve(): pointers into `texts`, which must live on, and a null.
std::vector<char*> exec_pointers(std::vector<std::string>& texts);

}  // namespace weft
