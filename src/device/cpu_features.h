// CpuIsa: which of the compiled instruction sets the CPU operators use. Chosen once per process.
#pragma once
#include "base/status.h"
#include "base/types.h"

namespace weft {

// Each contains the ones before it. Kernel files carry the same names as suffixes (gemm_avx512vnni.cc).
enum class CpuIsa : u8 {
  kGeneric,     // plain C++, any processor
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Vnni,  // AVX-512 VNNI and BF16
  kAmx,         // AMX tiles, BF16 and INT8
};
constexpr CpuIsa kCpuIsas[] = {CpuIsa::kGeneric, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Vnni, CpuIsa::kAmx};

// As WEFT_CPU spells it: "generic", "avx2", "avx512", "avx512vnni", "amx".
const char* cpu_isa_name(CpuIsa isa);

// True if this build has kernels for `isa` and the processor and operating system can run them. The first
// call for kAmx asks the system for the tiles on behalf of the whole process.
bool cpu_supports(CpuIsa isa);

// The set that `name` asks for; the best supported one if `name` is null. Errors: kInvalidArgument for an unknown name
// or one that this processor cannot run; the message lists what it can run.
Result<CpuIsa> choose_cpu_isa(const char* name);

// choose_cpu_isa() of the environment variable WEFT_CPU: programs call it at start-up and report its error.
Status check_cpu_isa();

// The set in use: that of WEFT_CPU if it is set, else the best. Read once; a WEFT_CPU that check_cpu_isa() refuses
// ends the process here.
CpuIsa cpu_isa();

}  // namespace weft
