// Dispatch and combine on the sim machine: every row, map and sum against the oracle, planted faults found.
#include <limits>

#include "dist/exchange/sim_testing.h"
#include "dist/expert_parallel/plan.h"
#include "dist/expert_parallel/protocol.h"
#include "dist/expert_parallel/reference.h"
#include "dist/expert_parallel/selfcheck.h"

namespace weft::ep {
namespace {
using namespace testing;

constexpr i64 kHidden = 6, kExperts = 7, kPerToken = 2, kMostTokens = 5, kRow = 8, kScales = 3;

// One rank's own memory.
struct Own {
  std::vector<i32> places, begins;
  std::vector<i64> tokens, counters;
  std::vector<Report> reports;
  Route route;
  Own(const Layout& l, int ctas)
      : places(size_t(l.rows() * l.per_token)),
        begins(size_t(l.experts + 1)),
        tokens(size_t(l.ranks)),
        counters(size_t(ctas * l.experts)),
        reports(2),
        route{places.data(), begins.data(), tokens.data(), counters.data(), reports.data(), l.experts} {}
};

// One rank's tensors in one call.
struct Tensors {
  std::vector<i32> indices;
  std::vector<float> x, scales, weights;
  std::vector<float> expert_x, expert_scales;
  std::vector<std::vector<float>> y, out;  // by combine
  std::vector<i32> counts, map, experts;
  u32 bound = 0;
};

float y_value(u64 seed, i64 expert, int group, i64 token, i64 h) {
  return element(seed, int(expert * 64 + group), token * kHidden + h);
}

// The sum in the order that the protocol promises, f32 all through.
float expected_sum(const Layout& l, const Tensors& own, u64 seed, int group, i64 token, i64 h,
                   const std::vector<bool>& kept) {
  const auto product = [&](i64 j) {
    const i32 expert = own.indices[size_t(token * kPerToken + j)];
    return kept[size_t(token * kPerToken + j)]
               ? own.weights[size_t(token * kPerToken + j)] * y_value(seed, expert, group, token, h)
               : 0.0f;
  };
  const auto rank_of = [&](i64 j) {
    const i32 expert = own.indices[size_t(token * kPerToken + j)];
    return l.is_expert(expert) ? l.rank_of(expert) : -1;
  };
  float sum = 0;
  if (l.exact) {
    for (i64 j = 0; j < kPerToken; ++j) sum += product(j);
    return sum;
  }
  for (int p = 0; p < l.ranks; ++p) {
    float part = 0;
    for (i64 j = 0; j < kPerToken; ++j) {
      if (rank_of(j) == p) part += product(j);
    }
    sum += part;
  }
  return sum;
}

// Dispatches with none to three combines each, so that either must hold without the other; all forms in turn.
template <bool kExact, Fault F>
class Trial {
 public:
  Trial(int ranks, u64 seed) : ranks_(ranks), seed_(seed), l_(layout(ranks, seed)) {
    for (int call = 0; call < kCalls; ++call) make_call(call);
  }
  // What went wrong, or empty.
  std::string run() {
    i64 bytes = 0;
    b_ = plan_buffers(l_, kHidden * 4, 0, &bytes);
    const SimOptions options = sim_options(ranks_, seed_, bytes, 1, F == Fault::kNoLaneBarrier ? 2 : 1);
    SimWorld world(options);
    for (const sym<EpochWord> word : {b_.dispatched, b_.combined}) world.set_word(word.offset, start_epoch(seed_));
    for (const FlagTable& table : {b_.routed, b_.weighed, b_.arrived, b_.returned}) {
      start_flags(world, table, ranks_, start_epoch(seed_));
    }
    for (int r = 0; r < ranks_; ++r) own_.emplace_back(l_, options.ctas);
    const std::string found = world.run([&](SimMachine& m) {
      for (int call = 0; call < kCalls; ++call) {
        if (!run_call(m, call)) return;
      }
    });
    if (!found.empty()) return found;
    for (int call = 0; call < kCalls; ++call) {
      for (int r = 0; r < ranks_ && wrong_.empty(); ++r) {
        check_rows(call, r);
        check_sums(call, r);
      }
    }
    return wrong_;
  }

