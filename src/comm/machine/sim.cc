#include "comm/machine/sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/mix.h"
#include "device/fibre.h"

namespace weft {

struct SimWorld::Lane {
  int rank, cta, lane;
  std::unique_ptr<Fibre> fibre;
  // What it waits for; null = nothing. The condition lies on the fibre's own stack.
  bool (*ready)(void*) = nullptr;
  void* condition = nullptr;
  const char* what = "";
};

SimWorld::SimWorld(const SimOptions& options) : options_(options) {
  WEFT_CHECK(options.ranks >= 1 && options.ctas >= 1 && options.lanes >= 1 && options.arena_bytes % 16 == 0);
  state_ = mix64(options.seed + 1);
  constexpr u32 kPaces[] = {2, 4, 16, 64};  // the last one drains almost only when everybody waits
  drain_one_in_ = kPaces[random(4)];
  slow_rank_ = random(2) == 0 ? int(random(u32(options.ranks))) : -1;
  contiguous_tiles_ = random(2) == 0;
  memory_.assign(size_t(options.ranks), std::vector<Word>(size_t(options.arena_bytes / 4)));
  ctas_.resize(size_t(options.ranks * options.ctas));
  for (Cta& cta : ctas_) cta.raised.assign(size_t(options.ranks), false);
  boundaries_.resize(size_t(options.ranks));
}

SimWorld::~SimWorld() = default;

u32 SimWorld::random(u32 below) {  // splitmix64
  state_ += 0x9e3779b97f4a7c15u;
  return u32(mix64(state_) >> 32) % below;
}

void SimWorld::set_word(u64 offset, u32 value) {
  for (int r = 0; r < options_.ranks; ++r) word(r, offset / 4).values[0] = value;
}

void SimWorld::commit(const Store& store, const Cta& by) {
  ++now_;
  for (int i = 0; i < store.count; ++i) {
    Word& w = word(store.target, store.word + u64(i));
    if (w.count == kHistory) {
      for (int j = 1; j < kHistory; ++j) {
        w.values[j - 1] = w.values[j];
        w.times[j - 1] = w.times[j];
        w.writers[j - 1] = w.writers[j];
      }
      --w.count;
    }
    w.values[w.count] = store.values[i] + (store.add ? w.values[w.count - 1] : 0);
    w.writers[w.count] = writer_of(by);
    w.times[w.count++] = now_;
  }
}

bool SimWorld::drain_from(Cta& cta) {
  constexpr size_t kWindow = 32;  // how far stores overtake one another
  if (cta.stores.empty()) return false;
  size_t free = 0;  // entries before the first release
  while (free < std::min(kWindow, cta.stores.size()) && !cta.stores[free].release) ++free;
  size_t pick = free == 0 ? 0 : random(u32(free));
  for (size_t earlier = 0; earlier < pick; ++earlier) {
    const Store& chosen = cta.stores[pick];
    if (cta.stores[earlier].touches(chosen.target, chosen.word, chosen.count)) pick = earlier;
  }
  commit(cta.stores[pick], cta);
  cta.stores.erase(cta.stores.begin() + i64(pick));
  return true;
}

bool SimWorld::drain_one() {
  const size_t first = random(u32(ctas_.size()));
  for (size_t i = 0; i < ctas_.size(); ++i) {
    if (drain_from(ctas_[(first + i) % ctas_.size()])) return true;
  }
  return false;
}

void SimWorld::fail(std::string what) {
  if (found_.empty()) found_ = std::move(what);
}

std::string SimWorld::waiting() const {
  std::string text;
  for (const auto& lane : lanes_) {
    if (lane->fibre->done() || lane->lane != 0) continue;
    text += fmt::format("{}rank {} cta {} {}", text.empty() ? "" : ", ", lane->rank, lane->cta, lane->what);
  }
  return text;
}

void SimWorld::resume(Lane& lane) {
  running_ = &lane;
  lane.fibre->resume();
  running_ = nullptr;
}

void SimWorld::yield() {
  running_->fibre->give_way();
}

template <class Ready>
bool SimWorld::wait(const char* what, Ready&& ready) {
  Lane& lane = *running_;
  while (found_.empty() && !ready()) {
    lane.condition = &ready;
    lane.ready = [](void* condition) { return (*static_cast<std::remove_reference_t<Ready>*>(condition))(); };
    lane.what = what;
    yield();
    lane.ready = nullptr;
  }
  return found_.empty();
}

SimWorld::Lane* SimWorld::make_lane(int index) {
  auto lane = std::make_unique<Lane>();
  lane->lane = index % options_.lanes;
  lane->cta = index / options_.lanes % options_.ctas;
  lane->rank = index / options_.lanes / options_.ctas;
  lane->fibre = std::make_unique<Fibre>([this, own = lane.get()] {
    SimMachine machine(*this, own->rank, own->cta, own->lane);
    (*body_)(machine);
  });
  lanes_.push_back(std::move(lane));
  return lanes_.back().get();
}

std::string SimWorld::run(const std::function<void(SimMachine&)>& body) {
  body_ = &body;
  std::vector<Lane*> live;
  for (int i = 0; i < options_.ranks * options_.ctas * options_.lanes; ++i) live.push_back(make_lane(i));
  const auto blocked = [&](Lane* lane) {
    return lane->ready != nullptr && found_.empty() && !lane->ready(lane->condition);
  };
  for (size_t idle = 0; !live.empty();) {
    if (random(drain_one_in_) == 0) drain_one();
    const size_t pick = random(u32(live.size()));
    Lane* lane = live[pick];
    if (lane->rank == slow_rank_ && random(8) != 0 && idle < live.size()) {
      ++idle;
      continue;
    }
    if (blocked(lane)) {
      if (++idle < 2 * live.size() || drain_one()) continue;
      if (std::all_of(live.begin(), live.end(), blocked)) fail("deadlock: " + waiting());
      continue;
    }
    idle = 0;
    resume(*lane);
    if (lane->fibre->done()) live.erase(live.begin() + i64(pick));
  }
  while (drain_one()) {
  }
  return found_;
}

void SimMachine::sync() {
  SimWorld::Cta& cta = here();
  const u32 round = cta.syncs;
  if (++cta.at_sync == lanes()) {
    cta.at_sync = 0;
    ++cta.syncs;
    return;
  }
  w_.wait("at a lane barrier", [&] { return cta.syncs != round; });
}

void SimMachine::store(u64 offset, int peer, const void* value, i64 bytes, bool release, bool add) {
  WEFT_CHECK(offset % 4 == 0 && i64(offset) + bytes <= w_.options_.arena_bytes, offset, bytes);
  SimWorld::Store store{peer, offset / 4, {}, int((bytes + 3) / 4), release, add};
  std::memcpy(store.values, value, size_t(bytes));
  here().stores.push_back(store);
  if (w_.random(4) == 0) w_.yield();
}

u32 SimMachine::load_word(u64 index, int peer) {
  SimWorld::Cta& cta = here();
  for (auto it = cta.stores.rbegin(); it != cta.stores.rend(); ++it) {  // its own stores are visible to it at once
    if (!it->add && it->touches(peer, index, 1)) return it->values[index - it->word];
  }
  const SimWorld::Word& w = w_.word(peer, index);
  int oldest = w.count - 1;
  while (oldest > 0 && w.times[oldest] > cta.acquired && w.writers[oldest] != w_.writer_of(cta)) --oldest;
  return w.values[oldest + int(w_.random(u32(w.count - oldest)))];
}

void SimMachine::load(void* value, u64 offset, i64 bytes, int peer) {
  auto* out = static_cast<std::byte*>(value);
  for (i64 i = 0; i < bytes;) {
    const u32 loaded = load_word((offset + u64(i)) / 4, peer);
    const i64 skip = i64((offset + u64(i)) % 4), n = std::min(4 - skip, bytes - i);
    std::memcpy(out + i, reinterpret_cast<const std::byte*>(&loaded) + skip, size_t(n));
    i += n;
  }
}

void SimMachine::put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes) {
  put_bytes(target, peer, source, bytes, {lane_, lanes()});
}

