#include "device/emulator/sm90.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/check.h"
#include "device/emulator/async.h"

namespace weft::emulator {
namespace {

constexpr int kGroup = 128;           // threads of a warpgroup
constexpr u32 kFirstAddress = 0x400;  // of dynamic shared memory
constexpr int kCtaShift = 24;         // above it, in an address: 1 + the CTA of the cluster, 0 = this one
constexpr u32 kPoison = 0x7fc0dead;   // a NaN: an accumulator that products have not left yet

// ---- mbarriers ----

// What stands in a barrier's 8 bytes.
struct Barrier {
  static constexpr u64 kMade = 0x5a5, kNoBytes = u64(1) << 23;
  u64 bytes : 24;  // still to come, above kNoBytes; they may come before they are expected
  u64 arrivals : 14, of : 14, phase : 1, made : 11;

  static Barrier read(const u64* at, const char* who) {
    const auto barrier = std::bit_cast<Barrier>(*at);
    if (barrier.made != kMade) fail(fmt::format("{}: a barrier that was not initialised", who));
    return barrier;
  }
  void write(u64* at) const { *at = std::bit_cast<u64>(*this); }
};

void count(u64* at, u32 arrivals, i64 bytes, const char* who) {
  Barrier barrier = Barrier::read(at, who);
  if (barrier.arrivals < arrivals) fail(fmt::format("{}: more arrivals than the barrier's {}", who, u64(barrier.of)));
  barrier.arrivals -= arrivals;
  barrier.bytes = u64(i64(barrier.bytes) + bytes);
  const bool over = barrier.arrivals == 0 && barrier.bytes == Barrier::kNoBytes;
  if (over) {
    barrier.arrivals = barrier.of;
    barrier.phase ^= 1;
    order();
  }
  barrier.write(at);
  if (over) wake(at);
}

// ---- the matrix unit ----

// The registers of a thread that products add to.
struct Accumulators {
  float* registers;
  std::vector<float> values;  // what they will hold
  size_t last;                // product
};

struct Product {
  DType dtype;
  int columns;
  u64 a, b;
  bool accumulate;
  std::array<Accumulators*, kGroup> to{};
  int given = 0;  // by threads
};

struct Multiplier {
  size_t done = 0;               // products
  std::deque<Product> products;  // the first is number `done`
  struct Thread {
    size_t issued = 0;
    std::vector<size_t> groups;  // products issued before each commit
    std::vector<std::unique_ptr<Accumulators>> busy;
    bool fenced = false;
  };
  std::array<Thread, kGroup> threads;
};

float to_float(DType dtype, u16 bits) {
  return dtype == DType::kBF16 ? float(std::bit_cast<bf16>(bits)) : float(std::bit_cast<f16>(bits));
}

// Element `k` of row `row` of a tile with the 128-byte swizzle.
std::byte* element(std::byte* shared, u64 descriptor, int row, int k) {
  const u32 start = u32(descriptor & 0x3fff) << 4, of_eight = u32(descriptor >> 32 & 0x3fff) << 4;
  const u32 plain = start + u32(row / 8) * of_eight + u32(row % 8) * 128 + u32(k) * 2;
  return shared + (plain ^ (plain >> 7 & 7) << 4) - kFirstAddress;
}

// d = a b^T (+ d); a [64, 16], b [columns, 16]. Lane l of warp w has rows w * 16 + l / 4 and 8 further down, of every
// eight columns l % 4 * 2 and the next.
void run(const Product& product, std::byte* shared) {
  constexpr int kRows = 64, kDepth = 16;
  std::vector<float> a(kRows * kDepth), b(size_t(product.columns * kDepth)), sums(size_t(product.columns));
  const auto get = [&](u64 descriptor, int row, int k) {
    u16 bits = 0;
    std::memcpy(&bits, element(shared, descriptor, row, k), 2);
    return to_float(product.dtype, bits);
  };
  for (int k = 0; k < kDepth; ++k) {
    for (int row = 0; row < kRows; ++row) a[size_t(row * kDepth + k)] = get(product.a, row, k);
    for (int column = 0; column < product.columns; ++column)
      b[size_t(k * product.columns + column)] = get(product.b, column, k);
  }
  for (int row = 0; row < kRows; ++row) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int k = 0; k < kDepth; ++k) {
      const float left = a[size_t(row * kDepth + k)];
      const float* right = &b[size_t(k * product.columns)];
      for (int column = 0; column < product.columns; ++column) sums[size_t(column)] += left * right[column];
    }
    const int thread = row / 16 * 32 + row % 8 * 4, half = row / 8 % 2 * 2;
    for (int column = 0; column < product.columns; ++column) {
      float& sum = product.to[size_t(thread + column % 8 / 2)]->values[size_t(column / 8 * 4 + half + column % 2)];
      sum = (product.accumulate ? sum : 0.0f) + sums[size_t(column)];
    }
  }
}

