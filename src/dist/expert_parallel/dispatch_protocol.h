// Dispatch: tokens travel to the ranks of their experts, one copy per (token, rank).
//
// A source sends every rank its routing (header and indices) under one flag, then the rows that this rank's experts
// want, to the place that the token's number gives, under a flag per tile of tokens. Sending waits for nothing. A
// receiver that has everybody's routing counts through it in the order of rows; so a pair's place among its expert's
// rows is known without atomics or messages, and is the same in every run. No flag is reset and no CTA waits for
// another one: every CTA counts for itself.
#pragma once
#include "comm/machine/fault.h"
#include "dist/expert_parallel/layout.h"

namespace weft::ep {

struct DispatchInput {
  const std::byte* x;       // this rank's group's tokens
  i64 x_stride;             // bytes from row to row
  const std::byte* scales;  // null without scales
  i64 scale_stride;
  const i32* indices;  // [tokens, per_token]
  i64 tokens;
  const u32* bound;  // null, or: only so many tokens
};

// Where things go; null = not wanted.
struct DispatchOutput {
  i32* counts;        // [local experts]
  std::byte* x;       // [local experts, capacity] rows
  std::byte* scales;  // the same
  i32* row_map;       // [local experts, capacity]: which row of the exchange each of them is
  i32* row_experts;   // [rows(), per_token]: the local experts of each row of the exchange, or kNoExpert
};

// How many tokens a group really sends.
struct Bounded {
  i64 tokens, refused;
};
WEFT_HD Bounded bounded(const DispatchInput& in, const Layout& l) {
  const i64 wanted = in.bound != nullptr ? i64(*in.bound) : in.tokens;
  const i64 most = in.tokens < l.max_tokens ? in.tokens : l.max_tokens;
  return {wanted < most ? wanted : most, wanted > most ? wanted - most : 0};
}

template <Fault F = Fault::kNone, class M>
WEFT_HD void dispatch_send(M& m, const Layout& l, const Buffers& b, const DispatchInput& in) {
  const u32 epoch = m.epoch(b.dispatched);
  const int half = half_of<F>(epoch), self = m.rank();
  const Bounded group = bounded(in, l);
  const Run run = l.run_of(self, group.tokens);
  const i32* indices = in.indices + run.begin * l.per_token;
  if (m.cta() == 0) {
    peers(m, [&](int p) {
      if (run.size() > 0) {
        m.put_bytes(b.routing_of(l, b.indices, half, self).template as<std::byte>(), p, indices,
                    run.size() * l.per_token * i64(sizeof(i32)));
      }
      if (m.lane() == 0) m.put(b.header_of(l, half, self), p, u64(group.tokens) | u64(group.refused) << 32);
      stores_done<F>(m);
      if (m.lane() == 0) {
        signal<F>(m, b.routed.at(self, 0), p, epoch);
        m.flush(p);
      }
    });
  }
  const auto wanted_by = [&](i64 token, int p) {
    for (i64 j = 0; j < l.per_token; ++j) {
      const i32 index = indices[token * l.per_token + j];
      if (l.is_expert(index) && l.rank_of(index) == p) return true;
    }
    return false;
  };
  const Tiles tiles = l.tiles(run.size());
  peers(m, [&](int p) {
    m.tiles(tiles.count, [&](i64 first, i64 last) {
      for (i64 t = tiles.begin(first); t < tiles.end(last - 1); ++t) {
        if (!wanted_by(t, p)) continue;
        m.put_bytes(b.x_row(l, half, self, t), p, in.x + (run.begin + t) * in.x_stride, l.x_bytes);
        if (in.scales != nullptr) {
          m.put_bytes(b.scale_row(l, half, self, t), p, in.scales + (run.begin + t) * in.scale_stride, l.scale_bytes);
        }
      }
      stores_done<F>(m);
      if (m.lane() == 0) {
        for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(self, tile), p, epoch);
        m.flush(p);
      }
      return true;
    });
  });
}

