// Thread block clusters: barriers, each other's shared memory. Source: PTX ISA 9.0, "barrier.cluster", "mapa", "ld".
#pragma once
#include "device/cuda/sm90.cuh"

#if !defined(WEFT_EMULATOR)

namespace weft::ptx {

// All threads of all CTAs of the cluster: what each wrote to shared memory before is visible to all after.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The address of this CTA's shared object in CTA `cta` of the cluster.
__device__ __forceinline__ u32 map_to_cta(u32 address, u32 cta) {
  u32 mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(cta));
  return mapped;
}
// The same for a pointer that ordinary loads and stores take.
template <class T>
__device__ __forceinline__ T* in_cta(T* shared, u32 cta) {
  u64 mapped;
  asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(shared), "r"(cta));
  return reinterpret_cast<T*>(mapped);
}
__device__ __forceinline__ float4 ld_shared_cluster_f32x4(u32 address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// L2 keeps what is loaded under this policy shortest.
__device__ __forceinline__ u64 policy_evict_first() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// tma_load_2d() under an L2 policy.
__device__ __forceinline__ void tma_load_2d_hint(void* to, const CUtensorMap* map, u64* barrier, i32 x, i32 y,
                                                 u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "l"(policy)
      : "memory");
}

}  // namespace weft::ptx
#endif