// ---- what a CTA keeps ----

struct Cta {
  struct Named {
    u32 threads = 0, arrived = 0, turn = 0;
  };
  struct Stores {  // of a thread's bulk group
    int unread = 0, under_way = 0;
  };
  std::array<Named, 16> named;
  std::map<u32, Multiplier> multipliers;     // by warpgroup
  std::map<u32, std::deque<Stores>> stores;  // by thread; the last is open
};

Cta& cta() {
  auto& kept = extension();
  if (kept == nullptr) kept = std::make_shared<Cta>();
  return *static_cast<Cta*>(kept.get());
}
Multiplier& multiplier() {
  return cta().multipliers[threadIdx.x / kGroup];
}

void expect_shared(const std::byte* from, size_t bytes, size_t alignment, const char* who) {
  const auto offset = from - dynamic_shared();
  if (offset < 0 || size_t(offset) + bytes > dynamic_shared_bytes())
    fail(fmt::format("{}: {}: {} bytes at {} of {} of shared memory", here(), who, bytes, offset,
                     dynamic_shared_bytes()));
  if (shared_address(from) % alignment != 0) fail(fmt::format("{}: {}: not aligned to {}", here(), who, alignment));
}

}  // namespace

u32 shared_address(const void* in_dynamic_shared) {
  const auto* base = dynamic_shared();
  // Aligned as the memory itself.
  return kFirstAddress + u32(reinterpret_cast<uintptr_t>(base) % kFirstAddress) +
         u32(static_cast<const std::byte*>(in_dynamic_shared) - base);
}
std::byte* at_shared(u32 address) {
  std::byte* const mine =
      dynamic_shared() + i64((address & ((1u << kCtaShift) - 1)) - shared_address(dynamic_shared()));
  const u32 of = address >> kCtaShift;
  return of == 0 ? mine : in_cta(mine, of - 1);
}
u32 map_to_cta(u32 address, u32 cta) {
  return (address & ((1u << kCtaShift) - 1)) | (cta + 1) << kCtaShift;
}

void named_barrier(u32 id, u32 threads, bool waits) {
  WEFT_CHECK(id >= 1 && id < 16 && threads % 32 == 0, id, threads);
  Cta::Named& barrier = cta().named[id];
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads)
    fail(fmt::format("{}: barrier {} of {} and of {} threads", here(), id, barrier.threads, threads));
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.turn;
    order();
    wake(&barrier);
  } else if (waits) {
    for (const u32 turn = barrier.turn; barrier.turn == turn;) sleep(&barrier, "a named barrier");
  }
}

void mbarrier_init(u64* barrier, u32 arrivals) {
  expect_shared(reinterpret_cast<std::byte*>(barrier), 8, 8, "mbarrier.init");
  Barrier{.bytes = Barrier::kNoBytes, .arrivals = arrivals, .of = arrivals, .phase = 0, .made = Barrier::kMade}.write(
      barrier);
}
void mbarrier_arrive(u64* barrier, u32 expected_bytes) {
  count(barrier, 1, expected_bytes, "mbarrier.arrive");
}
void mbarrier_wait(u64* barrier, u32 parity) {
  while (Barrier::read(barrier, "mbarrier.try_wait").phase == (parity & 1)) sleep(barrier, "an mbarrier");
}

void load_box(std::byte* to, const CUtensorMap& map, u64* barrier, i32 x, i32 y) {
  constexpr int kAtOnce = 24;  // rows that come together
  constexpr i64 kRowBytes = 128;
  expect_shared(to, size_t(map.box_rows * kRowBytes), kRowBytes, "cp.async.bulk.tensor");
  const u32 address = shared_address(to);
  for (int first = 0; first < map.box_rows; first += kAtOnce) {
    const int rows = std::min(kAtOnce, map.box_rows - first);
    later(
        [=] {
          for (int row = first; row < first + rows; ++row)
            for (i64 i = 0; i < kRowBytes; i += 2) {
              const i64 column = x + i / 2, from_row = y + row;
              const bool inside = from_row >= 0 && from_row < map.rows && column >= 0 && column < map.columns;
              const u32 plain = address + u32(row * kRowBytes + i);
              std::byte* at = to + ((plain ^ (plain >> 7 & 7) << 4) - address);
              if (inside)
                std::memcpy(at, map.base + from_row * map.row_stride + column * 2, 2);
              else
                std::memset(at, 0, 2);
            }
          count(barrier, 0, -rows * kRowBytes, "cp.async.bulk.tensor");
        },
        nullptr, true);
  }
}

