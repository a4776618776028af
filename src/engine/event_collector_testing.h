// Gathers an engine's events in tests.
#pragma once
#include <condition_variable>
#include <map>
#include <mutex>

#include "engine/request.h"

namespace weft {

constexpr std::chrono::seconds kPatience{60};

class EventCollector {
 public:
  std::shared_ptr<const EventSink> sink() {
    return std::make_shared<const EventSink>([this](std::vector<TokenEvent> events) {
      const std::lock_guard lock(mutex_);
      for (TokenEvent& event : events) {
        ended_ += event.last_of_request;
        events_[event.request].push_back(std::move(event));
      }
      changed_.notify_all();
    });
  }
  bool wait_ended(size_t requests) {
    return wait([&] { return ended_ >= requests; });
  }
  bool wait_tokens(RequestId id, size_t events) {
    return wait([&] { return events_[id].size() >= events; });
  }
  std::vector<TokenEvent> of(RequestId id) {
    const std::lock_guard lock(mutex_);
    return events_[id];
  }
  std::vector<i32> tokens(RequestId id, i32 choice = 0) {
    std::vector<i32> ids;
    for (const TokenEvent& event : of(id)) {
      if (event.choice == choice && event.token >= 0 && event.prompt_position < 0) ids.push_back(event.token);
    }
    return ids;
  }

 private:
  template <class F>
  bool wait(F done) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, done);
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestId, std::vector<TokenEvent>> events_;
  size_t ended_ = 0;
};

}  // namespace weft
