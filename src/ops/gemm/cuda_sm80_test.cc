// The Ampere GEMM's own main loop, every thread of a CTA as a thread of the CPU, its instructions as the PTX ISA 9.0
// describes them ("ldmatrix", "mma.m16n8k16", "cp.async"). Copies land at once, or as late as their wait allows; under
// the thread sanitizer a missing barrier is a race.
#include <gtest/gtest.h>

#include <barrier>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/divide.h"
#include "ops/gemm/cuda_sm80_loop.h"
#include "ops/gemm/cuda_sm80_plan.h"
#include "ops/gemm/cuda_tile.h"

namespace weft {
namespace {

// What 32 lanes do together: all arrive with their operands, the last one computes everybody's results.
class Warp {
 public:
  Warp() : barrier_(32, Complete{this}) {}

  // For every lane: what it gave to `work` and where its results go.
  struct Lane {
    u32 address = 0;
    u32 a[4] = {}, b[2] = {};
    float sums[4] = {};
    u32 out[4] = {};
  };
  // `work` is called once, by one of the lanes; each gets its own results.
  template <class Work>
  Lane together(int lane, const Lane& own, const Work& work) {
    const int turn = turns_[lane]++ % 2;  // results are read while the next are made
    lanes_[turn][lane] = own;
    if (lane == 0) work_ = [this, turn, work] { work(lanes_[turn]); };
    barrier_.arrive_and_wait();
    return lanes_[turn][lane];
  }

 private:
  struct Complete {
    Warp* warp;
    void operator()() noexcept { warp->work_(); }
  };
  Lane lanes_[2][32];
  int turns_[32] = {};
  std::function<void()> work_;
  std::barrier<Complete> barrier_;
};

struct Cta {
  explicit Cta(int threads, int shared_bytes)
      : shared(size_t(shared_bytes), std::byte(0xff)), barrier(threads), warps(size_t(threads / 32)) {}
  std::vector<std::byte> shared;  // NaN until written
  std::barrier<> barrier;
  std::vector<Warp> warps;
};

template <class T>
float element(u32 pair, int which) {
  return float(std::bit_cast<T>(u16(pair >> 16 * which)));
}

enum class Landing { kAtOnce, kLate };

// One thread of a CTA.
class CpuMachine {
 public:
  CpuMachine(Cta& cta, int thread, Landing landing) : cta_(cta), thread_(thread), landing_(landing) {}
  int thread() const { return thread_; }
  u32 shared() const { return kBase; }

  void copy(u32 to, const std::byte* from, u32 bytes) const {
    ASSERT_TRUE(to % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 && (bytes == 0 || bytes == 16));
    ASSERT_LE(to - kBase + 16, cta_.shared.size());
    const Copy copy{to, from, bytes};
    if (landing_ == Landing::kAtOnce)
      land(copy);
    else
      open_.push_back(copy);
  }
  void commit() const { groups_.push_back(std::exchange(open_, {})); }
  template <int Left>
  void wait() const {
    while (groups_.size() > Left) {
      for (const Copy& copy : groups_.front()) land(copy);
      groups_.erase(groups_.begin());
    }
  }
  void sync() const { cta_.barrier.arrive_and_wait(); }

  // "ldmatrix": lanes 8 i to 8 i + 7 name the rows of matrix i; lane l gets elements 2 (l % 4) and the next of row l
  // / 4. The eight rows of a matrix are read in one pass when they stand in different banks.
  void load(u32 address, u32 (&words)[4]) const {
    const auto work = [this](Warp::Lane* lanes) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        std::set<u32> banks;
        for (int row = 0; row < 8; ++row) banks.insert(lanes[8 * matrix + row].address / 16 % 8);
        EXPECT_EQ(banks.size(), 8u) << "bank conflict";
        for (int lane = 0; lane < 32; ++lane) {
          const u32 at = lanes[8 * matrix + lane / 4].address - kBase;
          EXPECT_TRUE(at % 16 == 0 && at + 16 <= cta_.shared.size());
          std::memcpy(&lanes[lane].out[matrix], cta_.shared.data() + at + lane % 4 * 4, 4);
        }
      }
    };
    Warp::Lane own;
    own.address = address;
    std::memcpy(words, warp().together(lane(), own, work).out, 16);
  }

