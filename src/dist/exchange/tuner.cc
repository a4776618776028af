#include "dist/exchange/tuner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "base/file.h"
#include "comm/bootstrap/exchange.h"

namespace weft {
namespace {

constexpr const char* kHead = "# weft tuning 1: key, choice, microseconds";
constexpr auto kPatience = std::chrono::seconds(120);  // a rank may still be loading kernels

bool one_field(const std::string& text) {
  return !text.empty() && text[0] != '#' && text.find_first_of("\t\n\r") == std::string::npos;
}

// What every rank must have alike; rank 0's choice travels beside it.
std::string join(const std::string& key, std::span<const std::string> candidates) {
  std::string text = key;
  for (const std::string& candidate : candidates) text += '\n' + candidate;
  return text;
}

}  // namespace

Result<TuningCache> TuningCache::open(const std::string& path) {
  TuningCache cache;
  cache.path_ = path;
  WEFT_TRY(cache.read());
  return cache;
}

Status TuningCache::read() {
  if (path_.empty()) return {};
  const auto text = read_file(path_);
  if (text.status().code() == Code::kNotFound) return {};
  WEFT_TRY(text.status());
  std::istringstream lines(*text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (number == 1 && line != kHead)
      return error(Code::kDataLoss, "tuning file '{}': line 1: expected '{}', found '{}'", path_, kHead, line);
    if (number == 1 || line.empty()) continue;
    std::istringstream fields(line);
    std::string key, choice, us;
    char* end = nullptr;
    const bool split =
        std::getline(fields, key, '\t') && std::getline(fields, choice, '\t') && std::getline(fields, us);
    const double value = split ? std::strtod(us.c_str(), &end) : 0;
    if (!split || !one_field(key) || !one_field(choice) || end == us.c_str() || *end != '\0' || !(value >= 0))
      return error(Code::kDataLoss, "tuning file '{}': line {}: expected key, choice and microseconds, found '{}'",
                   path_, number, line);
    entries_[key] = {choice, value};
  }
  return {};
}

std::optional<std::string> TuningCache::find(const std::string& key) const {
  const auto entry = entries_.find(key);
  return entry == entries_.end() ? std::nullopt : std::optional(entry->second.choice);
}

Status TuningCache::store(const std::string& key, const std::string& choice, double us) {
  for (const std::string* text : {&key, &choice})
    if (!one_field(*text))
      return error(Code::kInvalidArgument, "tuning: '{}': expected text without tabs and line ends", *text);
  entries_[key] = {choice, us};
  if (path_.empty()) return {};
  // One writer at a time: another process may be tuning another shape.
  const Fd lock(::open((path_ + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644));
  if (!lock.valid() || ::flock(lock.get(), LOCK_EX) != 0)
    return error(Code::kIo, "tuning file '{}.lock': {}", path_, errno_text());
  TuningCache merged;
  merged.path_ = path_;
  WEFT_TRY(merged.read());
  for (const auto& [known, entry] : merged.entries_) entries_.try_emplace(known, entry);
  const std::string draft = path_ + ".new";
  {
    std::ofstream file(draft, std::ios::trunc);
    file << kHead << '\n';
    for (const auto& [known, entry] : entries_)
      file << known << '\t' << entry.choice << '\t' << fmt::format("{:.3f}", entry.us) << '\n';
    file.flush();
    if (!file) return error(Code::kIo, "tuning file '{}': cannot be written: {}", draft, errno_text());
  }
  std::error_code failed;
  std::filesystem::rename(draft, path_, failed);
  return failed ? error(Code::kIo, "tuning file '{}': {}", path_, failed.message()) : Status();
}

std::string tuning_key(const std::string& op, const std::string& shape, const std::string& device, int ranks) {
  return fmt::format("{} {} | {} x {} | weft {}", op, shape, ranks, device, WEFT_VERSION);
}

Result<int> choose_fastest(World& world, TuningCache* cache, const std::string& key,
                           std::span<const std::string> candidates, const std::function<Result<double>(int)>& time_us) {
  const auto deadline = [] { return Deadline::after(kPatience); };
  if (world.rank() != 0) cache = nullptr;
  const std::string mine = join(key, candidates);
  const std::string known = cache ? cache->find(key).value_or("") : "";
  WEFT_ASSIGN(const auto all, world.all_gather(known + '\0' + mine, deadline()));
  const size_t cut = all[0].find('\0');
  const std::string chosen = all[0].substr(0, cut), expected = all[0].substr(cut + 1);
  for (size_t rank = 1; rank < all.size(); ++rank)
    if (all[rank].substr(all[rank].find('\0') + 1) != expected)
      return error(Code::kInvalidArgument, "tuning: rank {} has '{}', rank 0 '{}'", rank,
                   all[rank].substr(all[rank].find('\0') + 1), expected);
  if (candidates.empty()) return error(Code::kInvalidArgument, "tuning {}: no candidates", key);
  for (size_t i = 0; i < candidates.size(); ++i)
    if (candidates[i] == chosen) return int(i);

  int best = -1;
  double best_us = std::numeric_limits<double>::infinity();
  Status first;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto timed = time_us(int(i));
    WEFT_TRY(world.failure().reason());
    const Status agreed = agree(world, timed.status(), deadline());
    if (!agreed.ok()) {
      if (first.ok()) first = agreed;
      continue;
    }
    WEFT_ASSIGN(const double slowest, largest_of_ranks(world, *timed, deadline()));
    if (slowest < best_us) best_us = slowest, best = int(i);
  }
  if (best < 0) return first.ok() ? error(Code::kAborted, "tuning {}: no candidate gave a time", key) : first;
  if (cache)
    if (const Status stored = cache->store(key, candidates[size_t(best)], best_us); !stored.ok())
      spdlog::warn("{}; {} is tuned again next time", stored.message(), key);
  return best;
}

}  // namespace weft