void copy_async(std::byte* to, const std::byte* from, u32 bytes) {
  expect_shared(to, 16, 16, "cp.async");
  later(
      [=] {
        std::memset(to, 0, 16);
        std::memcpy(to, from, bytes);
      },
      &cta().stores[threadIdx.x], true);
}
void copy_async_arrive(u64* barrier) {
  later([=] { count(barrier, 1, 0, "cp.async.mbarrier.arrive"); }, &cta().stores[threadIdx.x], true);
}

void bulk_store(std::byte* to, const std::byte* from, u32 bytes) {
  expect_shared(from, bytes, 16, "cp.async.bulk");
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0)
    fail(fmt::format("{}: cp.async.bulk: {} bytes to {}", here(), bytes, static_cast<void*>(to)));
  auto& groups = cta().stores[threadIdx.x];
  if (groups.empty()) groups.emplace_back();
  Cta::Stores& group = groups.back();
  ++group.unread;
  ++group.under_way;
  const void* key = &groups;
  later(
      [=, &group] {
        std::vector<std::byte> read(from, from + bytes);
        --group.unread;
        wake(key);
        go_on([=, &group, read = std::move(read)] {
          std::memcpy(to, read.data(), read.size());
          --group.under_way;
          wake(key);
        });
      },
      nullptr, true);
}
void bulk_commit() {
  auto& groups = cta().stores[threadIdx.x];
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}
void bulk_wait(bool done) {
  auto& groups = cta().stores[threadIdx.x];
  for (size_t i = 0; i + 1 < groups.size(); ++i)
    while ((done ? groups[i].under_way : groups[i].unread) > 0) sleep(&groups, "bulk copies");
}

void wgmma_fence() {
  multiplier().threads[threadIdx.x % kGroup].fenced = true;
}
void wgmma_commit() {
  auto& thread = multiplier().threads[threadIdx.x % kGroup];
  thread.groups.push_back(thread.issued);
}
void multiply(DType dtype, int columns, float* d, u64 a, u64 b, bool accumulate) {
  const size_t me = threadIdx.x % kGroup;
  Multiplier& unit = multiplier();
  Multiplier::Thread& thread = unit.threads[me];
  const size_t number = thread.issued++, place = number - unit.done;
  if (place == unit.products.size()) unit.products.push_back({dtype, columns, a, b, accumulate});
  Product& product = unit.products[place];
  if (product.dtype != dtype || product.columns != columns || product.a != a || product.b != b ||
      product.accumulate != accumulate)
    fail(fmt::format("{}: wgmma: the threads of a warpgroup multiply different things", here()));

  Accumulators* busy = nullptr;
  for (const auto& one : thread.busy)
    if (one->registers == d) busy = one.get();
  const auto poison = std::bit_cast<float>(kPoison);
  if (busy == nullptr) {
    if (!thread.fenced) fail(fmt::format("{}: wgmma: its accumulators were in use, without wgmma.fence since", here()));
    thread.busy.push_back(std::make_unique<Accumulators>(Accumulators{d, {d, d + columns / 2}, 0}));
    busy = thread.busy.back().get();
    std::fill(d, d + columns / 2, poison);
  }
  busy->last = number;
  product.to[me] = busy;
  if (++product.given < kGroup) return;
  // All threads have: a product and those before it can happen.
  const u32 skew = shared_address(dynamic_shared()) - kFirstAddress;
  later(
      [&unit, shared = dynamic_shared() - skew] {
        run(unit.products.front(), shared);
        unit.products.pop_front();
        ++unit.done;
        wake(&unit);
      },
      &unit, true);
}
void wgmma_wait(size_t left) {
  Multiplier& unit = multiplier();
  Multiplier::Thread& thread = unit.threads[threadIdx.x % kGroup];
  if (thread.groups.size() <= left) return;
  const size_t target = thread.groups[thread.groups.size() - 1 - left];
  while (unit.done < target) sleep(&unit, "wgmma.wait_group");
  std::erase_if(thread.busy, [&](const auto& one) {
    if (one->last >= target) return false;
    for (size_t i = 0; i < one->values.size(); ++i) {
      if (std::bit_cast<u32>(one->registers[i]) != kPoison)
        fail(fmt::format("{}: wgmma: an accumulator was written while products were under way", here()));
      one->registers[i] = one->values[i];
    }
    thread.fenced = false;
    return true;
  });
}

}  // namespace weft::emulator
