// Worlds whose ranks are threads of this process: a rendezvous under one mutex.
#include <condition_variable>
#include <optional>

#include "comm/bootstrap/world.h"

namespace weft {
namespace {

using Gathered = std::shared_ptr<const std::vector<std::string>>;

// Where the ranks meet. A round ends when every slot is filled.
struct Meeting {
  explicit Meeting(int size) : slots(size_t(size)) {}
  std::mutex mutex;
  std::condition_variable changed;
  // The rest is guarded by mutex.
  std::vector<std::optional<std::string>> slots;
  u64 rounds = 0;
  Gathered last;  // of round `rounds`; replaced only after every rank has joined the next round
};

class ThreadWorld final : public World {
 public:
  ThreadWorld(int rank, int size, std::shared_ptr<Failure> failure, std::shared_ptr<Meeting> meeting)
      : World(rank, size, std::move(failure)), meeting_(std::move(meeting)) {}

  Result<std::vector<std::string>> all_gather(const std::string& bytes, Deadline deadline) override {
    constexpr auto kSlice = std::chrono::milliseconds(20);  // failure() is raised without the mutex
    std::unique_lock lock(meeting_->mutex);
    if (failure().raised()) return failure().reason();
    meeting_->slots[size_t(rank_)] = bytes;
    const u64 round = meeting_->rounds;
    if (missing().empty()) {
      auto gathered = std::make_shared<std::vector<std::string>>();
      for (auto& slot : meeting_->slots) gathered->push_back(std::move(*std::exchange(slot, std::nullopt)));
      meeting_->last = gathered;
      ++meeting_->rounds;
      meeting_->changed.notify_all();
      return *gathered;
    }
    while (meeting_->rounds == round) {
      if (failure().raised()) return failure().reason();
      if (deadline.expired()) {
        Status expired = error(Code::kDeadlineExceeded, "rendezvous: rank {} waits for rank {}", rank_, missing());
        meeting_->slots[size_t(rank_)].reset();
        return expired;
      }
      meeting_->changed.wait_for(lock, std::min<std::chrono::nanoseconds>(kSlice, deadline.left()));
    }
    return *meeting_->last;
  }

  bool is_threads() const override { return true; }
  Result<Fd> share_fd(Fd, int, Deadline) override {
    return error(Code::kUnimplemented, "share_fd: rank threads share memory, not descriptors");
  }
  void fail(Status reason) override {
    failure().raise(std::move(reason));
    meeting_->changed.notify_all();
  }

 private:
  // "1, 3": who has not come yet. Under the mutex.
  std::string missing() const {
    std::string ranks;
    for (int r = 0; r < size_; ++r) {
      if (!meeting_->slots[size_t(r)]) ranks += (ranks.empty() ? "" : ", ") + std::to_string(r);
    }
    return ranks;
  }
  const std::shared_ptr<Meeting> meeting_;
};

}  // namespace

std::vector<std::unique_ptr<World>> make_thread_worlds(int size) {
  WEFT_CHECK(size >= 1, size);
  auto failure = std::make_shared<Failure>();
  auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::unique_ptr<World>> worlds;
  for (int r = 0; r < size; ++r) worlds.push_back(std::make_unique<ThreadWorld>(r, size, failure, meeting));
  return worlds;
}

}  // namespace weft
