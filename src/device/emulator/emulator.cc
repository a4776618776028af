#include "device/emulator/emulator.h"

#include <fmt/format.h>

#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/divide.h"
#include "base/mix.h"
#include "device/emulator/async.h"
#include "device/emulator/language.h"
#include "device/fibre.h"

// Where kernels' variables of static shared memory stand; absent where there are none.
extern "C" {
extern __attribute__((weak)) std::byte __start_weft_cta_shared[];
extern __attribute__((weak)) std::byte __stop_weft_cta_shared[];
}

namespace weft::emulator {
namespace {

constexpr int kWarp = 32;
constexpr std::byte kGarbage{0xcd};
constexpr size_t kSharedAlignment = 1024;

struct Grid;
struct Cta;

struct Thread {
  Cta* cta;
  int index;
  std::unique_ptr<Fibre> fibre;
  const char* what = "";  // what it waits for
};

struct Warp {
  u64 values[2][kWarp];  // by parity of the turn: lanes read one while others give the next
  u32 turn = 0;
  const char* what = nullptr;  // of the turn that gathers
  std::vector<Thread*> gathered;
};

struct Store {
  std::byte* address;
  u64 value;
  int bytes;  // 0 = a fence
  bool release, add;
  int thread;
  u32 barrier;  // the CTA's barriers before it
  bool touches(const std::byte* other, int count) const { return address < other + count && other < address + bytes; }
};

// Something under way beside the threads.
struct Act {
  std::function<void()> run;
  const void* queue;
  bool uses_shared;
};

struct Cta {
  Grid* grid;
  int index, live;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<Thread*> at_barrier, at_cluster_barrier;
  u32 barriers = 0;
  bool allows_next = false;
  std::vector<std::byte> shared_memory, statics;
  std::byte* shared;  // dynamic, in shared_memory
  std::deque<Store> stores;
  std::deque<Act> acts;
  std::shared_ptr<void> extension;
  std::unordered_map<const std::byte*, int> under_way;  // stores by the 4-byte words that they touch
  void count(const Store& made, int by) {
    for (int i = 0; i < made.bytes; i += 4)
      if ((under_way[made.address + i] += by) == 0) under_way.erase(made.address + i);
  }
};

struct Grid {
  const Launch* launch;
  Grid* before;  // in its stream
  std::vector<std::unique_ptr<Cta>> ctas;
  bool started = false;
  int live = 0;                 // threads
  std::vector<Thread*> at_end;  // wait for the grid before

  bool complete() const {
    if (!started || live > 0) return false;
    for (const auto& cta : ctas)
      if (!cta->stores.empty() || !cta->acts.empty()) return false;
    return true;
  }
  bool may_start() const {
    if (started) return false;
    if (before == nullptr || before->complete()) return true;
    if (!launch->early || !before->started) return false;
    for (const auto& cta : before->ctas)
      if (cta->live > 0 && !cta->allows_next) return false;
    return true;
  }
};

class World {
 public:
  World(const std::vector<Launch>& launches, u64 seed) : state_(mix64(seed + 1)) {
    constexpr u32 kPaces[] = {512, 1, 32, 4};  // the first drains almost only when everybody waits
    pace_ = kPaces[seed % 4];
    int streams = 0;
    std::vector<Grid*> last;
    for (const Launch& launch : launches) {
      WEFT_CHECK(launch.ctas >= 1 && launch.threads >= 1 && launch.threads % kWarp == 0 && launch.stream >= 0,
                 launch.ctas, launch.threads);
      WEFT_CHECK(launch.cluster >= 1 && launch.ctas % launch.cluster == 0, launch.ctas, launch.cluster);
      streams = std::max(streams, launch.stream + 1);
      last.resize(size_t(streams), nullptr);
      grids_.push_back(std::make_unique<Grid>());
      grids_.back()->launch = &launch;
      grids_.back()->before = std::exchange(last[size_t(launch.stream)], grids_.back().get());
    }
    slow_ = random(2) == 0 ? int(random(u32(streams))) : -1;
  }

