// Hopper's machinery on the emulator: right kernels are right under every seed, and each planted fault is found.
#include "device/emulator/language.h"
//
#include <numeric>

#include "device/cuda/async_copy.cuh"
#include "device/cuda/cluster.cuh"
#include "device/cuda/wgmma.cuh"
#include "device/emulator/testing.h"

namespace weft {
namespace {

constexpr int kSeeds = 12, kWidth = 64;

// x [64, 16] and w [64, 16] of whole numbers; sums [64, 64].
struct Problem {
  std::vector<bf16> x, w;
  CUtensorMap x_map, w_map;
  std::vector<float> sums;
  explicit Problem(int columns = 16) : sums(64 * kWidth, -1.0f) {
    for (int i = 0; i < 64 * columns; ++i) {
      x.push_back(bf16(float(i % 11 - 5)));
      w.push_back(bf16(float(i % 13 - 6)));
    }
    x_map = *bf16_tensor_map(TensorView::dense(x.data(), DType::kBF16, {64, columns}), 64);
    w_map = *bf16_tensor_map(TensorView::dense(w.data(), DType::kBF16, {64, columns}), 64);
  }
  bool is_right() const {
    for (int row = 0; row < 64; ++row)
      for (int column = 0; column < kWidth; ++column) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += float(x[size_t(row * 16 + k)]) * float(w[size_t(column * 16 + k)]);
        if (sums[size_t(row * kWidth + column)] != sum) return false;
      }
    return true;
  }
};

enum class Fault {
  kNone,
  kNoWait,
  kFewBytes,
  kManyArrivals,
  kNoBarrier,
  kNoFence,
  kTouched,
  kUneven,
  kNoResult,
  kLeave
};

// One product by a warpgroup, out of what one thread loads.
template <Fault fault>
void multiply(Problem* problem) {
  WEFT_DYNAMIC_SHARED(raw);
  std::byte* x = raw + (1024 - reinterpret_cast<uintptr_t>(raw) % 1024) % 1024;
  std::byte* w = x + 64 * 128;
  u64* full = reinterpret_cast<u64*>(w + kWidth * 128);
  if (threadIdx.x == 0 && fault != Fault::kNoBarrier) ptx::mbarrier_init(full, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::mbarrier_arrive_expect(full, (64 + kWidth - (fault == Fault::kFewBytes ? 64 : 0)) * 128);
    if (fault == Fault::kManyArrivals) ptx::mbarrier_arrive(full);
    ptx::tma_load_2d(x, &problem->x_map, full, 0, 0);
    ptx::tma_load_2d(w, &problem->w_map, full, 0, 0);
  }
  if (fault == Fault::kLeave) return;
  if (fault != Fault::kNoWait) ptx::mbarrier_wait(full, 0);
  float sums[kWidth / 2];
  for (float& sum : sums) sum = 0;
  if (fault != Fault::kNoFence) ptx::wgmma_fence();
  const u64 of_w = ptx::wgmma_descriptor(w);
  ptx::Wgmma<kWidth>::multiply(bf16{}, sums, ptx::wgmma_descriptor(x),
                               fault == Fault::kUneven && threadIdx.x == 77 ? of_w + 2 : of_w, 1);
  ptx::wgmma_commit();
  if (fault == Fault::kTouched && threadIdx.x == 5) sums[3] = 1;
  if (fault != Fault::kNoResult) ptx::wgmma_wait<0>();
  const int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, column = int(threadIdx.x) % 4 * 2;
  for (int j = 0; j < kWidth / 2; ++j)
    problem->sums[size_t((row + j / 2 % 2 * 8) * kWidth + column + j / 4 * 8 + j % 2)] = sums[j];
  if (fault == Fault::kNoResult) ptx::wgmma_wait<0>();
}

struct Outcome {
  int faulty = 0;     // seeds that find something, or a wrong product
  std::string found;  // all of it
  bool names(const char* what) const { return found.find(what) != std::string::npos; }
};
template <Fault fault>
Outcome multiply_with_seeds() {
  Outcome outcome;
  for (u64 seed = 0; seed < kSeeds; ++seed) {
    Problem problem;
    const std::string found =
        emulator::run({{.threads = 128, .shared_bytes = 18 << 10, .kernel = [&] { multiply<fault>(&problem); }}}, seed);
    if (found.empty() && problem.is_right()) continue;
    ++outcome.faulty;
    outcome.found += found + "\n";
  }
  return outcome;
}

TEST(EmulatedSm90, AProductOfWhatACopyBringsIsExact) {
  WEFT_NEED_EMULATOR();
  const Outcome outcome = multiply_with_seeds<Fault::kNone>();
  EXPECT_EQ(outcome.faulty, 0) << outcome.found;
}

template <Fault fault>
void expect_found(const char* what, int least = kSeeds) {
  const Outcome outcome = multiply_with_seeds<fault>();
  EXPECT_GE(outcome.faulty, least) << outcome.found;
  EXPECT_TRUE(outcome.names(what)) << outcome.found;
}

TEST(EmulatedSm90, FindsWhatIsWrongWithAProduct) {
  WEFT_NEED_EMULATOR();
  expect_found<Fault::kNoWait>("", 4);
  expect_found<Fault::kFewBytes>("", 4);
  expect_found<Fault::kManyArrivals>("mbarrier.arrive: more arrivals than the barrier's 1");
  expect_found<Fault::kNoBarrier>("a barrier that was not initialised");
  expect_found<Fault::kNoFence>("wgmma: its accumulators were in use, without wgmma.fence");
  expect_found<Fault::kTouched>("thread 5: wgmma: an accumulator was written");
  expect_found<Fault::kUneven>("the threads of a warpgroup multiply different things");
  expect_found<Fault::kNoResult>("");
  expect_found<Fault::kLeave>("the CTA ends while its shared memory is copied");
}

// A ring of one stage between a warp that fills it, by both kinds of copies, and one that empties it by bulk stores.
template <bool Frees, bool Reads, bool Finishes>
void pass_on(const u32* from, u32* to, int rounds) {
  WEFT_DYNAMIC_SHARED(raw);
  u32* stage = reinterpret_cast<u32*>(raw);
  u64* full = reinterpret_cast<u64*>(raw + 1024);
  u64* empty = full + 1;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, 32);
    ptx::mbarrier_init(empty, 1);
  }
  __syncthreads();
  const int lane = int(threadIdx.x % 32);
  for (int round = 0; round < rounds; ++round) {
    const u32 parity = u32(round & 1);
    if (threadIdx.x < 32) {
      if (Frees) ptx::mbarrier_wait(empty, parity ^ 1);
      ptx::copy_async_16(ptx::shared_address(stage + lane * 4), from + (round * 32 + lane) * 4, lane == 31 ? 0 : 16);
      ptx::copy_async_arrive(full);
    } else {
      ptx::mbarrier_wait(full, parity);
      __syncwarp();  // a lane that looks later may find the next pass over, which looks as if this one were not
      if (lane == 0) {
        ptx::bulk_store(to + round * 128, stage, 512);
        ptx::bulk_commit();
        if (Reads) ptx::bulk_wait_read();
        ptx::mbarrier_arrive(empty);
      }
    }
  }
  if (Finishes) ptx::bulk_wait_done();
}

