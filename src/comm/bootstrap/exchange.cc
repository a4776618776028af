#include "comm/bootstrap/exchange.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace weft {

Status agree(World& world, const Status& mine, Deadline deadline) {
  // One byte for the code, then the message; nothing where all is well.
  const std::string verdict = mine.ok() ? std::string() : char(mine.code()) + mine.message();
  WEFT_ASSIGN(const auto all, world.all_gather(verdict, deadline));
  for (const std::string& theirs : all) {
    if (!theirs.empty()) return Status(Code(theirs[0]), theirs.substr(1));
  }
  return {};
}

Result<double> largest_of_ranks(World& world, double mine, Deadline deadline) {
  WEFT_ASSIGN(const auto all,
              world.all_gather(std::string(reinterpret_cast<const char*>(&mine), sizeof(mine)), deadline));
  double largest = mine;
  for (const std::string& other : all) {
    double theirs;
    WEFT_CHECK(other.size() == sizeof(theirs), other.size());
    std::memcpy(&theirs, other.data(), sizeof(theirs));
    if (std::isnan(theirs)) return theirs;
    largest = std::max(largest, theirs);
  }
  return largest;
}

Result<std::vector<Fd>> share_fds(World& world, const Fd& mine, Deadline deadline) {
  std::vector<Fd> all;
  for (int root = 0; root < world.size(); ++root) {
    Fd offered;
    if (root == world.rank()) offered = Fd(::fcntl(mine.get(), F_DUPFD_CLOEXEC, 0));
    WEFT_ASSIGN(Fd shared, world.share_fd(std::move(offered), root, deadline));
    all.push_back(std::move(shared));
  }
  return all;
}

void warn_once(const World& world, const std::string& warning) {
  if (world.rank() == 0) spdlog::warn("{}", warning);
}

}  // namespace weft