  // "mma.m16n8k16": with g = lane / 4 and t = lane % 4, register i of A holds elements (g + 8 (i % 2), 2 t + 8 (i / 2))
  // and the one to its right, register i of B (2 t + 8 i, g) and the one below, sum i is (g + 8 (i / 2), 2 t + i % 2).
  template <class T>
  void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) const {
    const auto work = [](Warp::Lane* lanes) {
      float a[16][16], b[16][8];
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int which = 0; which < 2; ++which) {
          for (int i = 0; i < 4; ++i)
            a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + which] = element<T>(lanes[lane].a[i], which);
          for (int i = 0; i < 2; ++i) b[2 * t + 8 * i + which][g] = element<T>(lanes[lane].b[i], which);
        }
      }
      for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
          const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
          for (int k = 0; k < 16; ++k) lanes[lane].sums[i] += a[row][k] * b[k][column];
        }
    };
    Warp::Lane own;
    std::memcpy(own.a, a, sizeof(a));
    own.b[0] = b0, own.b[1] = b1;
    std::memcpy(own.sums, sums, sizeof(sums));
    std::memcpy(sums, warp().together(lane(), own, work).sums, sizeof(sums));
  }

  u32 exchange(u32 word, int apart) const {
    const auto work = [apart](Warp::Lane* lanes) {
      for (int lane = 0; lane < 32; ++lane) lanes[lane].out[0] = lanes[lane ^ apart].address;
    };
    Warp::Lane own;
    own.address = word;
    return warp().together(lane(), own, work).out[0];
  }

 private:
  static constexpr u32 kBase = 1024;
  struct Copy {
    u32 to;
    const std::byte* from;
    u32 bytes;
  };
  void land(const Copy& copy) const {
    std::byte* to = cta_.shared.data() + (copy.to - kBase);
    std::memset(to, 0, 16);
    std::memcpy(to, copy.from, copy.bytes);
  }
  Warp& warp() const { return cta_.warps[size_t(thread_ / 32)]; }
  int lane() const { return thread_ % 32; }
  Cta& cta_;
  int thread_;
  Landing landing_;
  mutable std::vector<Copy> open_;
  mutable std::vector<std::vector<Copy>> groups_;
};

// The hooks of the plain GEMM: cuda_gemm_sm80.cu has the same, which read the CTA's place from the GPU.
struct Schedule {
  using At = TileAt;
  int cta, ctas, tiles_m, tiles_n, group;
  bool next(int turn, At& at) const {
    const int index = cta + turn * ctas;
    if (index >= tiles_m * tiles_n) return false;
    at = grouped_tile(index, tiles_m, tiles_n, group);
    return true;
  }
};
template <class Config>
struct Source {
  const std::byte* x;
  i64 row_stride;
  int m;
  const std::byte* row(const TileAt& at, int r) const {
    return x + std::min(at.m * Config::kM + r, m - 1) * row_stride;
  }
};
template <class Config>
struct Emit {
  u16* y;
  int* stores;  // of each element
  int row_stride, m, n;
  void store(const TileAt& at, int r, int column, const u32 (&eight)[4]) const {
    const int row = at.m * Config::kM + r, from = at.n * Config::kN + column;
    ASSERT_TRUE(r < Config::kM && column % 8 == 0 && column < Config::kN);
    if (row >= m || from >= n) return;
    std::memcpy(y + row * row_stride + from, eight, 16);
    for (int i = 0; i < 8; ++i) ++stores[row * row_stride + from + i];
  }
};

// `rows` x `columns` of T between -1 and 1, NaN where nobody may look.
template <class T>
class Operand {
 public:
  Operand(int rows, int columns, int stride, unsigned seed)
      : stride_(stride), data_(size_t(rows) * size_t(stride) + 8, 0xffff) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> values(-1, 1);
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < columns; ++column) at(row)[column] = T(values(random)).bits;
  }
  u16* at(int row) {
    u16* base = data_.data();
    while (reinterpret_cast<uintptr_t>(base) % 16 != 0) ++base;
    return base + row * stride_;
  }
  const std::byte* bytes() { return reinterpret_cast<const std::byte*>(at(0)); }
  float value(int row, int column) { return float(std::bit_cast<T>(at(row)[column])); }

 private:
  int stride_;
  std::vector<u16> data_;
};

