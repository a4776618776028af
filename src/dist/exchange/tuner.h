// Which of several ways to run an operator is the fastest here: measured once, remembered in a file, the same on every
// rank.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/bootstrap/world.h"

namespace weft {

// Choices by key, in a text file: a line each of key, choice and microseconds, separated by tabs.
class TuningCache {
 public:
  // `path` = "": in memory only. A file that is not there yet is an empty cache. Errors: kIo; kDataLoss naming the line
  // of a file that is something else.
  static Result<TuningCache> open(const std::string& path);

  std::optional<std::string> find(const std::string& key) const;
  // Remembers the choice and writes the file, with what other processes have added to it since. `key` and `choice` hold
  // no tab and no line end. Errors: kInvalidArgument; kIo.
  Status store(const std::string& key, const std::string& choice, double us);

 private:
  struct Entry {
    std::string choice;
    double us;
  };
  Status read();
  std::string path_;
  std::map<std::string, Entry> entries_;
};

// What a choice depends on beside its operator and shape: the device, how many ranks, and the version of weft.
std::string tuning_key(const std::string& op, const std::string& shape, const std::string& device, int ranks);

// The index of one of `candidates`, the same on every rank. Collective: key and candidates must be alike. Rank 0's
// cache decides if it knows the key; else every rank runs time_us(i) for each candidate in turn, the slowest rank's
// time counts, the least of these wins, and rank 0 remembers it. Candidates that fail on a rank are out. `cache` may be
// null and is not used on other ranks. A cache that cannot be written is a warning. Errors, on all ranks alike:
// kInvalidArgument where keys or candidates differ; the first failure where every candidate fails; the World's.
Result<int> choose_fastest(World& world, TuningCache* cache, const std::string& key,
                           std::span<const std::string> candidates, const std::function<Result<double>(int)>& time_us);

}  // namespace weft