// Tokens of a source's group and those refused, as it said; of this rank from its own input.
template <class M>
WEFT_HD Bounded heard_tokens(M& m, const Layout& l, const Buffers& b, const DispatchInput& in, int half, int source) {
  if (source == m.rank()) return bounded(in, l);
  const u64 header = m.get(b.header_of(l, half, source));
  const i64 tokens = i64(header & 0xffffffff);
  return {tokens < l.max_tokens ? tokens : l.max_tokens, i64(header >> 32)};
}

// Counts through the routing of all in the order of rows, and notes the places of this CTA's share of each source's
// rows. Lanes share the experts, so that none of them waits for another.
template <class M>
WEFT_HD void count_places(M& m, const Layout& l, const Buffers& b, const DispatchInput& in, const Route& route,
                          int half, Report& report) {
  const int self = m.rank();
  const Run mine = l.experts_of(self);
  i64* counters = route.counters + m.cta() * route.counter_pitch;
  const auto counted_here = [&](i64 expert) { return expert % m.lanes() == m.lane(); };
  each_lane(m, l.experts, [&](i64 e) { counters[e] = 0; });
  report = {0, 0, 0, 0, -1, 0, 0, -1, -1};
  i64 first_of_group = 0;
  for (int source = 0; source < l.ranks; ++source) {
    const Bounded group = heard_tokens(m, l, b, in, half, source);
    if (l.member(source) == 0) {
      first_of_group = group.tokens;
      report.refused_tokens += group.refused;
      if (group.refused > 0 && report.refusing_rank < 0) report.refusing_rank = source;
    } else if (group.tokens != first_of_group && report.odd_member < 0) {
      report.odd_member = source;
    }
    const Run run = l.run_of(source, group.tokens), share = split_run(run.size(), m.ctas(), m.cta());
    const sym<i32> theirs = b.routing_of(l, b.indices, half, source);
    const i32* own = in.indices + run.begin * l.per_token;
    i32* places = route.places + source * l.source_tokens * l.per_token;
    const i64 noted_begin = share.begin * l.per_token, noted_end = share.end * l.per_token;
    for (i64 i = 0; i < run.size() * l.per_token; ++i) {
      const i32 index = source == self ? own[i] : m.get(theirs + i);
      const bool noted = i >= noted_begin && i < noted_end;
      if (!l.is_expert(index)) {
        if (noted && m.lane() == 0) places[i] = kElsewhere;
        if (index != kNoExpert && report.bad_source < 0) {
          report.bad_source = source;
          report.bad_index = index;
        }
      } else if (counted_here(index)) {
        const i64 before = counters[index]++;
        if (!noted) continue;
        const bool here = index >= mine.begin && index < mine.end;
        const i32 place = before < l.capacity ? i32((index - mine.begin) * l.capacity + before) : kDropped;
        places[i] = here ? place : kElsewhere;
      }
    }
    if (m.cta() == 0 && m.lane() == 0) route.tokens[source] = group.tokens;
  }
  m.sync();
}

// What CTA 0 tells: counts, where the experts' rows begin, and what was found wrong.
template <class M>
WEFT_HD void tell_counts(M& m, const Layout& l, const Route& route, const DispatchOutput& out, u32 epoch,
                         Report& report) {
  const Run mine = l.experts_of(m.rank());
  const i64* counters = route.counters;
  if (m.lane() != 0) return;
  i64 begin = 0;
  for (i64 e = 0; e < l.experts; ++e) {
    const i64 came = counters[e], kept = came < l.capacity ? came : l.capacity;
    if (came > kept) {
      if (report.dropped == 0) {
        report.expert = i32(e);
        report.expert_rows = came;
      }
      report.dropped += came - kept;
    }
    if (e < mine.begin || e >= mine.end) continue;
    route.begins[e - mine.begin] = i32(begin);
    if (out.counts != nullptr) out.counts[e - mine.begin] = i32(kept);
    begin += kept;
  }
  route.begins[mine.size()] = i32(begin);
  report.dropped_so_far = route.reports[(epoch - 1) & 1].dropped_so_far + report.dropped;
  route.reports[epoch & 1] = report;
}

