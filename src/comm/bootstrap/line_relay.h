// Carries the output of several processes to one descriptor, line by line, each behind its rank. Never blocks.
#pragma once
#include <string>
#include <string_view>

#include "base/file.h"

namespace weft {

// Bytes on their way to a descriptor that may be slow.
class OutputQueue {
 public:
  explicit OutputQueue(int fd) : fd_(fd) {}
  void push(std::string_view bytes) { waiting_.append(bytes); }
  bool empty() const { return waiting_.empty(); }
  // Holds so much that its sources should wait.
  bool full() const { return waiting_.size() - sent_ >= kFull; }
  // The reader is gone; all further bytes are dropped.
  bool broken() const { return broken_; }
  int fd() const { return fd_; }
  // Writes once. Call when poll(2) reports room: then a pipe takes this much without blocking.
  void write_some();

 private:
  static constexpr size_t kFull = 1 << 20;
  int fd_;
  std::string waiting_;
  size_t sent_ = 0;  // of waiting_
  bool broken_ = false;
};

// Cuts one stream into lines and queues each with its prefix. Lines may hold any bytes. A line above kLongest is passed
// on in pieces, each behind the prefix.
class LineRelay {
 public:
  static constexpr size_t kLongest = 1 << 20;
  LineRelay(std::string prefix, OutputQueue& out) : prefix_(std::move(prefix)), out_(out) {}
  void push(std::string_view bytes);
  // Queues an unfinished last line, with a line end.
  void finish();

 private:
  void emit();
  std::string prefix_;
  OutputQueue& out_;
  std::string line_;
};

}  // namespace weft
