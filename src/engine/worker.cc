#include "engine/worker.h"

#include <cstring>

#include "base/clock.h"

namespace weft {

Result<std::unique_ptr<Worker>> Worker::create(Communicator& world, ThreadPool& pool, std::unique_ptr<Model> model,
                                               const WorkerShape& shape) {
  std::unique_ptr<Worker> worker(new Worker(world, pool, std::move(model), shape));
  WEFT_TRY(worker->plan_buffers());
  return worker;
}

Status Worker::plan_buffers() {
  KvCacheShape kv = model_->kv_shape();
  kv.pages = shape_.pages;
  kv.page_tokens = shape_.page_tokens;
  kv.dtype = shape_.kv_dtype;
  WEFT_ASSIGN(cache_, KvCache::create(kv));
  logits_ = Tensor::zeros(DType::kF32, {shape_.max_logits, model_->config().vocab});
  wire_header_ = Tensor::zeros(DType::kU8, {i64(sizeof(PlanHeader))});
  const i64 words = 3 * shape_.max_tokens + shape_.max_rows * (2 + shape_.max_pages) + 1 + shape_.max_logits;
  wire_body_ = Tensor::zeros(DType::kI32, {words});
  WEFT_ASSIGN(forward_seconds_, world_.alloc<float>(1, "times of steps"));
  if (world_.size() > 1) {
    WEFT_ASSIGN(broadcast_, Broadcast::create(world_, {.max_bytes = i64(wire_body_.storage.size())}));
  }
  return {};
}

StepBatch Worker::batch_of(StepPlan& plan) const {
  auto view = [](std::vector<i32>& list, Shape shape) { return TensorView::dense(list.data(), DType::kI32, shape); };
  const i64 tokens = plan.tokens(), rows = plan.rows();
  const i64 max_pages = rows ? i64(plan.page_table.size()) / rows : 0;
  return {.token_ids = view(plan.token_ids, {tokens}),
          .positions = view(plan.positions, {tokens}),
          .row_starts = view(plan.row_starts, {rows + 1}),
          .kv_lens = view(plan.kv_lens, {rows}),
          .page_table = view(plan.page_table, {rows, max_pages}),
          .slots = view(plan.slots, {tokens}),
          .logits_at = view(plan.logits_at, {i64(plan.logits_at.size())})};
}

// Moves the leader's plan to every rank; on return of all threads `plan` holds it.
Status Worker::receive(Exec& exec, StepPlan& plan) {
  if (!broadcast_) return {};
  const bool leads = world_.rank() == 0;
  auto* header = wire_header_.view.as<PlanHeader>();
  if (leads && exec.thread() == 0) {
    *header = encode_header(plan);
    encode_body(plan, {wire_body_.view.as<i32>(), header->body_words});
  }
  WEFT_TRY(exec.sync());
  WEFT_TRY(broadcast_->run(exec, wire_header_.view));
  const i64 words = header->body_words;
  if (words > wire_body_.view.dim(0)) {
    return error(Code::kDataLoss, "step plan: {} words exceed the planned {}", words, wire_body_.view.dim(0));
  }
  const TensorView body = TensorView::dense(wire_body_.view.data, DType::kI32, {words});
  WEFT_TRY(broadcast_->run(exec, body));
  if (!leads && exec.thread() == 0) {
    WEFT_TRY(decode_plan(*header, {body.as<i32>(), size_t(words)}, &plan));
    if (plan.sequence != sequence_ + 1) {
      return error(Code::kDataLoss, "step plan: sequence {} after {}", plan.sequence, sequence_);
    }
    sequence_ = plan.sequence;
  }
  return exec.sync();
}

Status Worker::run(StepPlan& plan) {
  const Status status = pool_.run([&](Exec& exec) -> Status {
    WEFT_TRY(receive(exec, plan));
    if (plan.kind != PlanKind::kStep) return {};
    if (in_step_ && exec.thread() == 0) in_step_(world_.rank());
    const StepBatch mine = batch_of(plan);
    const TensorView logits = logits_.storage.view(DType::kF32, {mine.wanted(), model_->config().vocab});
    const auto start = Clock::now();
    WEFT_TRY(model_->forward(exec, mine, cache_, logits));
    if (exec.thread() == 0) {
      forward_seconds(world_.rank()).store(float(seconds_since(start)), std::memory_order_relaxed);
    }
    return {};
  });
  if (!status.ok() && world_.size() > 1) world_.world().fail(status);
  return status;
}

std::atomic_ref<float> Worker::forward_seconds(int rank) const {
  std::byte* part = world_.arena().base(world_.world_rank(rank));
  return std::atomic_ref<float>(*reinterpret_cast<float*>(part + forward_seconds_.offset));
}

std::vector<float> Worker::rank_seconds() const {
  std::vector<float> all;
  for (int rank = 0; rank < world_.size(); ++rank) {
    all.push_back(forward_seconds(rank).load(std::memory_order_relaxed));
  }
  return all;
}

Result<TensorView> Worker::step(StepPlan& plan) {
  WEFT_CHECK(world_.rank() == 0);
  if (plan.tokens() > shape_.max_tokens || plan.rows() > shape_.max_rows ||
      i64(plan.logits_at.size()) > shape_.max_logits || i64(plan.page_table.size()) > plan.rows() * shape_.max_pages) {
    return error(Code::kInvalidArgument, "a step of {} tokens in {} rows with {} logits exceeds the worker's shape",
                 plan.tokens(), plan.rows(), plan.logits_at.size());
  }
  plan.kind = PlanKind::kStep;
  plan.sequence = ++sequence_;
  WEFT_TRY(run(plan));
  return logits_.storage.view(DType::kF32, {i64(plan.logits_at.size()), model_->config().vocab});
}

Status Worker::tell(PlanKind kind) {
  WEFT_CHECK(world_.rank() == 0);
  if (!broadcast_) return {};
  StepPlan plan;
  plan.kind = kind;
  plan.sequence = ++sequence_;
  return run(plan);
}

Status Worker::idle() {
  return tell(PlanKind::kIdle);
}

Status Worker::stop() {
  return tell(PlanKind::kStop);
}

Status Worker::serve() {
  WEFT_CHECK(world_.rank() != 0);
  StepPlan plan;
  do {
    WEFT_TRY(run(plan));
  } while (plan.kind != PlanKind::kStop);
  return {};
}

}  // namespace weft