void SimMachine::put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes, Lanes lanes) {
  WEFT_CHECK(target.offset % 16 == 0, target.offset);
  for (i64 i = 16 * lanes.index; i < bytes; i += 16 * lanes.count) {
    store(target.offset + u64(i), peer, static_cast<const std::byte*>(source) + i, std::min<i64>(16, bytes - i), false);
  }
}

void SimMachine::get_bytes(void* target, sym<std::byte> source, i64 bytes) {
  get_bytes(target, source, bytes, rank_, {lane_, lanes()});
}

void SimMachine::get_bytes(void* target, sym<std::byte> source, i64 bytes, int peer, Lanes lanes) {
  for (i64 i = 16 * lanes.index; i < bytes; i += 16 * lanes.count) {
    load(static_cast<std::byte*>(target) + i, source.offset + u64(i), std::min<i64>(16, bytes - i), peer);
  }
}

void SimMachine::copy_bytes(void* target, const void* source, i64 bytes) {
  if (lane_ == 0 && bytes > 0 && target != source) std::memcpy(target, source, size_t(bytes));
}

void SimMachine::signal(sym<u32> flag, int peer, u32 epoch, bool release) {
  if (peer != rank_) here().raised[size_t(peer)] = true;
  store(flag.offset, peer, &epoch, sizeof epoch, release);
}

void SimMachine::send(sym<LlWord> target, int peer, u32 data, u32 epoch) {
  const u32 both[2] = {data, epoch};
  here().raised[size_t(peer)] = true;
  store(target.offset, peer, both, sizeof both, false);
}