  std::string run() {
    while (found_.empty()) {
      if (random(pace_) == 0) drain_any();
      if (changed_ && random(64) == 0) wake_watchers();
      if (random(64) == 0) start_grids();
      if (ready_.empty() && !more()) break;
      if (ready_.empty()) continue;
      const size_t pick = random(u32(ready_.size()));
      if (ready_[pick]->cta->grid->launch->stream == slow_ && random(8) != 0 && ++spared_ < 1000) continue;
      spared_ = 0;
      Thread* thread = std::exchange(ready_[pick], ready_.back());
      ready_.pop_back();
      resume(*thread);
    }
    while (drain_any()) {
    }
    return found_;
  }

  const u64* meet(const char* what, u64 value) {
    Warp& warp = running_->cta->warps[size_t(running_->index / kWarp)];
    u64* values = warp.values[warp.turn % 2];
    values[running_->index % kWarp] = value;
    if (warp.gathered.empty()) warp.what = what;
    if (std::strcmp(warp.what, what) != 0) {
      std::string found = fmt::format("{}: lanes of warp {} meet at {} and at {}", place(*running_),
                                      running_->index / kWarp, warp.what, what);
      end(std::move(found));
    }
    if (warp.gathered.size() + 1 == kWarp) {
      ++warp.turn;
      make_ready(warp.gathered);
      return values;
    }
    warp.gathered.push_back(running_);
    give_way(what);
    return values;
  }
  void sync_threads() {
    Cta& cta = *running_->cta;
    if (int(cta.at_barrier.size()) + 1 == cta.live) {
      ++cta.barriers;
      make_ready(cta.at_barrier);
      return;
    }
    cta.at_barrier.push_back(running_);
    give_way("__syncthreads");
  }
  void sync_cluster() {
    running_->cta->at_cluster_barrier.push_back(running_);
    if (!open_cluster_barrier(*running_->cta)) give_way("barrier.cluster");
  }
  std::byte* in_cta(const void* mine, unsigned cta) {
    std::byte* const own = dynamic_shared();
    const auto offset = static_cast<const std::byte*>(mine) - own;
    Cta& other = *cluster_of(*running_->cta)[cta];
    WEFT_CHECK(offset >= 0 && size_t(offset) < dynamic_shared_bytes(), offset);
    if (other.live == 0)
      end(fmt::format("{}: shared memory of CTA {} of the cluster, which has ended", place(*running_), cta));
    return other.shared + offset;
  }
  void pause() {
    watchers_.push_back(running_);
    give_way("a word of another thread");
  }
  [[noreturn]] void end(std::string what) {
    found(std::move(what));
    for (;;) running_->fibre->give_way();
  }
  void found(std::string what) {
    if (found_.empty()) found_ = std::move(what);
  }
  u64 now_ns() const { return now_ns_; }
  std::byte* dynamic_shared() { return running_->cta->shared; }
  size_t dynamic_shared_bytes() const { return running_->cta->grid->launch->shared_bytes; }
  void wait_for_previous_grid() {
    Grid& grid = *running_->cta->grid;
    if (grid.before == nullptr || grid.before->complete()) return;
    grid.at_end.push_back(running_);
    give_way("the kernel before");
  }
  void launch_dependents() { running_->cta->allows_next = true; }

  // ---- async.h ----

  void later(Act act) {
    running_->cta->acts.push_back(std::move(act));
    ++under_way_;
  }
  void go_on(std::function<void()> act) {
    acting_->acts.push_back({std::move(act), nullptr, false});
    ++under_way_;
  }
  void sleep(const void* key, const char* what) {
    sleepers_[key].push_back(running_);
    give_way(what);
  }
  void wake(const void* key) {
    const auto found = sleepers_.find(key);
    if (found != sleepers_.end()) make_ready(found->second);
  }
  void fail(std::string what) {
    if (running_ != nullptr) end(std::move(what));
    found(std::move(what));
  }
  std::string here() const { return place(*running_); }
  void order() { ++(running_ != nullptr ? running_->cta : acting_)->barriers; }
  std::shared_ptr<void>& extension() { return running_->cta->extension; }

