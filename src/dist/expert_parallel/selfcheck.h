// Checked calls of dispatch and combine on tokens, routing and weights that every rank can compute for itself. Used by
// the tests, by the program test_all_to_all and by the benchmark.
#pragma once
#include <functional>
#include <string>

#include "device/thread_pool.h"
#include "dist/expert_parallel/expert_parallel.h"

namespace weft::ep {

// kUniform: distinct experts at random. kZipf: expert e with weight 1 / (e + 1). kOneHot: every token's first expert is
// the last one. kHoles: a third of the indices, and all of some tokens, are -1. kMixed: by the number of the call one
// of these, or no tokens at all on one group, or on all.
enum class Routing : u8 { kUniform, kZipf, kOneHot, kHoles, kMixed };
Result<Routing> parse_routing(const std::string& name);  // "uniform", "zipf", "one_hot", "holes", "mixed"

struct CheckCase {
  AllToAllShape shape;  // hidden_dim_bytes, hidden_dim_scale_bytes, rank and world_size are filled in by create()
  AllToAllOptions options;
  DType x_dtype = DType::kBF16;    // of hidden_dim elements; u8 stands for fp8
  i64 scale_block = 0;             // elements per f32 scale; 0 = no scales
  DType cast_from = DType::kBF16;  // of x as dispatch takes it, where options.cast_x_to_fp8
  DType out_dtype = DType::kBF16;
  Routing routing = Routing::kUniform;
  bool vary_tokens = false;  // groups and calls differ in their number of tokens
  bool bound = false;        // the number comes through bound_m, and the tensors are longer
  bool split = false;        // halves, with work between them
  bool map = false;          // rows are taken from gathered() by row_map instead of being copied
  bool packed = false;       // expert_y without gaps
  bool early = false;        // dispatch is given the weights
};

// Routing of a group's tokens [tokens, per_token], and weights as many.
std::vector<i32> make_indices(const AllToAllShape& shape, Routing routing, u64 call, int group, i64 tokens);
std::vector<float> make_weights(const AllToAllShape& shape, u64 call, int group, i64 tokens);

// What is checked: a dispatch and a combine on CPU tensors, whole or in halves, wherever they really run.
struct CheckedCalls {
  // Pairs beyond the capacity in the world and of this rank's experts: the call must report them as its form does, and
  // then returns ok.
  struct Dropped {
    i64 everywhere, here;
  };
  std::function<Status(const DispatchArgs&, const Dropped&)> dispatch;
  std::function<Status(const CombineArgs&)> combine;
  std::function<Result<GatheredRows>()> gathered = nullptr;  // for maps: what the dispatch before left, in CPU memory
};

// The inputs of calls, and what must come out of them.
class CallChecker {
 public:
  // `check` with shape.rank, world_size and what complete() knows filled in.
  CallChecker(const CheckCase& check, Range local_experts, i64 capacity);
  // hidden_dim_bytes and hidden_dim_scale_bytes as the types have them; options.map_rows as `map`.
  static void complete(CheckCase& check);

  // Dispatch and combine number `call`, everything compared: counts, the bytes of every row and scale against
  // route_reference(), maps, what lies beyond the counts, and the result against a sum in f64, within the error that
  // the roundings may make. Returns a hash of the result's bits. Errors: kDataLoss naming the first difference; those
  // of the calls.
  Result<u64> run(const CheckedCalls& calls, u64 call);

 private:
  struct Step;
  i64 tokens_of(u64 call, int group) const;
  Step make_step(u64 call) const;
  void fill_inputs(const Step& step);
  Status check_dispatch(const CheckedCalls& calls, const Step& step) const;
  Status check_row(const GatheredRows& gathered, const Step& step, i64 place, int group, i64 token) const;
  void fill_y(const Step& step);
  Status check_out(const Step& step) const;

  CheckCase case_;
  Range local_;
  i64 capacity_;
  Tensor x_, scales_, expert_x_, expert_scales_, counts_, row_map_, row_experts_, y_, out_;
  u32 bound_ = 0;
};

// The checked CPU form.
class SelfCheck {
 public:
  // Collective.
  static Result<SelfCheck> create(Communicator& comm, CheckCase check);
  // CallChecker::run() on the team's threads.
  Result<u64> run(ThreadPool& pool, u64 call);
  AllToAll& op() { return op_; }

 private:
  SelfCheck(const CheckCase& check, AllToAll op)
      : case_(check), op_(std::move(op)), checker_(case_, op_.local_experts(), op_.capacity()) {}

  CheckCase case_;
  AllToAll op_;
  CallChecker checker_;
};

}  // namespace weft::ep