void SimMachine::expect_flushed() {
  const auto& raised = here().raised;
  if (lanes() > 1) return;  // another lane may be about to flush
  for (int p = 0; p < ranks(); ++p) {
    if (raised[size_t(p)]) w_.fail(fmt::format("signal not flushed: rank {} to rank {}", rank_, p));
  }
}

bool SimMachine::await(sym<u32> flag, int, u32 epoch) {
  expect_flushed();
  const SimWorld::Word& word = w_.word(rank_, flag.offset / 4);
  if (!w_.wait("waits for a flag", [&] { return epoch_reached(word.newest(), epoch); })) return false;
  here().acquired = w_.now_;
  return true;
}

bool SimMachine::await_value(sym<u32> flag, const std::function<bool(u32)>& reached) {
  expect_flushed();
  const SimWorld::Word& word = w_.word(rank_, flag.offset / 4);
  if (!w_.wait("waits for a flag", [&] { return reached(word.newest()); })) return false;
  here().acquired = w_.now_;
  return true;
}

void SimMachine::fence() {
  SimWorld::Cta& cta = here();
  w_.wait("waits for its stores", [&] { return cta.stores.empty(); });
}

bool SimMachine::await_weakly(sym<u32> flag, int, u32 epoch) {
  const SimWorld::Word& word = w_.word(rank_, flag.offset / 4);
  return w_.wait("waits for a flag", [&] { return epoch_reached(word.newest(), epoch); });
}

bool SimMachine::await_equal(sym<u32> flag, int, u32 epoch) {
  const SimWorld::Word& word = w_.word(rank_, flag.offset / 4);
  if (!w_.wait("waits for a flag to equal", [&] { return word.newest() == epoch; })) return false;
  here().acquired = w_.now_;
  return true;
}

bool SimMachine::recv(sym<LlWord> source, int, u32 epoch, u32& data) {
  expect_flushed();
  const SimWorld::Word &payload = w_.word(rank_, source.offset / 4), &flag = w_.word(rank_, source.offset / 4 + 1);
  return w_.wait("waits for a word", [&] {
    data = payload.newest();
    return flag.newest() == epoch;
  });
}

void SimMachine::put_words(sym<BareWords> place, int peer, const BareWords& words) {
  here().raised[size_t(peer)] = true;
  for (u64 i = 0; i < 4; ++i) {
    if (words.words[i] == 0) w_.fail(fmt::format("an empty word: rank {} to rank {}", rank_, peer));
    store(place.offset + 4 * i, peer, &words.words[i], 4, false);
  }
}

bool SimMachine::take_words(sym<BareWords> place, BareWords& taken) {
  expect_flushed();
  return w_.wait("waits for words", [&] {
    bool all = true;
    for (u64 i = 0; i < 4; ++i) {
      taken.words[i] = w_.word(rank_, place.offset / 4 + i).newest();
      all = all && taken.words[i] != 0;
    }
    return all;
  });
}

void SimMachine::empty_words(sym<BareWords> place) {
  const BareWords none = {};
  store(place.offset, rank_, &none, sizeof none, false);
}

bool SimMachine::arrive(sym<EpochWord> word) {
  sync();
  SimWorld::Cta& cta = here();
  if (lane_ == 0) {
    w_.wait("waits for its stores", [&] { return cta.stores.empty(); });
    cta.acquired = w_.now_;
    SimWorld::Word& arrived = w_.word(rank_, word.offset / 4 + 1);
    cta.last = ++arrived.values[arrived.count - 1] == u32(ctas());
    if (cta.last) arrived.values[arrived.count - 1] = 0;
  }
  sync();
  return cta.last;
}

void SimMachine::advance(sym<EpochWord> word, u32 epoch) {
  SimWorld::Word& finished = w_.word(rank_, word.offset / 4);
  finished.values[finished.count - 1] = epoch;
}

bool SimMachine::end_call() {
  sync();
  if (lane_ == 0) {
    for (int p = 0; p < ranks(); ++p) {
      if (here().raised[size_t(p)]) w_.fail(fmt::format("signal not flushed: rank {} to rank {}", rank_, p));
    }
  }
  SimWorld::Boundary& boundary = w_.boundaries_[size_t(rank_)];
  SimWorld::Cta& cta = here();
  if (!w_.wait("waits for its stores", [&] { return cta.stores.empty(); })) return false;
  const u32 round = boundary.passed;
  if (++boundary.arrived == ctas() * lanes()) {
    boundary.arrived = 0;
    ++boundary.passed;
  } else if (!w_.wait("at a kernel boundary", [&] { return boundary.passed != round; })) {
    return false;
  }
  cta.acquired = w_.now_;  // what the rank itself wrote or acquired before
  return w_.found_.empty();
}

}  // namespace weft