  void store(Store made) {
    Cta& cta = *running_->cta;
    made.thread = running_->index;
    made.barrier = cta.barriers;
    cta.stores.push_back(made);
    cta.count(made, 1);
    ++under_way_;
    if (random(16) == 0) again();
  }
  u64 load(const void* from, int bytes) {
    const auto* address = static_cast<const std::byte*>(from);
    Cta& cta = *running_->cta;
    bool maybe = false;
    for (int i = 0; i < bytes; i += 4) maybe |= cta.under_way.contains(address + i);
    for (size_t i = maybe ? cta.stores.size() : 0; i-- > 0;)
      if (cta.stores[i].thread == running_->index && cta.stores[i].touches(address, bytes)) {
        for (size_t count = i + 1; count > 0; --count) commit(cta, 0);
        break;
      }
    u64 value = 0;
    std::memcpy(&value, address, size_t(bytes));
    return value;
  }
  void flush() {
    Cta& cta = *running_->cta;
    while (!cta.stores.empty()) commit(cta, 0);
  }

 private:
  u32 random(u32 below) {  // splitmix64
    state_ += 0x9e3779b97f4a7c15u;
    return u32(mix64(state_) >> 32) % below;
  }
  static std::string place(const Thread& thread) {
    return fmt::format("stream {}, CTA {}, thread {}", thread.cta->grid->launch->stream, thread.cta->index,
                       thread.index);
  }

  // ---- threads ----

  void give_way(const char* what) {
    running_->what = what;
    running_->fibre->give_way();
  }
  void again() {
    ready_.push_back(running_);
    give_way("");
  }
  // The CTAs of this one's cluster.
  static std::span<const std::unique_ptr<Cta>> cluster_of(const Cta& cta) {
    const auto size = size_t(cta.grid->launch->cluster);
    return std::span(cta.grid->ctas).subspan(size_t(cta.index) / size * size, size);
  }
  // Once all live threads are at it, the running one among them.
  bool open_cluster_barrier(const Cta& of) {
    for (const auto& cta : cluster_of(of))
      if (int(cta->at_cluster_barrier.size()) < cta->live) return false;
    for (const auto& cta : cluster_of(of)) {
      std::erase(cta->at_cluster_barrier, running_);
      ++cta->barriers;
      make_ready(cta->at_cluster_barrier);
    }
    return true;
  }
  void make_ready(std::vector<Thread*>& threads) {
    ready_.insert(ready_.end(), threads.begin(), threads.end());
    threads.clear();
  }
  void wake_watchers() {
    changed_ = false;
    make_ready(watchers_);
  }
  void resume(Thread& thread) {
    Cta& cta = *thread.cta;
    running_ = &thread;
    enter(cta);
    threadIdx.x = unsigned(thread.index);
    thread.fibre->resume();
    running_ = nullptr;
    if (!thread.fibre->done()) return;
    thread.fibre.reset();
    --cta.grid->live;
    --cta.live;
    if (!cta.at_barrier.empty() && int(cta.at_barrier.size()) == cta.live) {
      ++cta.barriers;
      make_ready(cta.at_barrier);
    }
    if (cta.live == 0)
      for (const Act& act : cta.acts)
        if (act.uses_shared)
          found(fmt::format("{}: the CTA ends while its shared memory is copied or multiplied", place(thread)));
  }
  // The CTA's static shared memory and its numbers.
  void enter(Cta& cta) {
    if (inside_ == &cta) return;
    const auto size = size_t(__stop_weft_cta_shared - __start_weft_cta_shared);
    if (size > 0) {
      if (inside_ != nullptr) std::memcpy(inside_->statics.data(), __start_weft_cta_shared, size);
      cta.statics.resize(size, kGarbage);
      std::memcpy(__start_weft_cta_shared, cta.statics.data(), size);
    }
    inside_ = &cta;
    blockIdx.x = unsigned(cta.index);
    const Launch& launch = *cta.grid->launch;
    blockDim = {unsigned(launch.threads), 1, 1};
    gridDim = {unsigned(launch.ctas), 1, 1};
  }
  void start(Grid& grid) {
    const Launch& launch = *grid.launch;
    grid.started = true;
    grid.live = launch.ctas * launch.threads;
    const size_t skew = random(u32(kSharedAlignment / 16)) * 16;  // CUDA promises no more
    for (int c = 0; c < launch.ctas; ++c) {
      auto cta = std::make_unique<Cta>();
      cta->grid = &grid;
      cta->index = c;
      cta->live = launch.threads;
      cta->warps.resize(size_t(launch.threads / kWarp));
      cta->shared_memory.resize(launch.shared_bytes + 2 * kSharedAlignment, kGarbage);
      const auto begin = reinterpret_cast<uintptr_t>(cta->shared_memory.data());
      cta->shared = cta->shared_memory.data() + (round_up(begin, kSharedAlignment) - begin) + skew;
      for (int t = 0; t < launch.threads; ++t) {
        auto thread = std::make_unique<Thread>();
        thread->cta = cta.get();
        thread->index = t;
        thread->fibre = std::make_unique<Fibre>(launch.kernel);
        ready_.push_back(thread.get());
        cta->threads.push_back(std::move(thread));
      }
      grid.ctas.push_back(std::move(cta));
    }
  }