// False = the communicator failed. `epoch`: the number of the call, for its report.
template <Fault F = Fault::kNone, class M>
WEFT_HD bool dispatch_receive(M& m, const Layout& l, const Buffers& b, const DispatchInput& in, const Route& route,
                              const DispatchOutput& out, u32& epoch) {
  epoch = m.epoch(b.dispatched);
  const int half = half_of<F>(epoch), self = m.rank();
  const u32 call = epoch;
  if (!peers_until(m, [&](int p) { return hear<F>(m, b.routed.at(p, 0), p, call); })) return false;
  Report report;
  count_places(m, l, b, in, route, half, report);
  if (m.cta() == 0) tell_counts(m, l, route, out, epoch, report);
  for (int d = 0; d < l.ranks; ++d) {  // the own rows first: the others' have time to arrive
    const int source = self + d < l.ranks ? self + d : self + d - l.ranks;
    const Run run = l.run_of(source, heard_tokens(m, l, b, in, half, source).tokens);
    const Run share = split_run(run.size(), m.ctas(), m.cta());
    i64 heard = -1;  // tile
    for (i64 t = share.begin; t < share.end; ++t) {
      if (source != self && F != Fault::kOnlySelf && t / l.tile_tokens != heard) {
        heard = t / l.tile_tokens;
        if (!hear<F>(m, b.arrived.at(source, heard), source, call)) return false;
      }
      const i64 row = source * l.source_tokens + t;
      const i32* places = route.places + row * l.per_token;
      const std::byte* x = in.x + (run.begin + t) * in.x_stride;
      const std::byte* scales = in.scales + (in.scales != nullptr ? (run.begin + t) * in.scale_stride : 0);
      bool here = false;
      for (i64 j = 0; j < l.per_token; ++j) {
        const i64 place = places[j];
        if (out.row_experts != nullptr && m.lane() == 0) {
          out.row_experts[row * l.per_token + j] = place >= 0 ? i32(place / l.capacity) : kNoExpert;
        }
        if (place < 0) continue;
        here = true;
        if (out.row_map != nullptr && m.lane() == 0) out.row_map[place] = i32(row);
        if (out.x != nullptr) {
          std::byte* to = out.x + place * l.x_bytes;
          source == self ? m.copy_bytes(to, x, l.x_bytes) : m.get_bytes(to, b.x_row(l, half, source, t), l.x_bytes);
        }
        if (out.scales != nullptr) {
          std::byte* to = out.scales + place * l.scale_bytes;
          source == self ? m.copy_bytes(to, scales, l.scale_bytes)
                         : m.get_bytes(to, b.scale_row(l, half, source, t), l.scale_bytes);
        }
      }
      // Who gathers by the map finds the own rows where the others' are.
      if (here && source == self && (out.row_map != nullptr || out.row_experts != nullptr)) {
        m.put_bytes(b.x_row(l, half, self, t), self, x, l.x_bytes);
        if (in.scales != nullptr) m.put_bytes(b.scale_row(l, half, self, t), self, scales, l.scale_bytes);
      }
    }
    if (out.row_experts != nullptr) {  // rows that nobody uses
      const Run unused = split_run((l.source_tokens - run.size()) * l.per_token, m.ctas(), m.cta());
      i32* rest = out.row_experts + (source * l.source_tokens + run.size()) * l.per_token;
      each_lane(m, unused.size(), [&](i64 i) { rest[unused.begin + i] = kNoExpert; });
    }
  }
  finish(m, b.dispatched, epoch);
  return true;
}

}  // namespace weft::ep