template <bool Frees, bool Reads, bool Finishes>
int wrong_passes() {
  int count = 0;
  constexpr int kRounds = 9;
  for (u64 seed = 0; seed < kSeeds; ++seed) {
    std::vector<u32> from(128 * kRounds), to(from.size(), 7);
    std::iota(from.begin(), from.end(), 100);
    const std::string found =
        emulator::run({{.threads = 64,
                        .shared_bytes = 1040,
                        .kernel = [&] { pass_on<Frees, Reads, Finishes>(from.data(), to.data(), kRounds); }}},
                      seed);
    bool right = found.empty();
    for (size_t i = 0; i < to.size(); ++i) right = right && to[i] == (i % 128 < 124 ? from[i] : 0);
    count += !right;
  }
  return count;
}

TEST(EmulatedSm90, CopiesOverlapAsBarriersAndWaitsAllow) {
  WEFT_NEED_EMULATOR();
  EXPECT_EQ((wrong_passes<true, true, true>()), 0);
  EXPECT_GT((wrong_passes<false, true, true>()), 6);
  EXPECT_GT((wrong_passes<true, false, true>()), 6);
  EXPECT_GT((wrong_passes<true, false, false>()), 6);
}

// Columns and rows beyond a matrix are zeros; a box lies as the 128-byte swizzle says.
TEST(EmulatedSm90, BoxesEndInZerosAndAreSwizzled) {
  WEFT_NEED_EMULATOR();
  Problem problem(24);
  int wrong = 0;
  const auto kernel = [&] {
    WEFT_DYNAMIC_SHARED(raw);
    std::byte* box = raw + (1024 - reinterpret_cast<uintptr_t>(raw) % 1024) % 1024;
    u64* full = reinterpret_cast<u64*>(box + 64 * 128);
    ptx::mbarrier_init(full, 1);
    ptx::mbarrier_arrive_expect(full, 64 * 128);
    ptx::tma_load_2d(box, &problem.x_map, full, 8, 60);
    ptx::mbarrier_wait(full, 0);
    for (int row = 0; row < 64; ++row)
      for (int column = 0; column < 64; ++column) {
        const int chunk = (column / 8) ^ (row % 8);
        const bf16 seen = *reinterpret_cast<const bf16*>(box + row * 128 + chunk * 16 + column % 8 * 2);
        const bool inside = row < 4 && column < 16;
        wrong += float(seen) != (inside ? float(problem.x[size_t((60 + row) * 24 + 8 + column)]) : 0.0f);
      }
  };
  const auto one_thread = [&] {
    if (threadIdx.x == 0) kernel();
  };
  for (u64 seed = 0; seed < kSeeds; ++seed)
    EXPECT_EQ(emulator::run({{.shared_bytes = 10 << 10, .kernel = one_thread}}, seed), "");
  EXPECT_EQ(wrong, 0);
}

