// AMX tiles beside AVX-512 with VNNI and BF16. Threads may call this once the process has the permission that
// cpu_supports(CpuIsa::kAmx) asks for.
#include "ops/gemm/amx_body.h"
#include "ops/gemm/vector_avx512vnni.h"

namespace weft {
namespace {

// Assembly, because register numbers cannot be template arguments of GCC's intrinsics.
struct Amx {
  static void configure(const u8 (&rows)[8], const u16 (&bytes)[8]) {
    struct {
      u8 palette, start_row, reserved[14];
      u16 bytes[16];
      u8 rows[16];
    } config = {};
    static_assert(sizeof config == 64);
    config.palette = 1;
    for (int t = 0; t < 8; ++t) config.rows[t] = rows[t], config.bytes[t] = bytes[t];
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  static void release() { asm volatile("tilerelease" ::: "memory"); }
  template <int t>
  static WEFT_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  template <int t>
  static WEFT_INLINE void load(const void* from, i64 stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
  }
  template <int t>
  static WEFT_INLINE void store(void* to, i64 stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
  }
  template <int c, int a, int b>
  static WEFT_INLINE void dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
  template <int c, int a, int b>
  static WEFT_INLINE void dot_bytes() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
};

}  // namespace

const GemmKernels kGemmAmx = make_tile_kernels<Avx512Vnni, Amx>();

}  // namespace weft
