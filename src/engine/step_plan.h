// StepPlan: what the leader tells every rank to do next, as versioned bytes.
#pragma once
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "ops/sampling/sampling.h"

namespace weft {

enum class PlanKind : u32 {
  kStep,  // one forward pass
  kIdle,  // nothing to do: the leader is alive
  kStop,  // leave
};

// What to do with one row of a step's logits. Only the rank that samples reads it.
struct SampleRow {
  SamplingParams params;
  u64 position = 0;                // of the drawn token in its sequence
  i32 target = -1;                 // at least 0: nothing is drawn, this token's log-probability is wanted
  i32 top_logprobs = -1;           // -1: no log-probability; else the number of likeliest tokens beside it
  bool masked = false;             // waits for Executor::provide_masks
  i32 pending = -1;                // at least 0: this sample of the step before counts as one more token of the answer
  std::vector<LogitBias> bias;     // distinct tokens
  std::vector<TokenCount> counts;  // for the penalties; distinct tokens
};

// The arrays of a StepBatch (ops/attention/step_batch.h), built by the leader.
struct StepPlan {
  PlanKind kind = PlanKind::kIdle;
  u64 sequence = 0;                              // set by the leader's Worker; every rank checks that none was missed
  std::vector<i32> token_ids, positions, slots;  // [tokens]; token id -1 - i: what sample i of the step before drew
  std::vector<i32> row_starts = {0};             // [rows + 1]
  std::vector<i32> kv_lens;                      // [rows]
  std::vector<i32> page_table;                   // [rows, max_pages]
  std::vector<i32> logits_at;                    // [wanted]
  std::vector<SampleRow> samples;                // [wanted], or none; the other ranks do not get them

  i64 tokens() const { return i64(token_ids.size()); }
  i64 rows() const { return i64(kv_lens.size()); }
  // Starts an empty step.
  void clear();
  // Appends one row: `tokens` at positions start, start + 1 ... of a sequence whose pages are `pages`, each of
  // page_tokens; the table is `max_pages` wide. Returns the index of its first token, for logits_at.
  i32 add_row(std::span<const i32> tokens, i64 start, std::span<const i32> pages, i64 page_tokens, i64 max_pages);
};

// Fixed-size head of the encoded form: the receiver learns from it how many bytes follow.
struct PlanHeader {
  static constexpr u32 kMagic = 0x54464557;  // "WEFT"
  static constexpr u32 kVersion = 1;
  u32 magic = kMagic, version = kVersion;
  PlanKind kind = PlanKind::kIdle;
  u32 body_words = 0;
  u64 sequence = 0;
  u32 tokens = 0, rows = 0, max_pages = 0, wanted = 0;
};
static_assert(sizeof(PlanHeader) == 40);

PlanHeader encode_header(const StepPlan& plan);
// Appends nothing and allocates nothing: writes header.body_words words. Check the size against `body` first.
void encode_body(const StepPlan& plan, std::span<i32> body);
// Errors: kDataLoss naming the field for bytes that no leader of this version sent.
Status decode_plan(const PlanHeader& header, std::span<const i32> body, StepPlan* plan);

}  // namespace weft
