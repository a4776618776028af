#include "engine/socket_executor.h"

#include <sys/socket.h>

namespace weft {
namespace {

constexpr std::chrono::hours kForever{24 * 365};  // the engine's step deadline and the end of the stream end the wait
constexpr std::chrono::seconds kTick{1};

}  // namespace

Result<std::unique_ptr<SocketExecutor>> SocketExecutor::create(Fd socket, Deadline deadline) {
  WEFT_ASSIGN(const StepMessage hello, receive_frame(socket, deadline));
  if (hello.kind != StepFrame::kHello) return error(Code::kDataLoss, "frame: kind {}, expected hello", u32(hello.kind));
  WEFT_ASSIGN(ExecutorInfo info, decode_info(hello.payload));
  return std::unique_ptr<SocketExecutor>(new SocketExecutor(std::move(socket), std::move(info)));
}

SocketExecutor::SocketExecutor(Fd socket, ExecutorInfo info) : socket_(std::move(socket)), info_(std::move(info)) {
  reader_ = std::thread([this] { read(); });
  writer_ = std::thread([this] { write(); });
}

SocketExecutor::~SocketExecutor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wakeup_ = nullptr;
    changed_.notify_all();
  }
  ::shutdown(socket_.get(), SHUT_RDWR);  // ends both threads' waits; the leader takes it for a goodbye
  writer_.join();
  reader_.join();
}

void SocketExecutor::set_wakeup(std::function<void()> wakeup) {
  const std::lock_guard lock(mutex_);
  wakeup_ = std::move(wakeup);
  if (wakeup_ && !failure_.ok()) wakeup_();  // it may have died before anybody listened
}

void SocketExecutor::send(StepFrame kind, std::string payload) {
  const std::lock_guard lock(mutex_);
  outgoing_.push_back({kind, std::move(payload)});
  changed_.notify_all();
}

void SocketExecutor::submit(StepPlan plan) {
  send(StepFrame::kPlan, encode_step(plan));
}

void SocketExecutor::provide_masks(u64 sequence, std::vector<SampleMask> masks) {
  send(StepFrame::kMasks, encode_masks(sequence, masks));
}

std::optional<StepResult> SocketExecutor::poll() {
  const std::lock_guard lock(mutex_);
  StepResult result;
  if (!results_.empty()) {
    result = std::move(results_.front());
    results_.pop_front();
  } else if (!failure_.ok()) {
    result.status = failure_;
  } else {
    return std::nullopt;
  }
  return result;
}

void SocketExecutor::fail(const Status& status) {
  const std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = status;
  if (wakeup_) wakeup_();
}

void SocketExecutor::read() {
  for (;;) {
    auto message = receive_frame(socket_, Deadline::after(kForever));
    if (!message.ok()) return fail(message.status().with_context("the leader of the ranks"));
    if (message->kind != StepFrame::kResult) {
      return fail(error(Code::kDataLoss, "the leader of the ranks sent a frame of kind {}", u32(message->kind)));
    }
    auto result = decode_result(message->payload);
    if (!result.ok()) return fail(result.status());
    const std::lock_guard lock(mutex_);
    results_.push_back(*std::move(result));
    if (wakeup_) wakeup_();
  }
}

void SocketExecutor::write() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (outgoing_.empty() || !failure_.ok()) {
      changed_.wait_for(lock, kTick);
      continue;
    }
    const StepMessage message = std::move(outgoing_.front());
    outgoing_.pop_front();
    lock.unlock();
    const Status status = send_frame(socket_, message.kind, message.payload, Deadline::after(kTick * 10));
    if (!status.ok()) fail(status.with_context("the leader of the ranks"));
    lock.lock();
  }
}

namespace {

// Reads frames as they come, while the leader computes.
class Mailbox {
 public:
  explicit Mailbox(const Fd& socket) : socket_(socket), reader_([this] { read(); }) {}
  ~Mailbox() {
    ::shutdown(socket_.get(), SHUT_RDWR);
    reader_.join();
  }

