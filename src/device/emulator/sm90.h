// The functions of device/cuda/sm90.cuh, wgmma.cuh, cluster.cuh, async_copy.cuh and tensor_map.cuh on the emulator;
// what each means stands there. Copies and products happen at any time that they are allowed to, a box of a tensor a
// few rows at a time; what a product adds to is not readable before its wait. Found: barriers that too many arrive at,
// or that nobody made; a CTA that ends while its shared memory is copied; accumulators that are touched, or not fenced,
// while products are under way; threads of a warpgroup that multiply different things; sums out of what had not come or
// was already overwritten (they are wrong). Not modelled: the order of ordinary accesses and those of copies and
// products (fence.proxy.async), registers a warp may have.
#pragma once
#include <type_traits>

#include "base/dtype.h"
#include "base/tensor.h"
#include "device/emulator/ptx.h"

// Boxes of box_rows x 64 elements of 2 bytes of a matrix.
struct alignas(64) CUtensorMap {
  const std::byte* base;
  weft::i64 rows, columns, row_stride;  // the last in bytes
  int box_rows;
};

namespace weft {

namespace emulator {

u32 shared_address(const void* in_dynamic_shared);
std::byte* at_shared(u32 address);  // in any CTA of the cluster
u32 map_to_cta(u32 address, u32 cta);
void named_barrier(u32 id, u32 threads, bool waits);
void mbarrier_init(u64* barrier, u32 arrivals);
void mbarrier_arrive(u64* barrier, u32 expected_bytes);
void mbarrier_wait(u64* barrier, u32 parity);
void load_box(std::byte* to, const CUtensorMap& map, u64* barrier, i32 x, i32 y);
void copy_async(std::byte* to, const std::byte* from, u32 bytes);
void copy_async_arrive(u64* barrier);
void bulk_store(std::byte* to, const std::byte* from, u32 bytes);
void bulk_commit();
void bulk_wait(bool done);  // or only read
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(size_t left);
// d: this thread's columns / 2 accumulators.
void multiply(DType dtype, int columns, float* d, u64 a, u64 b, bool accumulate);

}  // namespace emulator

inline Result<CUtensorMap> bf16_tensor_map(const TensorView& matrix, int box_rows) {
  return CUtensorMap{static_cast<const std::byte*>(matrix.data), matrix.dim(0), matrix.dim(1), matrix.byte_strides[0],
                     box_rows};
}

namespace ptx {

inline u32 shared_address(const void* pointer) {
  return emulator::shared_address(pointer);
}
inline bool elect_one() {
  emulator::meet("elect.sync", 0);
  return emulator::lane() == 0;
}

inline void mbarrier_init(u64* barrier, u32 arrivals) {
  emulator::mbarrier_init(barrier, arrivals);
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(u64* barrier) {
  emulator::mbarrier_arrive(barrier, 0);
}
inline void mbarrier_arrive_expect(u64* barrier, u32 bytes) {
  emulator::mbarrier_arrive(barrier, bytes);
}
inline void mbarrier_wait(u64* barrier, u32 parity) {
  emulator::mbarrier_wait(barrier, parity);
}

inline void tma_load_2d(void* to, const CUtensorMap* map, u64* barrier, i32 x, i32 y) {
  emulator::load_box(static_cast<std::byte*>(to), *map, barrier, x, y);
}
inline u64 policy_evict_first() {
  return 0;
}
inline void tma_load_2d_hint(void* to, const CUtensorMap* map, u64* barrier, i32 x, i32 y, u64) {
  tma_load_2d(to, map, barrier, x, y);
}
inline void copy_async_16(u32 to, const void* from, u32 bytes) {
  emulator::copy_async(emulator::at_shared(to), static_cast<const std::byte*>(from), bytes);
}
inline void copy_async_arrive(u64* barrier) {
  emulator::copy_async_arrive(barrier);
}
inline void bulk_store(void* to, const void* from, u32 bytes) {
  emulator::bulk_store(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}
inline void bulk_commit() {
  emulator::bulk_commit();
}
inline void bulk_wait_read() {
  emulator::bulk_wait(false);
}
inline void bulk_wait_done() {
  emulator::bulk_wait(true);
}
inline void fence_proxy_async_shared() {}

inline void wgmma_fence() {
  emulator::wgmma_fence();
}
inline void wgmma_commit() {
  emulator::wgmma_commit();
}
template <int Left>
void wgmma_wait() {
  emulator::wgmma_wait(size_t(Left));
}
inline u64 wgmma_descriptor(const void* tile) {
  return u64((shared_address(tile) & 0x3ffff) >> 4) | (u64(1) << 16) | (u64(64) << 32) | (u64(1) << 62);
}
inline u64 wgmma_descriptor_behind(u64 descriptor, u32 bytes) {
  return (descriptor & ~u64(~0u)) | (u32(descriptor) + bytes / 16);
}
template <int N>
struct Wgmma {
  template <class T>
  static void multiply(T, float (&d)[N / 2], u64 a, u64 b, int accumulate) {
    static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
    emulator::multiply(std::is_same_v<T, bf16> ? DType::kBF16 : DType::kF16, N, d, a, b, accumulate != 0);
  }
};

namespace emulated {
template <class T>
T& in_shared(u32 address) {
  return *reinterpret_cast<T*>(emulator::at_shared(address));
}
}  // namespace emulated
inline void st_shared_f32x2(u32 address, float x, float y) {
  emulated::in_shared<float>(address) = x;
  emulated::in_shared<float>(address + 4) = y;
}
inline float4 ld_shared_f32x4(u32 address) {
  return emulated::in_shared<float4>(address);
}
inline void st_shared_u32x4(u32 address, const uint4& words) {
  emulated::in_shared<uint4>(address) = words;
}
inline uint4 ld_shared_u32x4(u32 address) {
  return emulated::in_shared<uint4>(address);
}
// Lane l gives the address of row l % 8 of matrix l / 8, and has two neighbours of row l / 4 of each.
template <size_t Count>
void store_matrices(u32 address, const u32 (&registers)[Count]) {
  const u64* rows = emulator::meet("stmatrix", address);
  u32 to[Count];
  for (size_t i = 0; i < Count; ++i) to[i] = u32(rows[i * 8 + emulator::lane() / 4]) + emulator::lane() % 4 * 4;
  for (size_t i = 0; i < Count; ++i) emulated::in_shared<u32>(to[i]) = registers[i];
}
inline void stmatrix_x4(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  store_matrices<4>(address, {r0, r1, r2, r3});
}
inline void stmatrix_x2(u32 address, u32 r0, u32 r1) {
  store_matrices<2>(address, {r0, r1});
}
template <class T>
u32 pack(float low, float high) {
  return u32(std::bit_cast<u16>(T(low))) | u32(std::bit_cast<u16>(T(high))) << 16;
}
inline u32 pack_bf16(float low, float high) {
  return pack<bf16>(low, high);
}

inline void named_barrier(u32 id, u32 threads) {
  emulator::named_barrier(id, threads, true);
}
inline void named_barrier_arrive(u32 id, u32 threads) {
  emulator::named_barrier(id, threads, false);
}
template <int>
void registers_shrink() {}
template <int>
void registers_grow() {}

inline void cluster_sync() {
  emulator::sync_cluster();
}
inline u32 map_to_cta(u32 address, u32 cta) {
  return emulator::map_to_cta(address, cta);
}
template <class T>
T* in_cta(T* shared, u32 cta) {
  return reinterpret_cast<T*>(emulator::in_cta(shared, cta));
}
inline float4 ld_shared_cluster_f32x4(u32 address) {
  return emulated::in_shared<float4>(address);
}

}  // namespace ptx
}  // namespace weft
