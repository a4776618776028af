// The credit behind the GPUs' buffers, on the sim machine: slots of two halves, which their reader clears; who writes
// what depends on the call, and nobody hears from a peer that sends him nothing but by the credit. A rank tells every
// peer, by a release, that a call has begun, and hears it from all, by an acquire, before the call ends.
#include "base/mix.h"
#include "dist/exchange/sim_testing.h"

namespace weft::ep {
namespace {
using namespace testing;

constexpr int kSlots = 5, kCalls = 12;  // slots: for each source

template <Fault F>
class CreditTrial {
 public:
  CreditTrial(int ranks, u64 seed) : ranks_(ranks), seed_(seed) {}

  // What went wrong, or empty.
  std::string run() {
    SymmetricLayout layout;
    finished_ = {u64(layout.reserve<EpochWord>(1))};
    begun_ = {u64(layout.reserve<u32>(ranks_ * kFlagsPerLine))};
    slots_ = {u64(layout.reserve<BareWords>(2 * ranks_ * kSlots))};
    SimWorld world(sim_options(ranks_, seed_, layout.bytes()));
    world.set_word(finished_.offset, start_epoch(seed_));
    for (int r = 0; r < ranks_; ++r) world.set_word(begun_at(r).offset, start_epoch(seed_));
    const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) { return exchange(m, call); });
    return found.empty() ? wrong_ : found;
  }

 private:
  // A third of all slots; of some ranks nothing, and of rank 0 seldom anything.
  bool sends(int call, int source, int target, int slot) const {
    const u64 pick = mix64(mix64(seed_ * 64 + u64(call)) + u64((source * 8 + target) * 8 + slot));
    return source != target && pick % 3 == 0 && (pick >> 8) % 8 >= (source == 0 ? 7u : 0u);
  }
  BareWords words(int call, int source, int target, int slot) const {
    BareWords all;
    for (u32 i = 0; i < 4; ++i)
      all.words[i] = 1 | u32(mix64(u64(call * 512 + source * 64 + target * 8 + slot) * 4 + i));
    return all;
  }
  sym<u32> begun_at(int source) const { return begun_ + source * kFlagsPerLine; }
  sym<BareWords> slot_at(u32 epoch, int source, int slot) const {
    return slots_ + ((half_of<F>(epoch) * ranks_ + source) * kSlots + slot);
  }

  bool exchange(SimMachine& m, int call) {
    const u32 epoch = m.epoch(finished_);
    const int self = m.rank(), step = m.ctas() * m.lanes(), first = m.cta() * m.lanes() + m.lane();
    const bool herald = m.cta() == 0 && m.lane() == 0;
    if (herald)
      for (int p = 0; p < ranks_; ++p)
        if (p != self) m.raise(begun_at(self), p, epoch);
    for (int p = 0; p < ranks_; ++p) {
      for (int slot = first; slot < kSlots; slot += step)
        if (sends(call, self, p, slot)) m.put_words(slot_at(epoch, self, slot), p, words(call, self, p, slot));
      m.flush(p);
    }
    for (int source = 0; source < ranks_; ++source) {
      for (int slot = first; slot < kSlots; slot += step) {
        if (!sends(call, source, self, slot)) continue;
        BareWords came[1];
        if (!m.take_words(came, epoch, [&](int) { return slot_at(epoch, source, slot); }, [&](int) { return source; }))
          return false;
        const BareWords expected = words(call, source, self, slot);
        if (std::memcmp(&came[0], &expected, sizeof expected) != 0 && wrong_.empty())
          wrong_ =
              fmt::format("call {}: slot {} of rank {} at rank {}: another call's words", call, slot, source, self);
        m.empty_words(slot_at(epoch, source, slot));
      }
    }
    if (herald && F != Fault::kNoCredit)
      for (int p = 0; p < ranks_; ++p)
        if (p != self && !m.await_when(begun_at(p), p, epoch, [&](u32 seen) { return epoch_reached(seen, epoch); }))
          return false;
    finish(m, finished_, epoch);
    return true;
  }

  const int ranks_;
  const u64 seed_;
  sym<EpochWord> finished_;
  sym<u32> begun_;
  sym<BareWords> slots_;
  std::string wrong_;
};

template <Fault F = Fault::kNone>
std::string credit_trial(int ranks, u64 seed) {
  return CreditTrial<F>(ranks, seed).run();
}

TEST(ExpertCreditSim, Clean) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(credit_trial<>);
}

TEST(ExpertCreditSim, PlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_found("no credit", credit_trial<Fault::kNoCredit>);
  expect_found("single buffer", credit_trial<Fault::kSingleBuffer>);
}

}  // namespace
}  // namespace weft::ep
