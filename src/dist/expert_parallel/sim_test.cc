// Dispatch and combine on the sim machine: every row, map and sum against the oracle, planted faults found.
#include "dist/exchange/sim_testing.h"
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
template <bool kExact, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 6;
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
  SymmetricLayout layout;
  Buffers b;
  const auto flags = [&](i64 per_source) {
    return FlagTable{{u64(layout.reserve<u32>(ranks * per_source))}, per_source};
  };
  b.routing_pitch = kFlagsPerLine;
  b.x_pitch = kRow * 4;
  b.scale_pitch = 16;
  b.part_pitch = round_up(kHidden * 4, 16);
  b.dispatched = {u64(layout.reserve<EpochWord>(1))};
  b.combined = {u64(layout.reserve<EpochWord>(1))};
  b.routed = flags(kFlagsPerLine);
  b.weighed = flags(kFlagsPerLine);
  b.arrived = flags(kMaxTiles);
  b.returned = flags(l.dp_size * kMaxTiles);
  b.headers = {u64(layout.reserve<std::byte>(2 * ranks * kFlagLineBytes))};
  b.indices = {u64(layout.reserve<i32>(2 * ranks * b.routing_pitch))};
  b.weights = {u64(layout.reserve<float>(2 * ranks * b.routing_pitch))};
  b.x = {u64(layout.reserve<std::byte>(2 * l.rows() * b.x_pitch))};
  b.scales = {u64(layout.reserve<std::byte>(2 * l.rows() * b.scale_pitch))};
  b.parts = {u64(layout.reserve<std::byte>(2 * l.parts() * l.max_tokens * b.part_pitch))};
  SimOptions options = sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1);
  SimWorld world(options);
  for (const sym<EpochWord> word : {b.dispatched, b.combined}) world.set_word(word.offset, start_epoch(seed));
  for (const FlagTable& table : {b.routed, b.weighed, b.arrived, b.returned}) {
    start_flags(world, table, ranks, start_epoch(seed));
  }

  const AllToAllShape shape{.max_num_tokens = kMostTokens, .num_experts = kExperts, .experts_per_token = kPerToken};
  const int groups = ranks / l.dp_size;
  const auto tokens_of = [&](int call, int group) {
    return (i64(seed) * 3 + call * 5 + group * 7) % (kMostTokens + 1);
  };
  const auto call_seed = [&](int call) { return seed * 16 + u64(call); };
  const auto combines = [&](int call) { return (seed + u64(call)) % 4; };
  const auto y_seed = [&](int call, size_t combine) { return call_seed(call) * 4 + combine; };
  std::vector<Own> own;
  for (int r = 0; r < ranks; ++r) own.emplace_back(l, options.ctas);
  std::vector<std::vector<std::vector<Origin>>> routed;  // [call][expert]
  std::vector<Tensors> all;                              // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    std::vector<std::vector<i32>> indices;
    for (int g = 0; g < groups; ++g) {
      indices.push_back(make_indices(shape, Routing::kMixed, call_seed(call), g, tokens_of(call, g)));
    }
    routed.push_back(route_reference(indices, kExperts, kPerToken, l.capacity));
    for (int r = 0; r < ranks; ++r) {
      Tensors& t = all.emplace_back();
      const int g = l.group(r);
      const Run mine = l.experts_of(r);
      t.bound = u32(tokens_of(call, g));
      t.indices = indices[size_t(g)];
      t.indices.resize(kMostTokens * kPerToken, 99);
      t.weights = make_weights(shape, call_seed(call), g, kMostTokens);
      for (i64 i = 0; i < kMostTokens * kRow; ++i) t.x.push_back(element(call_seed(call), g, i));
      for (i64 i = 0; i < kMostTokens * kScales; ++i) t.scales.push_back(element(call_seed(call), 100 + g, i));
      t.expert_x.resize(size_t(mine.size() * l.capacity * kRow));
      t.expert_scales.resize(size_t(mine.size() * l.capacity * kScales));
      t.counts.resize(size_t(mine.size()));
      t.map.resize(size_t(mine.size() * l.capacity));
      t.experts.resize(size_t(l.rows() * kPerToken));
      for (size_t c = 0; c < combines(call); ++c) {
        auto& y = t.y.emplace_back(size_t(mine.size() * l.capacity * kHidden), 0.0f / 0.0f);
        t.out.emplace_back(size_t(kMostTokens * kHidden));
        for (i64 e = mine.begin; e < mine.end; ++e) {
          const auto& rows = routed.back()[size_t(e)];
          for (i64 i = 0; i < i64(rows.size()) * kHidden; ++i) {
            const Origin& o = rows[size_t(i / kHidden)];
            y[size_t((e - mine.begin) * l.capacity * kHidden + i)] =
                y_value(y_seed(call, c), e, o.group, o.token, i % kHidden);
          }
        }
      }
    }
  }
  std::string wrong;
  const std::string found = world.run([&](SimMachine& m) {
    const Route& route = own[size_t(m.rank())].route;
    for (int call = 0; call < kCalls; ++call) {
      Tensors& t = all[size_t(call * ranks + m.rank())];
      const bool halves = (seed + u64(call)) % 2 == 0;  // with a kernel boundary between them
      const auto* x = reinterpret_cast<const std::byte*>(t.x.data());
      const auto* scales = reinterpret_cast<const std::byte*>(t.scales.data());
      const DispatchInput to{x, kRow * 4, scales, kScales * 4, t.indices.data(), kMostTokens, &t.bound};
      const DispatchOutput out{t.counts.data(), reinterpret_cast<std::byte*>(t.expert_x.data()),
                               reinterpret_cast<std::byte*>(t.expert_scales.data()), t.map.data(), t.experts.data()};
      u32 epoch = 0;
      dispatch_send<F>(m, l, b, to);
      if (halves && !m.end_call()) return;
      if (!dispatch_receive<F>(m, l, b, to, route, out, epoch) || !m.end_call()) return;
      // Who gathers by the map finds every row in the exchange.
      for (size_t place = 0; place < t.map.size() && m.cta() == 0 && m.lane() == 0; ++place) {
        if (i64(place) % l.capacity >= t.counts[place / size_t(l.capacity)]) continue;
        const i64 row = t.map[place];
        for (i64 i = 0; i < kRow; ++i) {
          const sym<std::byte> from = b.x_row(l, half_of<F>(epoch), int(row / l.source_tokens), row % l.source_tokens);
          const float gathered = m.get(from.template as<float>() + i);
          const float copied = t.expert_x[place * size_t(kRow) + size_t(i)];
          if (gathered != copied) wrong = differs("gathered", call, m.rank(), i64(place), copied, gathered);
        }
      }
      for (size_t c = 0; c < combines(call); ++c) {
        const CombineInput<float> from{t.y[c].data(), kHidden, false, t.indices.data(), t.weights.data(), kMostTokens};
        const auto sink = [&](i64 token, i64 i, const float* values, i64 count) {
          for (i64 e = 0; e < count; ++e) t.out[c][size_t(token * kHidden + i + e)] = values[e];
        };
        if (!combine_send<float, F>(m, l, b, from, route)) return;
        if (halves && !m.end_call()) return;
        if (!combine_receive<float, F>(m, l, b, from, route, sink) || !m.end_call()) return;
      }
    }
  });
  if (!found.empty()) return found;
  if (!wrong.empty()) return wrong;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      const Tensors& t = all[size_t(call * ranks + r)];
      const Run mine = l.experts_of(r);
      for (i64 e = mine.begin; e < mine.end; ++e) {
        const auto& rows = routed[size_t(call)][size_t(e)];
        const i32 count = t.counts[size_t(e - mine.begin)];
        if (count != i32(rows.size())) return differs("count", call, r, e, float(rows.size()), float(count));
        for (i64 i = 0; i < count; ++i) {
          const i64 place = (e - mine.begin) * l.capacity + i, token = rows[size_t(i)].token;
          const int group = rows[size_t(i)].group;
          for (i64 c = 0; c < kRow; ++c) {
            const float expected = element(call_seed(call), group, token * kRow + c);
            const float value = t.expert_x[size_t(place * kRow + c)];
            if (expected != value) return differs("x", call, r, place, expected, value);
          }
          for (i64 c = 0; c < kScales; ++c) {
            const float expected = element(call_seed(call), 100 + group, token * kScales + c);
            const float value = t.expert_scales[size_t(place * kScales + c)];
            if (expected != value) return differs("scale", call, r, place, expected, value);
          }
        }
      }
      std::vector<bool> kept(kMostTokens * kPerToken);
      for (const auto& rows : routed[size_t(call)]) {
        for (const Origin& o : rows) {
          if (o.group == l.group(r)) kept[size_t(o.token * kPerToken + o.choice)] = true;
        }
      }
      for (size_t c = 0; c < combines(call); ++c) {
        for (i64 i = 0; i < i64(t.bound) * kHidden; ++i) {
          const float expected = expected_sum(l, t, y_seed(call, c), l.group(r), i / kHidden, i % kHidden, kept);
          const float value = t.out[c][size_t(i)];
          if (expected != value) return differs("sum", call, r, i, expected, value);
        }
      }
    }
  }
  return {};
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