  // ---- memory ----

  void commit(Cta& cta, size_t which) {
    const Store made = cta.stores[which];
    cta.stores.erase(cta.stores.begin() + i64(which));
    cta.count(made, -1);
    --under_way_;
    if (made.bytes == 0) return;
    u64 value = made.value;
    if (made.add) {
      u64 before = 0;
      std::memcpy(&before, made.address, size_t(made.bytes));
      value += before;
    }
    std::memcpy(made.address, &value, size_t(made.bytes));
    changed_ = true;
  }
  // Whether the store may arrive before those that stand in front of it.
  static bool may_pass(const Cta& cta, size_t which) {
    const Store& made = cta.stores[which];
    for (size_t i = 0; i < which; ++i) {
      const Store& earlier = cta.stores[i];
      const bool ordered = earlier.thread == made.thread || earlier.barrier < made.barrier;
      if (ordered && (made.release || made.bytes == 0 || earlier.bytes == 0)) return false;
      if (made.bytes > 0 && earlier.touches(made.address, made.bytes)) return false;
    }
    return true;
  }
  bool drain(Cta& cta) {
    constexpr size_t kWindow = 64;  // how far stores overtake one another
    if (!cta.acts.empty() && (cta.stores.empty() || random(2) == 0)) {
      size_t pick = random(u32(cta.acts.size()));
      if (const void* queue = cta.acts[pick].queue; queue != nullptr)
        for (pick = 0; cta.acts[pick].queue != queue;) ++pick;
      const Act act = std::move(cta.acts[pick]);
      cta.acts.erase(cta.acts.begin() + i64(pick));
      --under_way_;
      acting_ = &cta;
      act.run();
      acting_ = nullptr;
      changed_ = true;
      return true;
    }
    if (cta.stores.empty()) return false;
    const size_t pick = random(u32(std::min(kWindow, cta.stores.size())));
    commit(cta, may_pass(cta, pick) ? pick : 0);
    return true;
  }
  bool drain_any() {
    if (under_way_ == 0) return false;
    const size_t grids = grids_.size(), first = random(u32(grids));
    for (size_t g = 0; g < grids; ++g) {
      Grid& grid = *grids_[(first + g) % grids];
      const size_t ctas = grid.ctas.size(), begin = ctas == 0 ? 0 : random(u32(ctas));
      for (size_t c = 0; c < ctas; ++c)
        if (drain(*grid.ctas[(begin + c) % ctas])) return true;
    }
    return false;
  }

