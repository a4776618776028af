#include "device/cpu_features.h"

#include <cstdlib>
#include <string_view>

namespace weft {

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kGeneric: return "generic";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAvx512Vnni: return "avx512vnni";
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
