// Worker: one rank's hands. Rank 0 leads: it sends each step's plan to all ranks and gets the logits; the others serve.
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include "device/thread_pool.h"
#include "dist/broadcast/broadcast.h"
#include "engine/step_plan.h"
#include "models/model.h"

namespace weft {

struct WorkerShape {
  i64 max_tokens = 512;  // of one step
  i64 max_rows = 16;     // sequences in one step
  i64 max_logits = 16;   // rows of logits of one step
  i64 pages = 0;         // of the KV cache
  i64 page_tokens = 16;
  i64 max_pages = 0;  // of one sequence
  DType kv_dtype = DType::kBF16;
};

class Worker {
 public:
  // `world` spans all ranks, `plan` cuts it. Every rank must call it with the same shape. The referenced objects must
  // outlive it.
  static Result<std::unique_ptr<Worker>> create(Communicator& world, ThreadPool& pool, std::unique_ptr<Model> model,
                                                const WorkerShape& shape);
  const WorkerShape& shape() const { return shape_; }
  const Model& model() const { return *model_; }
  const KvCache& cache() const { return cache_; }
  // This rank's threads; free between the calls below.
  ThreadPool& pool() { return pool_; }
  int ranks() const { return world_.size(); }
  // By rank: the seconds that the model took in the latest step that the rank has finished, waits for others included.
  // Another rank may be a step behind.
  std::vector<float> rank_seconds() const;

  // Rank 0: runs one step on all ranks. Returns logits [wanted, vocab] f32, valid until the next call.
  // The plan is numbered here. Errors: kInvalidArgument if it exceeds the shape; a lost rank's reason. After a fault of
  // a step the world is dead.
  Result<TensorView> step(StepPlan& plan);
  // Rank 0: tells the others that it is alive; call it at least every idle_interval while no step runs, since their
  // wait has a deadline.
  Status idle();
  static constexpr std::chrono::seconds kIdleInterval{2};
  // Rank 0: lets serve() return on the others.
  Status stop();
  // See RankOptions::in_step.
  void set_in_step(std::function<void(int rank)> in_step) { in_step_ = std::move(in_step); }
  // Other ranks: takes part in the leader's steps until it stops. Errors as of step().
  Status serve();

 private:
  Worker(Communicator& world, ThreadPool& pool, std::unique_ptr<Model> model, const WorkerShape& shape)
      : world_(world), pool_(pool), model_(std::move(model)), shape_(shape) {}
  Status plan_buffers();
  Status run(StepPlan& plan);
  Status tell(PlanKind kind);
  Status receive(Exec& exec, StepPlan& plan);
  StepBatch batch_of(StepPlan& plan) const;
  std::atomic_ref<float> forward_seconds(int rank) const;

  Communicator& world_;
  ThreadPool& pool_;
  const std::unique_ptr<Model> model_;
  const WorkerShape shape_;
  KvCache cache_;
  Tensor logits_;
  std::optional<Broadcast> broadcast_;  // absent for one rank
  Tensor wire_header_, wire_body_;      // the encoded plan
  sym<float> forward_seconds_;          // every rank writes its own
  u64 sequence_ = 0;
  std::function<void(int rank)> in_step_;  // may be empty
};

}  // namespace weft
