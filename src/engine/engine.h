// Engine: many requests on one executor. A thread of its own plans steps and hands out tokens.
#pragma once
#include <chrono>
#include <memory>

#include "engine/executor.h"
#include "engine/request.h"

namespace weft {

struct EngineOptions {
  i64 max_running = 256;                 // choices at once; the executor's rows bound it, too
  i64 max_queued = 512;                  // requests beyond max_running that may wait
  i64 max_queued_tokens = i64(1) << 20;  // prompt tokens of requests that have not begun to run
  i64 max_step_tokens = 512;  // token budget of a step, prefill and decode together; the executor's bounds it
  i64 max_context = 0;        // longest sequence in tokens; 0 = what model and KV cache allow
  i64 expected_answer = 64;   // first guess of an answer's tokens, for admission; then it follows the answers
  bool prefix_cache = true;   // reuse the pages of sequences that begin alike, also among choices
  i64 draft_tokens = 0;       // speculative decoding: longest draft; 0 = off. Drafts come from the sequence
                              // itself (n-gram lookup) and never change what is drawn
  std::chrono::milliseconds step_deadline{10000};  // a step without a result for so long is a failure
  std::chrono::milliseconds idle_probe{0};  // after so long without a step: one on a token of no consequence, to see
                                            // that the executor still computes; 0 = never
  std::shared_ptr<const GrammarCompiler> grammars = {};  // null: requests with a grammar are refused
};

class Engine {
 public:
  // Errors: kInvalidArgument naming the option or the executor's field that leaves no room to work.
  static Result<std::unique_ptr<Engine>> create(std::unique_ptr<Executor> executor, const EngineOptions& options);
  ~Engine();  // stop()

  // Takes a request; any thread, never waits. Its events come to `sink` until one with last_of_request; the first may
  // come before submit() returns. Errors, all at once and without any event: kInvalidArgument naming the field, for
  // what can never run (a prompt that the context cannot hold, a token outside the vocabulary, n above max_running +
  // max_queued, an id in use); kResourceExhausted as soon as the open requests reach max_running + max_queued, or the
  // queued prompt tokens their bound; kUnavailable while draining, stopped or without a live executor.
  Status submit(EngineRequest request, std::shared_ptr<const EventSink> sink);
  // Ends a request: its choices that are still open get kAborted. Unknown ids are ignored: it may have ended already.
  void abort(RequestId id);
  // Ends one choice whose caller has all of it that is wanted: it gets kStop without a token, others go on. Ignored
  // where it has ended.
  void end_choice(RequestId id, i32 choice);

  // Any thread.
  EngineStats stats() const;
  // Longest sequence, prompt and answer together, in tokens.
  i64 max_context() const;
  const ExecutorInfo& info() const;

  // Takes no more requests and returns when the open ones have ended, or when the deadline has passed: those left then
  // end with kAborted, and the error is kDeadlineExceeded with their number. The engine still runs (stats(), stop()).
  Status drain(Deadline deadline);
  // Ends all requests with the error kUnavailable "the engine stopped" and joins the thread. Idempotent.
  void stop();
  // After a failure (stats().health is not ok; all requests have ended with that error): goes on, with empty caches,
  // over `executor`. Also replaces one that works: its open requests end with kUnavailable. Errors: kInvalidArgument
  // when it differs in vocabulary or has no room; kUnavailable after stop().
  Status replace_executor(std::unique_ptr<Executor> executor);

 private:
  class Loop;
  explicit Engine(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace weft