// Fragments by stmatrix, addresses in another CTA of the cluster, named barriers.
template <bool Meets>
void exchange(int* wrong) {
  WEFT_DYNAMIC_SHARED(raw);
  const u32 here = ptx::shared_address(raw), lane = threadIdx.x % 32, mine = blockIdx.x % 2 * 1000;
  if (threadIdx.x < 32) {
    // Lane l has rows l / 4 of four matrices; each row is 16 bytes, matrix m's rows at m * 128.
    const u32 value = mine + lane * 2;
    ptx::stmatrix_x4(here + lane * 16, value, value + 100, value + 200, value + 300);
    ptx::named_barrier_arrive(2, 64);
  } else {
    if (Meets) ptx::named_barrier(2, 64);
    for (u32 m = 0; m < 4; ++m)
      *wrong += ptx::emulated::in_shared<u32>(here + m * 128 + lane * 4) != mine + lane * 2 + m * 100;
  }
  ptx::cluster_sync();
  const float4 theirs = ptx::ld_shared_cluster_f32x4(ptx::map_to_cta(here + 128, (blockIdx.x + 1) % 2));
  *wrong += std::bit_cast<u32>(theirs.y) != 1000 - mine + 102;
  ptx::cluster_sync();
}

TEST(EmulatedSm90, WarpsAndCtasExchange) {
  WEFT_NEED_EMULATOR();
  const auto wrong_words = [](auto kernel, u64 seed) {
    int wrong = 0;
    EXPECT_EQ(
        emulator::run(
            {{.ctas = 2, .threads = 64, .cluster = 2, .shared_bytes = 512, .kernel = [&] { kernel(&wrong); }}}, seed),
        "");
    return wrong;
  };
  int unmet = 0;
  for (u64 seed = 0; seed < kSeeds; ++seed) {
    EXPECT_EQ(wrong_words(exchange<true>, seed), 0);
    unmet += wrong_words(exchange<false>, seed) > 0;
  }
  EXPECT_GT(unmet, 3);
}

}  // namespace
}  // namespace weft
