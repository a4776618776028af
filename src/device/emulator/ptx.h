// The functions of device/cuda/ptx.cuh and launch_order.cuh on the emulator; what each means stands there.
#pragma once
#include "device/emulator/language.h"

#define WEFT_DYNAMIC_SHARED(name) std::byte* const name = weft::emulator::dynamic_shared()

namespace weft::ptx {

namespace emulated {
template <class T>
void put(T* address, T value, emulator::Order order = emulator::Order::kRelaxed) {
  emulator::store(address, value, sizeof(T), order);
}
template <class T>
T get(const T* address) {
  return T(emulator::load(address, sizeof(T)));
}
}  // namespace emulated

inline void st_release_sys(u32* address, u32 value) {
  emulated::put(address, value, emulator::Order::kRelease);
}
inline u32 ld_acquire_sys(const u32* address) {
  return emulated::get(address);
}
inline void st_relaxed_sys(u32* address, u32 value) {
  emulated::put(address, value);
}
inline u32 ld_relaxed_sys(const u32* address) {
  return emulated::get(address);
}
inline void st_relaxed_sys(u64* address, u64 value) {
  emulated::put(address, value);
}
inline u64 ld_relaxed_sys(const u64* address) {
  return emulated::get(address);
}
inline void st_relaxed_sys(uint4* address, uint4 value) {
  emulated::put(&address->x, value.x);
  emulated::put(&address->y, value.y);
  emulated::put(&address->z, value.z);
  emulated::put(&address->w, value.w);
}
inline uint4 ld_relaxed_sys(const uint4* address) {
  return {emulated::get(&address->x), emulated::get(&address->y), emulated::get(&address->z),
          emulated::get(&address->w)};
}
inline void st_relaxed_sys_v2(u64* address, u64 first, u64 second) {
  emulated::put(address, first);
  emulated::put(address + 1, second);
}
inline void ld_relaxed_sys_v2(const u64* address, u64& first, u64& second) {
  first = emulated::get(address);
  second = emulated::get(address + 1);
}
inline void fence_acq_rel_sys() {
  emulator::fence();
}
inline void red_add_release_sys(u32* address, u32 value) {
  emulator::store(address, value, 4, emulator::Order::kRelease, true);
}
inline void red_add_release_gpu(u32* address, u32 value) {
  emulator::store(address, value, 4, emulator::Order::kRelease, true);
}
inline u32 ld_acquire_gpu(const u32* address) {
  return emulated::get(address);
}
inline void st_release_gpu(u32* address, u32 value) {
  emulated::put(address, value, emulator::Order::kRelease);
}
inline u64 atom_add_acq_rel_gpu(u64* address, u64 value) {
  emulator::flush();
  return atomicAdd(address, value);
}
inline void red_add_relaxed_gpu(u64* address, u64 value) {
  emulator::store(address, value, 8, emulator::Order::kRelaxed, true);
}
inline void fence_proxy_async() {}
inline u64 globaltimer_ns() {
  return emulator::now_ns();
}
inline void pause() {
  emulator::pause();
}
inline void wait_for_previous_grid() {
  emulator::wait_for_previous_grid();
}
inline void launch_dependents() {
  emulator::launch_dependents();
}

}  // namespace weft::ptx
