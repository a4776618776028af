// bench_all_to_all: how long dispatch, combine and both take on the slowest rank.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "cli/programs/all_to_all_flags.h"
#include "dist/barrier/barrier.h"
#include "dist/expert_parallel/cuda_programs.h"
#include "ops/bench.h"

namespace weft {
namespace {

struct BenchFlags : AllToAllFlags {
  int samples = 21, repeats = 20;
};

constexpr int kRoutings = 5;

// One rank's operator and tensors.
struct Site {
  ep::AllToAll op;
  Tensor x, scales, counts, expert_x, expert_scales, row_map, y, out;
  std::vector<std::vector<i32>> indices;
  std::vector<std::vector<float>> weights;
  i64 sent_rows = 0;  // (token, other rank) pairs of the first routing, for the bytes that move

  Status dispatch(Exec& exec, int routing) {
    const ep::DispatchArgs args{.x = x.view,
                                .x_scale = scales.view,
                                .indices = ids(routing),
                                .out_num_tokens = counts.view,
                                .expert_x = expert_x.view,
                                .expert_x_scale = expert_scales.view,
                                .row_map = row_map.view};
    return op.dispatch(exec, args);
  }
  Status combine(Exec& exec, int routing) {
    auto& w = weights[size_t(routing)];
    const TensorView chosen = ids(routing);
    return op.combine(exec, {.expert_y = y.view,
                             .indices = chosen,
                             .weights = TensorView::dense(w.data(), DType::kF32, chosen.shape),
                             .out = out.view});
  }
  TensorView ids(int routing) {
    auto& chosen = indices[size_t(routing)];
    return TensorView::dense(chosen.data(), DType::kI32, {x.view.dim(0), i64(chosen.size()) / x.view.dim(0)});
  }
};

// (token, other rank) pairs of a routing that rank s.rank sends.
i64 sent_rows(const ep::AllToAllShape& s, const std::vector<i32>& indices) {
  ep::Layout layout;
  layout.ranks = s.world_size;
  layout.experts = s.num_experts;
  const Range mine = split_range(s.max_num_tokens, s.dp_size, s.rank % s.dp_size);
  i64 rows = 0;
  for (i64 t = mine.begin; t < mine.end; ++t) {
    u64 ranks = 0;
    for (i64 j = 0; j < s.experts_per_token; ++j) {
      const i32 expert = indices[size_t(t * s.experts_per_token + j)];
      if (expert >= 0) ranks |= u64(1) << layout.rank_of(expert);
    }
    rows += std::popcount(ranks & ~(u64(1) << s.rank));
  }
  return rows;
}

Result<Site> make_site(Communicator& comm, const BenchFlags& flags) {
  WEFT_ASSIGN(ep::CheckCase check, flags.check_case());
  ep::AllToAllShape& s = check.shape;
  const i64 scales = check.scale_block > 0 ? (s.hidden_dim + check.scale_block - 1) / check.scale_block : 0;
  s.rank = comm.rank();
  s.world_size = comm.size();
  s.hidden_dim_bytes = dtype_bytes(check.x_dtype, s.hidden_dim);
  s.hidden_dim_scale_bytes = scales * i64(sizeof(float));
  WEFT_ASSIGN(ep::AllToAll op, ep::AllToAll::create(comm, s, check.options));
  const i64 local = op.local_experts().size(), cap = op.capacity(), m = s.max_num_tokens;
  Site site{.op = std::move(op),
            .x = Tensor::zeros(check.options.cast_x_to_fp8 ? check.cast_from : check.x_dtype, {m, s.hidden_dim}),
            .scales = check.options.cast_x_to_fp8 ? Tensor{} : Tensor::zeros(DType::kF32, {m, scales}),
            .counts = Tensor::zeros(DType::kI32, {local}),
            .expert_x = {},
            .expert_scales = {},
            .row_map = {},
            .y = Tensor::zeros(check.options.combine_dtype, {local, cap, s.hidden_dim}),
            .out = Tensor::zeros(check.out_dtype, {m, s.hidden_dim}),
            .indices = {},
            .weights = {}};
  if (flags.map) {
    site.row_map = Tensor::zeros(DType::kI32, {local, cap});
  } else {
    site.expert_x = Tensor::zeros(check.x_dtype, {local, cap, s.hidden_dim});
    if (scales > 0) site.expert_scales = Tensor::zeros(DType::kF32, {local, cap, scales});
  }
  for (int r = 0; r < kRoutings; ++r) {
    const int group = s.rank / s.dp_size;
    site.indices.push_back(ep::make_indices(s, check.routing, u64(r), group, m));
    site.weights.push_back(ep::make_weights(s, u64(r), group, m));
  }
  site.sent_rows = sent_rows(s, site.indices[0]);
  return site;
}

Result<std::vector<Spread>> measure(Communicator& comm, ThreadPool& pool, Site& site, const BenchFlags& flags) {
  WEFT_ASSIGN(Barrier barrier, Barrier::create(comm));
  const auto call = [&](Exec& exec, int what, int routing) -> Status {
    if (what != 1) WEFT_TRY(site.dispatch(exec, routing));
    return what != 0 ? site.combine(exec, routing) : Status();
  };
  std::vector<std::vector<double>> micros(3);
  for (int sample = -1; sample < flags.samples; ++sample) {  // the first one warms up
    for (int what = 0; what < 3; ++what) {
      double seconds = 0;
      WEFT_TRY(pool.run([&](Exec& exec) -> Status {
        if (what == 1) WEFT_TRY(site.dispatch(exec, 0));  // combine alone uses one routing
        WEFT_TRY(barrier.run(exec));
        const auto start = Clock::now();
        for (int i = 0; i < flags.repeats; ++i) WEFT_TRY(call(exec, what, what == 1 ? 0 : i % kRoutings));
        if (exec.thread() == 0) seconds = seconds_since(start);
        return {};
      }));
      WEFT_ASSIGN(const auto all, comm.exchange(u64(seconds * 1e9)));
      if (sample >= 0) {
        micros[size_t(what)].push_back(double(*std::max_element(all.begin(), all.end())) / 1e3 / flags.repeats);
      }
    }
  }
  std::vector<Spread> spreads;
  for (const auto& values : micros) spreads.push_back(spread_of(values));
  return spreads;
}

// `mean_rows`: rows that a rank sends by dispatch, on average; by combine it sends as many sums as rows came to it.
void report(const BenchFlags& flags, int ranks, double mean_rows, const std::vector<Spread>& spreads) {
  const ep::CheckCase check = *flags.check_case();
  const i64 scales = check.scale_block > 0 ? (flags.hidden + check.scale_block - 1) / check.scale_block : 0;
  const i64 x_row = dtype_bytes(check.x_dtype, flags.hidden) + scales * i64(sizeof(float));
  const i64 y_row = dtype_bytes(check.out_dtype, flags.hidden);
  const double bytes[] = {mean_rows * double(x_row), mean_rows * double(y_row), mean_rows * double(x_row + y_row)};
  const bool counted = flags.combine == "pre_reduced" && flags.dp_size == 1;
  constexpr const char* kNames[] = {"dispatch", "combine", "pair"};
  nlohmann::ordered_json out = {{"bench", "all_to_all"},
                                {"device", flags.device},
                                {"ranks", ranks},
                                {"threads", flags.threads},
                                {"tokens", flags.tokens},
                                {"experts", flags.experts},
                                {"top_k", flags.top_k},
                                {"hidden", flags.hidden},
                                {"dtype", flags.dtype},
                                {"out_dtype", flags.out_dtype},
                                {"combine_mode", flags.combine},
                                {"dp_size", flags.dp_size},
                                {"routing", flags.routing},
                                {"map", flags.map},
                                {"samples", flags.samples}};
  if (!flags.json) {
    fmt::print(
        "{} ranks{}, {} tokens, {} experts, top-{}, hidden {}, {} / {}, combine {}, {}; checked; "
        "slowest rank, median (min - max) of {}\n",
        ranks, flags.device == "cuda" ? " on GPUs" : fmt::format(" x {} threads", flags.threads), flags.tokens,
        flags.experts, flags.top_k, flags.hidden, flags.dtype, flags.out_dtype, flags.combine, flags.routing,
        flags.samples);
  }
  for (int what = 0; what < 3; ++what) {
    const Spread& s = spreads[size_t(what)];
    const double rate = bytes[what] / s.median / 1e3;
    out[kNames[what]] = {{"us", {{"median", s.median}, {"min", s.low}, {"max", s.high}}}};
    if (counted) out[kNames[what]].update({{"bytes_sent_per_rank", bytes[what]}, {"gb_per_s_per_rank", rate}});
    if (flags.json) continue;
    fmt::print("  {:<10}{:>10.1f} us  ({:.1f} - {:.1f})", kNames[what], s.median, s.low, s.high);
    counted ? fmt::print("  {:>12.0f} bytes sent per rank, {:.2f} GB/s\n", bytes[what], rate) : fmt::print("\n");
  }
  if (flags.json) fmt::print("{}\n", out.dump());
  std::fflush(stdout);
}

// Checks one call of each routing, then measures.
Status bench(const BenchFlags& flags, Communicator& comm, ThreadPool& pool) {
  WEFT_ASSIGN(const ep::CheckCase check, flags.check_case());
  {
    WEFT_ASSIGN(ep::SelfCheck self, ep::SelfCheck::create(comm, check));
    for (int r = 0; r < 2; ++r) WEFT_TRY(self.run(pool, u64(r)).status());
  }
  WEFT_ASSIGN(Site site, make_site(comm, flags));
  WEFT_ASSIGN(const auto spreads, measure(comm, pool, site, flags));
  WEFT_ASSIGN(const auto rows, comm.exchange(u64(site.sent_rows)));
  double mean_rows = 0;
  for (const u64 r : rows) mean_rows += double(r) / comm.size();
  if (comm.rank() == 0) report(flags, comm.size(), mean_rows, spreads);
  return {};
}

Status bench_on_gpu(const BenchFlags& flags, World& world, std::chrono::nanoseconds deadline) {
#if defined(WEFT_HAVE_CUDA)
  WEFT_ASSIGN(ep::CheckCase check, flags.check_case());
  WEFT_ASSIGN(const auto times, ep::time_cuda_all_to_all(world, check, flags.samples, flags.repeats, deadline));
  if (world.rank() != 0) return {};
  std::vector<Spread> spreads;
  for (const auto& us : times.us) spreads.push_back(spread_of(us));
  ep::AllToAllShape& s = check.shape;
  s.world_size = world.size();
  double mean_rows = 0;
  for (s.rank = 0; s.rank < s.world_size; ++s.rank) {
    const auto indices = ep::make_indices(s, check.routing, 0, s.rank / s.dp_size, s.max_num_tokens);
    mean_rows += double(sent_rows(s, indices)) / s.world_size;
  }
  report(flags, world.size(), mean_rows, spreads);
  return {};
#else
  (void)flags, (void)world, (void)deadline;
  return error(Code::kUnimplemented, "--device cuda: this build has no CUDA (configure with -DWEFT_CUDA=ON)");
#endif
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  CLI::App app("bench_all_to_all: how long dispatch and combine of expert parallelism take");
  weft::BenchFlags flags;
  flags.declare(app);
  app.add_option("--samples", flags.samples, "Times that each is measured, in turn")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--repeats", flags.repeats, "Calls of one sample")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  return weft::all_to_all_main(app, argc, argv, [&] {
    return weft::run_all_to_all_ranks(
        flags, {.cpu = [&](weft::Communicator& comm, weft::ThreadPool& pool) { return weft::bench(flags, comm, pool); },
                .cuda = [&](weft::World& world, auto deadline) { return weft::bench_on_gpu(flags, world, deadline); }});
  });
}