  bool engine_left() {
    const std::lock_guard lock(mutex_);
    return end_.code() == Code::kAborted;
  }
  // The next plan; nothing after `wait`. Errors: kAborted when the engine has left.
  Result<std::optional<StepPlan>> next_plan(std::chrono::nanoseconds wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, wait, [&] { return !plans_.empty() || !end_.ok(); });
    if (plans_.empty()) {
      WEFT_TRY(end_);
      return std::optional<StepPlan>();
    }
    std::optional<StepPlan> plan = std::move(plans_.front());
    plans_.pop_front();
    return plan;
  }

  Result<std::vector<SampleMask>> masks_of(u64 sequence, std::chrono::nanoseconds wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, wait, [&] { return !masks_.empty() || !end_.ok(); });
    if (masks_.empty()) {
      WEFT_TRY(end_);
      return error(Code::kDeadlineExceeded, "the masks of step {} did not come in time", sequence);
    }
    MasksOfStep masks = std::move(masks_.front());
    masks_.pop_front();
    if (masks.sequence == sequence) return std::move(masks.masks);
    return error(Code::kDataLoss, "masks of step {}, expected those of {}", masks.sequence, sequence);
  }

 private:
  void read() {
    Status status;
    while (status.ok()) status = read_one();
    const std::lock_guard lock(mutex_);
    end_ = status;
    changed_.notify_all();
  }
  Status read_one() {
    auto message = receive_frame(socket_, Deadline::after(kForever));
    if (!message.ok() && message.status().code() == Code::kDataLoss) return message.status();
    if (!message.ok()) return error(Code::kAborted, "the engine left");
    if (message->kind == StepFrame::kPlan) {
      WEFT_ASSIGN(StepPlan plan, decode_step(message->payload));
      const std::lock_guard lock(mutex_);
      plans_.push_back(std::move(plan));
    } else if (message->kind == StepFrame::kMasks) {
      WEFT_ASSIGN(MasksOfStep masks, decode_masks(message->payload));
      const std::lock_guard lock(mutex_);
      masks_.push_back(std::move(masks));
    } else {
      return error(Code::kDataLoss, "frame: kind {} from an engine", u32(message->kind));
    }
    changed_.notify_all();
    return {};
  }

  const Fd& socket_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<StepPlan> plans_;
  std::deque<MasksOfStep> masks_;
  Status end_;
  std::thread reader_;
};

Result<StepResult> run_step(StepRunner& runner, StepPlan& plan, Mailbox& mailbox, std::chrono::nanoseconds wait) {
  // The runner numbers steps itself, idle ones included; the engine's number is what it wants back.
  const u64 sequence = plan.sequence;
  WEFT_TRY(runner.forward(plan));
  std::vector<SampleMask> masks;
  if (wants_masks(plan)) {
    WEFT_ASSIGN(masks, mailbox.masks_of(sequence, wait));
  }
  WEFT_ASSIGN(StepResult result, runner.sample(plan, masks));
  result.sequence = sequence;
  return result;
}

}  // namespace

Status serve_steps(Fd socket, StepRunner& runner, std::chrono::milliseconds mask_deadline) {
  if (!send_frame(socket, StepFrame::kHello, encode_info(runner.info()), Deadline::after(mask_deadline)).ok()) {
    return {};  // the engine left while the model was loaded
  }
  Mailbox mailbox(socket);
  for (;;) {
    auto plan = mailbox.next_plan(Worker::kIdleInterval);
    if (!plan.ok()) return mailbox.engine_left() ? Status() : plan.status();
    if (!*plan) {
      WEFT_TRY(runner.idle());
      continue;
    }
    const u64 sequence = (*plan)->sequence;
    auto result = run_step(runner, **plan, mailbox, mask_deadline);
    const Status outcome = result.status();
    if (outcome.code() == Code::kAborted && mailbox.engine_left()) return {};
    StepResult answer{.sequence = sequence, .status = outcome, .samples = {}, .rank_seconds = {}};
    if (result.ok()) answer = *std::move(result);
    const Status sent = send_frame(socket, StepFrame::kResult, encode_result(answer), Deadline::after(mask_deadline));
    WEFT_TRY(outcome);
    if (!sent.ok()) return sent.code() == Code::kUnavailable ? Status() : sent;
  }
}

}  // namespace weft