template <class Config>
void run(int m, int n, int k, int pad, int ctas, Landing landing) {
  using T = typename Config::Element;
  SCOPED_TRACE(::testing::Message() << m << " x " << n << " x " << k << " on " << ctas);
  const int in_stride = k + pad, out_stride = n + pad;
  Operand<T> x(m, k, in_stride, 1), w(n, k, in_stride, 2);
  std::vector<u16> y(size_t(m * out_stride));
  std::vector<int> stores(y.size());
  const int tiles_m = int(divide_up(m, Config::kM)), tiles_n = int(divide_up(n, Config::kN));
  for (int index = 0; index < ctas; ++index) {
    const sm80::GemmParams<Schedule, Source<Config>, Emit<Config>> params{
        w.bytes(),
        i64(in_stride) * 2,
        n,
        k,
        {index, ctas, tiles_m, tiles_n, std::min(2, tiles_m)},
        {x.bytes(), i64(in_stride) * 2, m},
        {y.data(), stores.data(), out_stride, m, n}};
    Cta cta(Config::kThreads, Config::kSharedBytes);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < Config::kThreads; ++thread)
      threads.emplace_back([&, thread] { sm80::gemm<Config>(CpuMachine(cta, thread, landing), params); });
    for (std::thread& thread : threads) thread.join();
  }
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < out_stride; ++column) {
      const size_t place = size_t(row * out_stride + column);
      ASSERT_EQ(stores[place], column < n ? 1 : 0) << row << ", " << column;
      if (column >= n) continue;
      float sum = 0;  // in K order, as the matrix instruction adds here
      for (int i = 0; i < k; ++i) sum += x.value(row, i) * w.value(column, i);
      ASSERT_EQ(y[place], T(sum).bits) << row << ", " << column;
    }
}

template <class T>
using Largest = sm80::GemmConfig<128, 256, 32, 3, 2, 4, T>;
template <class T>
using Large = sm80::GemmConfig<128, 128, 32, 4, 2, 2, T>;
template <class T>
using Middle = sm80::GemmConfig<64, 64, 64, 4, 2, 2, T>;
template <class T>
using Small = sm80::GemmConfig<16, 64, 64, 8, 1, 2, T>;

TEST(CudaGemmSm80Loop, EveryOutputIsItsSumInKOrder) {
  for (const Landing landing : {Landing::kAtOnce, Landing::kLate}) {
    run<Small<bf16>>(1, 8, 8, 0, 1, landing);
    run<Small<bf16>>(35, 136, 72, 8, 2, landing);  // several tiles a CTA, uneven in all extents
    run<Small<f16>>(16, 64, 584, 0, 1, landing);   // more blocks than stages
    run<Middle<bf16>>(70, 72, 136, 8, 1, landing);
  }
  run<Middle<f16>>(64, 64, 328, 0, 1, Landing::kLate);
}

TEST(CudaGemmSm80Loop, LargeTilesToo) {
  run<Large<bf16>>(130, 72, 72, 8, 1, Landing::kLate);
  run<Large<f16>>(128, 136, 136, 0, 2, Landing::kAtOnce);
  run<Largest<bf16>>(130, 264, 40, 0, 2, Landing::kLate);
  run<Largest<f16>>(128, 256, 104, 8, 1, Landing::kAtOnce);
}

// The 16 bytes that eight neighbouring threads copy stand in different banks, and no two chunks in one place.
template <class Config>
void expect_places() {
  std::set<u32> places;
  for (int row = 0; row < 64; ++row)
    for (int chunk = 0; chunk < Config::kChunks; ++chunk) places.insert(sm80::chunk_place<Config>(row, chunk));
  EXPECT_EQ(places.size(), size_t(64 * Config::kChunks));
  EXPECT_EQ(*places.rbegin(), u32(64 * Config::kRowBytes - 16));
  for (int first = 0; first < 64 * Config::kChunks; first += 8) {
    std::set<u32> banks;
    for (int i = first; i < first + 8; ++i)
      banks.insert(sm80::chunk_place<Config>(i / Config::kChunks, i % Config::kChunks) / 16 % 8);
    EXPECT_EQ(banks.size(), 8u) << first;
  }
}
TEST(CudaGemmSm80Loop, CopiesMeetNoBankTwice) {
  expect_places<Large<bf16>>();
  expect_places<Middle<bf16>>();
}

}  // namespace
}  // namespace weft
