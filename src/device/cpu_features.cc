#include "device/cpu_features.h"

#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace weft {
#if defined(__x86_64__)
namespace {

// Tiles with BF16 and INT8 products, whose state the system saves. GCC 12 knows no name for them.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, CPUID leaves 1 and 7, XCR0.
bool has_amx() {
  constexpr unsigned kOsXsave = 1u << 27, kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kTileState = 3u << 17;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8))
    return false;
  asm("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState;
}

// Linux lends the tile registers to processes that ask (Documentation/arch/x86/xstate.rst); threads share the
// permission.
bool permit_amx() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace
#endif

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kGeneric: return "generic";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAvx512Vnni: return "avx512vnni";
    case CpuIsa::kAmx: return "amx";
  }
  return "?";
}

bool cpu_supports(CpuIsa isa) {
#if defined(__x86_64__)
  // The compiler's run-time checks CPUID and, through XGETBV, that the system saves the wide registers.
  switch (isa) {
    case CpuIsa::kGeneric: return true;
    case CpuIsa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case CpuIsa::kAvx512:
      return cpu_supports(CpuIsa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case CpuIsa::kAvx512Vnni:
      return cpu_supports(CpuIsa::kAvx512) && __builtin_cpu_supports("avx512vnni") &&
             __builtin_cpu_supports("avx512bf16");
    case CpuIsa::kAmx: {
      static const bool permitted = has_amx() && permit_amx();
      return cpu_supports(CpuIsa::kAvx512Vnni) && permitted;
    }
  }
  return false;
#else
  return isa == CpuIsa::kGeneric;
#endif
}

Result<CpuIsa> choose_cpu_isa(const char* name) {
  CpuIsa best = CpuIsa::kGeneric;
  std::string supported;
  for (CpuIsa isa : kCpuIsas) {
    if (!cpu_supports(isa)) continue;
    best = isa;
    supported += (supported.empty() ? "" : ", ") + std::string(cpu_isa_name(isa));
  }
  if (!name) return best;
  for (CpuIsa isa : kCpuIsas) {
    if (std::string_view(name) != cpu_isa_name(isa)) continue;
    if (cpu_supports(isa)) return isa;
    return error(Code::kInvalidArgument, "WEFT_CPU: this processor cannot run '{}'; it can run: {}", name, supported);
  }
  return error(Code::kInvalidArgument, "WEFT_CPU: unknown instruction set '{}'; this processor can run: {}", name,
               supported);
}

Status check_cpu_isa() {
  return choose_cpu_isa(std::getenv("WEFT_CPU")).status();
}

CpuIsa cpu_isa() {
  static const CpuIsa isa = *choose_cpu_isa(std::getenv("WEFT_CPU"));
  return isa;
}

}  // namespace weft
