// Frames of {type, length, payload} over a non-blocking stream socket: all that ranks say to each other at start-up
// and while they watch over each other.
#pragma once
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/status.h"
#include "comm/bootstrap/process_info.h"

namespace weft {

enum class FrameType : u32 {
  kHello = 1,  // Hello; the first frame of every connection
  kWelcome,    // Member[size]: the world is complete
  kRefuse,     // text: why rank 0 does not let this process in
  kHeartbeat,  // empty
  kGather,     // GatherHeader, then this rank's bytes
  kGathered,   // GatherHeader, then per rank u32 length and bytes
  kFail,       // FailHeader, then text
  kGoodbye,    // empty: the end of the connection that follows is no death
  kLast = kGoodbye,
};

struct Frame {
  FrameType type;
  std::string payload;
};

struct Hello {
  static constexpr u32 kVersion = 1;
  char magic[8] = {'w', 'e', 'f', 't', '-', 'w', 'l', 'd'};
  u32 version = kVersion;
  i32 size = 0;
  char job[256] = {};
  Member member;
};

struct GatherHeader {
  u64 sequence = 0;
  i64 left_ns = 0;  // of the sender's deadline
};

struct FailHeader {
  i32 code = 0;      // Code
  i32 culprit = -1;  // the rank that is lost, -1 when a rank reports something itself
  i32 kill = 0;      // 1: the culprit is stopped or frozen; ranks of its host kill it
};

// The bytes of a plain struct, for payloads.
template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Takes a plain struct off the front; false when the payload is too short.
template <class T>
bool take(std::string_view& payload, T& value) {
  if (payload.size() < sizeof value) return false;
  std::memcpy(&value, payload.data(), sizeof value);
  payload.remove_prefix(sizeof value);
  return true;
}

// One connection. Used by one thread at a time; never blocks.
class Connection {
 public:
  Connection() = default;
  // Takes a connected socket and makes it non-blocking.
  explicit Connection(Fd socket);

  int fd() const { return socket_.get(); }
  bool open() const { return socket_.valid(); }
  void close() { socket_.reset(); }
  // What to ask poll(2) for.
  short events() const;

  // Queues a frame; flush() sends.
  void send(FrameType type, std::string_view payload = {});
  bool all_sent() const { return out_.empty(); }
  // Sends what the socket takes now. kUnavailable when the peer is gone.
  Status flush();
  // Says to the peer that nothing more comes; reading goes on.
  void end_sending();

  // Reads some of what is there. kUnavailable at the end of the stream; frames read before stay available.
  Status receive();
  // The next whole frame; nullopt when none is there yet. kDataLoss when the bytes are no frame of ours or longer than
  // `max_payload`.
  Result<std::optional<Frame>> next(size_t max_payload);

 private:
  Fd socket_;
  std::string in_, out_;
};

}  // namespace weft
