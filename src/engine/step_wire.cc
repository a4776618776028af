#include "engine/step_wire.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <type_traits>

namespace weft {
namespace {

constexpr u32 kMagic = 0x50534657;  // "WFSP"
constexpr u32 kVersion = 1;
constexpr u64 kMaxPayload = u64(1) << 30;

struct FrameHead {
  u32 magic = kMagic, version = kVersion;
  StepFrame kind = StepFrame::kHello;
  u32 reserved = 0;
  u64 bytes = 0;
};

class Writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class T>
  void put(const std::vector<T>& list) {
    static_assert(std::is_trivially_copyable_v<T>);
    put(u64(list.size()));
    out_.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(T));
  }
  void put(const Status& status) {
    put(i32(status.code()));
    const std::string& text = status.ok() ? std::string() : status.message();
    put(std::vector<char>(text.begin(), text.end()));
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

// Reads what a Writer wrote; the first fault stays, and later reads give zeros.
class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  template <class T>
  void get(const char* field, T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (!need(field, sizeof value)) return;
    std::memcpy(&value, in_.data(), sizeof value);
    in_.remove_prefix(sizeof value);
  }
  template <class T>
  void get(const char* field, std::vector<T>& list) {
    const u64 count = length(field, sizeof(T));
    list.resize(count);
    if (count > 0) std::memcpy(list.data(), in_.data(), count * sizeof(T));
    in_.remove_prefix(count * sizeof(T));
  }
  void get(const char* field, Status& status) {
    i32 code = 0;
    std::vector<char> text;
    get(field, code);
    get(field, text);
    if (code < 0 || code > i32(Code::kIo)) fault_ = error(Code::kDataLoss, "{}: unknown code {}", field, code);
    status = !fault_.ok() || code == 0 ? Status() : Status(Code(code), std::string(text.begin(), text.end()));
  }
  // The length of a list whose entries take at least `least` bytes each.
  u64 length(const char* field, size_t least) {
    u64 count = 0;
    get(field, count);
    if (!fault_.ok() || (count <= in_.size() / least && need(field, count * least))) return fault_.ok() ? count : 0;
    need(field, in_.size() + 1);
    return 0;
  }
  Status finish(const char* what) const {
    if (fault_.ok() && !in_.empty()) return error(Code::kDataLoss, "{}: {} bytes too many", what, in_.size());
    return fault_.with_context(what);
  }

 private:
  bool need(const char* field, size_t bytes) {
    if (fault_.ok() && bytes > in_.size()) {
      fault_ = error(Code::kDataLoss, "{}: expected {} bytes, found {}", field, bytes, in_.size());
    }
    return fault_.ok();
  }
  std::string_view in_;
  Status fault_;
};

Status wait_for(const Fd& socket, short events, Deadline deadline) {
  for (;;) {
    pollfd poll{socket.get(), events, 0};
    const int ready = ::poll(&poll, 1, deadline.poll_ms(1 << 20));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return error(Code::kIo, "poll: {}", errno_text());
    if (deadline.expired()) {
      return error(Code::kDeadlineExceeded, "no frame {} before the deadline", events == POLLIN ? "came" : "left");
    }
  }
}

// What a failed read or write means: a peer that has left looks the same from both.
Status broken(const char* call) {
  if (errno == EPIPE || errno == ECONNRESET) return error(Code::kUnavailable, "the peer closed the connection");
  return error(Code::kUnavailable, "{}: {}", call, errno_text());
}

Status read_exactly(const Fd& socket, char* data, size_t bytes, Deadline deadline) {
  while (bytes > 0) {
    const ssize_t count = ::recv(socket.get(), data, bytes, MSG_DONTWAIT);
    if (count == 0) return error(Code::kUnavailable, "the peer closed the connection");
    if (count > 0) {
      data += count;
      bytes -= size_t(count);
    } else if (errno == EAGAIN) {
      WEFT_TRY(wait_for(socket, POLLIN, deadline));
    } else if (errno != EINTR) {
      return broken("recv");
    }
  }
  return {};
}

Status write_all(const Fd& socket, std::string_view data, Deadline deadline) {
  while (!data.empty()) {
    const ssize_t count = ::send(socket.get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) {
      data.remove_prefix(size_t(count));
    } else if (errno == EAGAIN) {
      WEFT_TRY(wait_for(socket, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return broken("send");
    }
  }
  return {};
}

}  // namespace

std::string encode_info(const ExecutorInfo& info) {
  Writer out;
  for (i64 value : {info.vocab, info.context, info.pages, info.page_tokens, info.max_step_tokens, info.max_rows,
                    info.max_logits, i64(info.ranks), i64(info.depth)}) {
    out.put(value);
  }
  out.put(info.eos_ids);
  return out.take();
}

Result<ExecutorInfo> decode_info(std::string_view bytes) {
  Reader in(bytes);
  ExecutorInfo info;
  for (i64* value : {&info.vocab, &info.context, &info.pages, &info.page_tokens, &info.max_step_tokens, &info.max_rows,
                     &info.max_logits}) {
    in.get("info", *value);
  }
  i64 ranks = 0, depth = 0;
  in.get("ranks", ranks);
  in.get("depth", depth);
  in.get("eos_ids", info.eos_ids);
  WEFT_TRY(in.finish("hello"));
  if (depth < 1 || depth > 2) return error(Code::kDataLoss, "hello: depth {}", depth);
  info.ranks = int(ranks);
  info.depth = int(depth);
  return info;
}

std::string encode_step(const StepPlan& plan) {
  Writer out;
  const PlanHeader header = encode_header(plan);
  std::vector<i32> body(header.body_words);
  encode_body(plan, body);
  out.put(header);
  out.put(body);
  out.put(u64(plan.samples.size()));
  for (const SampleRow& row : plan.samples) {
    out.put(row.params);
    out.put(row.position);
    out.put(row.target);
    out.put(row.top_logprobs);
    out.put(row.masked);
    out.put(row.pending);
    out.put(row.bias);
    out.put(row.counts);
  }
  return out.take();
}

Result<StepPlan> decode_step(std::string_view bytes) {
  Reader in(bytes);
  PlanHeader header;
  std::vector<i32> body;
  in.get("header", header);
  in.get("body", body);
  StepPlan plan;
  plan.samples.resize(in.length("samples", sizeof(SamplingParams)));
  for (SampleRow& row : plan.samples) {
    in.get("params", row.params);
    in.get("position", row.position);
    in.get("target", row.target);
    in.get("top_logprobs", row.top_logprobs);
    u8 masked = 0;
    in.get("masked", masked);
    row.masked = masked != 0;
    in.get("pending", row.pending);
    in.get("bias", row.bias);
    in.get("counts", row.counts);
  }
  WEFT_TRY(in.finish("plan"));
  WEFT_TRY(decode_plan(header, body, &plan));
  return plan;
}

std::string encode_masks(u64 sequence, const std::vector<SampleMask>& masks) {
  Writer out;
  out.put(sequence);
  out.put(u64(masks.size()));
  for (const SampleMask& mask : masks) {
    out.put(mask.sample);
    out.put(mask.allowed);
  }
  return out.take();
}

Result<MasksOfStep> decode_masks(std::string_view bytes) {
  Reader in(bytes);
  MasksOfStep step;
  in.get("sequence", step.sequence);
  step.masks.resize(in.length("masks", sizeof(i32) + sizeof(u64)));
  for (SampleMask& mask : step.masks) {
    in.get("sample", mask.sample);
    in.get("allowed", mask.allowed);
  }
  WEFT_TRY(in.finish("masks"));
  return step;
}

std::string encode_result(const StepResult& result) {
  Writer out;
  out.put(result.sequence);
  out.put(result.status);
  out.put(result.seconds);
  out.put(result.rank_seconds);
  out.put(u64(result.samples.size()));
  for (const SampleOutcome& sample : result.samples) {
    out.put(sample.token);
    out.put(sample.logprob);
    out.put(sample.top);
    out.put(sample.fault);
  }
  return out.take();
}

Result<StepResult> decode_result(std::string_view bytes) {
  Reader in(bytes);
  StepResult result;
  in.get("sequence", result.sequence);
  in.get("status", result.status);
  in.get("seconds", result.seconds);
  in.get("rank_seconds", result.rank_seconds);
  result.samples.resize(in.length("samples", sizeof(i32) + sizeof(float)));
  for (SampleOutcome& sample : result.samples) {
    in.get("token", sample.token);
    in.get("logprob", sample.logprob);
    in.get("top", sample.top);
    in.get("fault", sample.fault);
  }
  WEFT_TRY(in.finish("result"));
  return result;
}

Status send_frame(const Fd& socket, StepFrame kind, std::string_view payload, Deadline deadline) {
  const FrameHead head{.kind = kind, .bytes = payload.size()};
  std::string frame(reinterpret_cast<const char*>(&head), sizeof head);
  frame += payload;
  return write_all(socket, frame, deadline);
}

Result<StepMessage> receive_frame(const Fd& socket, Deadline deadline) {
  FrameHead head;
  WEFT_TRY(read_exactly(socket, reinterpret_cast<char*>(&head), sizeof head, deadline));
  if (head.magic != kMagic || head.version != kVersion || head.bytes > kMaxPayload) {
    return error(Code::kDataLoss, "frame: magic {:#x}, version {}, {} bytes", head.magic, head.version, head.bytes);
  }
  StepMessage message{head.kind, std::string(head.bytes, '\0')};
  WEFT_TRY(read_exactly(socket, message.payload.data(), message.payload.size(), deadline));
  return message;
}

}  // namespace weft