 private:
  static constexpr int kCalls = 6;
  static Layout layout(int ranks, u64 seed) {
    Layout l;
    l.ranks = ranks;
    l.dp_size = seed % 4 == 3 && ranks % 2 == 0 ? 2 : 1;
    l.max_tokens = kMostTokens;
    l.source_tokens = (kMostTokens + l.dp_size - 1) / l.dp_size;
    l.tile_tokens = 2;
    l.experts = kExperts;
    l.per_token = kPerToken;
    l.capacity = seed % 5 == 4 ? 3 : kMostTokens * (ranks / l.dp_size);
    l.hidden = kHidden;
    l.x_bytes = kRow * 4;
    l.scale_bytes = kScales * 4;
    l.exact = kExact;
    return l;
  }
  i64 tokens_of(int call, int group) const { return (i64(seed_) * 3 + call * 5 + group * 7) % (kMostTokens + 1); }
  u64 call_seed(int call) const { return seed_ * 16 + u64(call); }
  size_t combines(int call) const { return (seed_ + u64(call)) % 4; }
  u64 y_seed(int call, size_t combine) const { return call_seed(call) * 4 + combine; }
  Tensors& tensors(int call, int rank) { return all_[size_t(call * ranks_ + rank)]; }

  void make_call(int call) {
    const AllToAllShape shape{.max_num_tokens = kMostTokens, .num_experts = kExperts, .experts_per_token = kPerToken};
    std::vector<std::vector<i32>> indices;
    for (int g = 0; g < ranks_ / l_.dp_size; ++g) {
      indices.push_back(make_indices(shape, Routing::kMixed, call_seed(call), g, tokens_of(call, g)));
    }
    routed_.push_back(route_reference(indices, kExperts, kPerToken, l_.capacity));
    for (int r = 0; r < ranks_; ++r) {
      Tensors& t = all_.emplace_back();
      const int g = l_.group(r);
      const i64 places = l_.experts_of(r).size() * l_.capacity;
      t.bound = u32(tokens_of(call, g));
      t.indices = indices[size_t(g)];
      t.indices.resize(kMostTokens * kPerToken, 99);  // behind the bound: nobody may read them
      t.weights = make_weights(shape, call_seed(call), g, kMostTokens);
      for (i64 i = 0; i < kMostTokens * kRow; ++i) t.x.push_back(element(call_seed(call), g, i));
      for (i64 i = 0; i < kMostTokens * kScales; ++i) t.scales.push_back(element(call_seed(call), 100 + g, i));
      t.expert_x.resize(size_t(places * kRow));
      t.expert_scales.resize(size_t(places * kScales));
      t.counts.resize(size_t(l_.experts_of(r).size()));
      t.map.resize(size_t(places));
      t.experts.resize(size_t(l_.rows() * kPerToken));
      for (size_t c = 0; c < combines(call); ++c) {
        t.y.push_back(make_y(call, c, r));
        t.out.emplace_back(size_t(kMostTokens * kHidden));
      }
    }
  }
  std::vector<float> make_y(int call, size_t combine, int rank) const {
    const Run mine = l_.experts_of(rank);
    std::vector<float> y(size_t(mine.size() * l_.capacity * kHidden), std::numeric_limits<float>::quiet_NaN());
    for (i64 e = mine.begin; e < mine.end; ++e) {
      const auto& rows = routed_[size_t(call)][size_t(e)];
      for (i64 i = 0; i < i64(rows.size()) * kHidden; ++i) {
        const Origin& o = rows[size_t(i / kHidden)];
        y[size_t((e - mine.begin) * l_.capacity * kHidden + i)] =
            y_value(y_seed(call, combine), e, o.group, o.token, i % kHidden);
      }
    }
    return y;
  }

  bool run_call(SimMachine& m, int call) {
    const Route& route = own_[size_t(m.rank())].route;
    Tensors& t = tensors(call, m.rank());
    const bool halves = (seed_ + u64(call)) % 2 == 0;  // with a kernel boundary between them
    const auto* x = reinterpret_cast<const std::byte*>(t.x.data());
    const auto* scales = reinterpret_cast<const std::byte*>(t.scales.data());
    const DispatchInput to{x, kRow * 4, scales, kScales * 4, t.indices.data(), kMostTokens, &t.bound};
    const DispatchOutput out{t.counts.data(), reinterpret_cast<std::byte*>(t.expert_x.data()),
                             reinterpret_cast<std::byte*>(t.expert_scales.data()), t.map.data(), t.experts.data()};
    u32 epoch = 0;
    dispatch_send<F>(m, l_, b_, to);
    if (halves && !m.end_call()) return false;
    if (!dispatch_receive<F>(m, l_, b_, to, route, out, epoch) || !m.end_call()) return false;
    if (m.cta() == 0 && m.lane() == 0) check_gathered(m, call, epoch);
    for (size_t c = 0; c < combines(call); ++c) {
      const CombineInput<float> from{t.y[c].data(), kHidden, false, t.indices.data(), t.weights.data(), kMostTokens};
      const auto sink = [&](i64 token, i64 i, const float* values, i64 count) {
        for (i64 e = 0; e < count; ++e) t.out[c][size_t(token * kHidden + i + e)] = values[e];
      };
      if (!combine_send<float, F>(m, l_, b_, from, route)) return false;
      if (halves && !m.end_call()) return false;
      if (!combine_receive<float, F>(m, l_, b_, from, route, sink) || !m.end_call()) return false;
    }
    return true;
  }