  // What may begin, and what waited for the kernel before. False = all are complete.
  bool start_grids() {
    bool left = false;
    for (const auto& grid : grids_) {
      left |= !grid->complete();
      if (grid->may_start()) start(*grid);
      if (!grid->at_end.empty() && grid->before->complete()) make_ready(grid->at_end);
    }
    return left;
  }
  // Nobody is ready. False = the end.
  bool more() {
    if (!start_grids()) return false;
    if (!ready_.empty()) return true;
    if (changed_ && !watchers_.empty()) {
      wake_watchers();
      return true;
    }
    // One store or many, so that those who wait do not look after each.
    const u32 most = 1 + random(1u << random(12));
    u32 drained = 0;
    while (drained < most && drain_any()) ++drained;
    if (drained > 0) return true;
    // Time passes until deadlines expire, which kernels look at now and then.
    constexpr int kLooks = 10'000;
    if (!watchers_.empty() && ++stalls_ < kLooks) {
      now_ns_ += 1'000'000'000;
      wake_watchers();
      return true;
    }
    found_ = "deadlock";
    constexpr int kListed = 16;
    int waiting = 0;
    for (const auto& grid : grids_)
      for (const auto& cta : grid->ctas) {
        int listed = -1;  // warp
        for (const auto& thread : cta->threads)
          if (thread->fibre != nullptr && std::exchange(listed, thread->index / kWarp) != thread->index / kWarp &&
              ++waiting <= kListed)
            found_ += fmt::format(": {} waits for {}", place(*thread), thread->what);
      }
    if (waiting > kListed) found_ += fmt::format(": and {} warps more", waiting - kListed);
    return false;
  }

  u64 state_;
  u32 pace_;
  int slow_ = -1;  // a stream that is scheduled less often
  int spared_ = 0, stalls_ = 0;
  i64 under_way_ = 0;  // stores and acts of all CTAs
  u64 now_ns_ = 1;
  bool changed_ = false;  // memory, since watchers looked
  std::vector<std::unique_ptr<Grid>> grids_;
  std::vector<Thread*> ready_, watchers_;
  std::unordered_map<const void*, std::vector<Thread*>> sleepers_;
  Thread* running_ = nullptr;
  Cta* acting_ = nullptr;  // whose act runs
  Cta* inside_ = nullptr;
  std::string found_;
};

thread_local World* world = nullptr;

}  // namespace

std::string run(const std::vector<Launch>& launches, u64 seed) {
  World made(launches, seed);
  world = &made;
  std::string found = made.run();
  world = nullptr;
  return found;
}

const u64* meet(const char* what, u64 value) {
  return world->meet(what, value);
}
void sync_threads() {
  world->sync_threads();
}
void pause() {
  world->pause();
}
void trap() {
  world->end("trap");
}
u64 now_ns() {
  return world->now_ns();
}
std::byte* dynamic_shared() {
  return world->dynamic_shared();
}
void sync_cluster() {
  world->sync_cluster();
}
std::byte* in_cta(const void* mine, unsigned cta) {
  return world->in_cta(mine, cta);
}
void later(std::function<void()> act, const void* queue, bool uses_shared) {
  world->later({std::move(act), queue, uses_shared});
}
void go_on(std::function<void()> act) {
  world->go_on(std::move(act));
}
void sleep(const void* key, const char* what) {
  world->sleep(key, what);
}
void wake(const void* key) {
  world->wake(key);
}
void fail(std::string what) {
  world->fail(std::move(what));
}
std::string here() {
  return world->here();
}
void order() {
  world->order();
}
size_t dynamic_shared_bytes() {
  return world->dynamic_shared_bytes();
}
std::shared_ptr<void>& extension() {
  return world->extension();
}
void wait_for_previous_grid() {
  world->wait_for_previous_grid();
}
void launch_dependents() {
  world->launch_dependents();
}
void store(void* address, u64 value, int bytes, Order order, bool add) {
  world->store({static_cast<std::byte*>(address), value, bytes, order == Order::kRelease, add, 0, 0});
}
u64 load(const void* address, int bytes) {
  return world->load(address, bytes);
}
void flush() {
  world->flush();
}
void fence() {
  world->store({nullptr, 0, 0, false, false, 0, 0});
}

}  // namespace weft::emulator
