// Tokens' sums over ranks without flags (words.h), made where they are sent: a rank's sums of an owner's tokens go from
// registers to the owner, who makes its own, adds ranks in rank order in fp32, and keeps the rounded result or sends it
// to all.
#pragma once
#include "dist/exchange/words.h"

namespace weft {

struct ExpertWords {
  sym<EpochWord> epoch;
  BareInbox inbox;  // rounded sums of a rank for an owner
  BareInbox sums;   // rounded results; only where all ranks get them
};

// As in_crews(), whose parts are as `shares` say.
template <class M, class... Roles>
WEFT_HD bool in_uneven_crews(M& m, const int (&shares)[sizeof...(Roles)], Roles&&... roles) {
  constexpr int kCrews = int(sizeof...(Roles));
  int begins[kCrews + 1] = {}, total = 0, before = 0;
  for (int i = 0; i < kCrews; ++i) total += shares[i];
  bool enough = true;
  for (int i = 0; i < kCrews; ++i) {
    before += shares[i];
    int end = m.lanes() * before / total;
    if (end > m.warp_size()) end -= end % m.warp_size();
    begins[i + 1] = i + 1 < kCrews ? end : m.lanes();
    enough = enough && begins[i + 1] > begins[i];
  }
  if (!enough) return (roles(Lanes{m.lane(), m.lanes()}) && ...);
  bool ok = true;
  int at = 0;
  const auto run = [&](auto&& role) {
    if (begins[at] <= m.lane() && m.lane() < begins[at + 1])
      ok = role(Lanes{m.lane() - begins[at], begins[at + 1] - begins[at]});
    ++at;
  };
  (run(roles), ...);
  return ok;
}

// hooks.sum(p, first, step, sums): this rank's rounded sums of the packs first, first + step ... of rank p's tokens,
// zeros behind its last; hooks.keep(p, pack, sums) takes results of rank p's tokens: `All`, of every rank, else of this
// one. packs: the most of any rank, the same on every rank. False = the communicator failed.
template <class T, bool All, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool sum_experts(M& m, const ExpertWords& b, i64 packs, const Hooks& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, m.ranks(), epoch, pack); };
  const auto result = [&](int source, i64 pack) { return b.sums.template at<F>(source, m.ranks(), epoch, pack); };
  const auto scatter = [&](const Lanes& crew) {
    return scatter_numbers<T, Hooks::kSumAhead>(
        m, crew, packs, place, [&](int p, i64 first, i64 step, auto& part) { hooks.sum(p, first, step, part); });
  };
  const auto sum = [&](const Lanes& crew) {
    return each_pack<Hooks::kSumAhead>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      Pack<T> own[decltype(count)::value];
      hooks.sum(m.rank(), first, step, own);
      const auto visit = [&](int, i64 pack, Pack<T> rounded) {
        if constexpr (All) {
          const BareWords bare = bare_numbers(rounded);
          put_to_all(m, result, pack, bare);
          rounded = numbers_of<T>(bare);
        }
        hooks.keep(m.rank(), pack, rounded);
      };
      if (!take_sums<T, F>(m, epoch, place, own, first, step, visit)) return false;
      if constexpr (All) flush_all(m);
      return true;
    });
  };
  const auto gather = [&](const Lanes& crew) {
    return gather_numbers<T, F>(m, crew, packs, epoch, result,
                                [&](int p, i64 pack, const Pack<T>& numbers) { hooks.keep(p, pack, numbers); });
  };
  // As the work is: a rank sums as much for each of the others as for itself.
  const int others = m.ranks() > 1 ? m.ranks() - 1 : 1;
  if constexpr (All) {
    if (!in_uneven_crews(m, {2 * others, 2, 1}, scatter, sum, gather)) return false;
  } else {
    if (!in_uneven_crews(m, {others, 1}, scatter, sum)) return false;
  }
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