  // Who gathers by the map finds every row in the exchange.
  void check_gathered(SimMachine& m, int call, u32 epoch) {
    const Tensors& t = tensors(call, m.rank());
    for (size_t place = 0; place < t.map.size(); ++place) {
      if (i64(place) % l_.capacity >= t.counts[place / size_t(l_.capacity)]) continue;
      const i64 row = t.map[place];
      const sym<std::byte> from = b_.x_row(l_, half_of<F>(epoch), int(row / l_.source_tokens), row % l_.source_tokens);
      for (i64 i = 0; i < kRow; ++i) {
        const float gathered = m.get(from.as<float>() + i), copied = t.expert_x[place * size_t(kRow) + size_t(i)];
        if (gathered != copied) wrong_ = differs("gathered", call, m.rank(), i64(place), copied, gathered);
      }
    }
  }
  void check_rows(int call, int rank) {
    const Tensors& t = tensors(call, rank);
    const Run mine = l_.experts_of(rank);
    const auto expect = [&](const char* what, i64 at, float expected, float value) {
      if (expected != value) wrong_ = differs(what, call, rank, at, expected, value);
    };
    for (i64 e = mine.begin; e < mine.end; ++e) {
      const auto& rows = routed_[size_t(call)][size_t(e)];
      expect("count", e, float(rows.size()), float(t.counts[size_t(e - mine.begin)]));
      for (i64 i = 0; i < i64(rows.size()); ++i) {
        const i64 place = (e - mine.begin) * l_.capacity + i, token = rows[size_t(i)].token;
        const int group = rows[size_t(i)].group;
        for (i64 c = 0; c < kRow; ++c) {
          expect("x", place, element(call_seed(call), group, token * kRow + c), t.expert_x[size_t(place * kRow + c)]);
        }
        for (i64 c = 0; c < kScales; ++c) {
          expect("scale", place, element(call_seed(call), 100 + group, token * kScales + c),
                 t.expert_scales[size_t(place * kScales + c)]);
        }
      }
    }
  }
  void check_sums(int call, int rank) {
    const Tensors& t = tensors(call, rank);
    const int group = l_.group(rank);
    std::vector<bool> kept(kMostTokens * kPerToken);
    for (const auto& rows : routed_[size_t(call)]) {
      for (const Origin& o : rows) {
        if (o.group == group) kept[size_t(o.token * kPerToken + o.choice)] = true;
      }
    }
    for (size_t c = 0; c < combines(call); ++c) {
      for (i64 i = 0; i < i64(t.bound) * kHidden; ++i) {
        const float expected = expected_sum(l_, t, y_seed(call, c), group, i / kHidden, i % kHidden, kept);
        const float value = t.out[c][size_t(i)];
        if (expected != value) wrong_ = differs("sum", call, rank, i, expected, value);
      }
    }
  }

  const int ranks_;
  const u64 seed_;
  const Layout l_;
  Buffers b_;
  std::vector<Own> own_;
  std::vector<std::vector<std::vector<Origin>>> routed_;  // [call][expert]
  std::vector<Tensors> all_;                              // [call * ranks + rank]
  std::string wrong_;
};

template <bool kExact, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  return Trial<kExact, F>(ranks, seed).run();
}

TEST(ExpertParallelSim, Clean) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<false>);
  expect_clean(trial<true>);
}

TEST(ExpertParallelSim, PlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_found("single buffer", trial<false, Fault::kSingleBuffer>);
  expect_found("exact, single buffer", trial<true, Fault::kSingleBuffer>);
  expect_found("no release", trial<false, Fault::kNoRelease>);
  expect_found("no acquire", trial<false, Fault::kNoAcquire>);
  expect_found("no lane barrier", trial<true, Fault::kNoLaneBarrier>);
  expect_found("does not wait for rows", trial<false, Fault::kOnlySelf>);
  expect_found("exact, equality wait", trial<true, Fault::kEqualityWait>);
}

}  // namespace
}  // namespace weft::ep
