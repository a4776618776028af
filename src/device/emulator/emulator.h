// The emulator: CUDA kernels' own text on a CPU, for tests. A header with kernels is compiled as C++ behind
// device/emulator/language.h; every thread of every CTA of every rank is a fibre under a seeded scheduler, so that a
// seed is one interleaving, and a run with it is repeatable.
//
// Stores that peers wait for (ptx::st_relaxed_sys() and its like) reach memory late and in any order but that of one
// address; a release, or what follows a fence, comes behind what its thread stored or saw at a barrier before. A vector
// store comes as its elements. The end of a kernel is the end of its stores. Kernels of a stream overlap as
// programmatic dependent launch allows. Shared memory begins as garbage.
//
// Found: waits that can never end (the kernel's own deadline expires at once), lanes of a warp that meet at different
// instructions, barriers that not all reach. Not modelled: loads that return old values, plain stores that others see
// late, races on plain memory. Hopper's copies and products: sm90.h.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/types.h"

namespace weft::emulator {

struct Launch {
  int stream = 0;  // kernels of a stream follow each other in the order of the list; streams run side by side
  int ctas = 1, threads = 32;
  int cluster = 1;  // CTAs of a cluster, a divisor of ctas
  size_t shared_bytes = 0;
  bool early = false;            // begins once every CTA of the kernel before has allowed it by launch_dependents()
  std::function<void()> kernel;  // the body of every thread
};

// Runs all of them to the end. Empty, or what was found: "trap" (a FaultRecord says why), "deadlock: ...". Calls from
// several host threads stand apart. Neighbouring seeds differ in how late stores and copies come.
std::string run(const std::vector<Launch>& launches, u64 seed);

// ---- what language.h and ptx.h are made of; only on a thread of a kernel ----

// [warp] Lane `l` of the result is what lane l gave. `what`: the instruction, the same on all lanes.
const u64* meet(const char* what, u64 value);
// [cta] Of the threads that have not ended.
void sync_threads();
// Between two looks of a wait: until memory has changed.
void pause();
[[noreturn]] void trap();
u64 now_ns();
std::byte* dynamic_shared();
// [cluster] All threads.
void sync_cluster();
// The address in dynamic shared memory of CTA `cta` of the cluster that stands for `mine` in this one's.
std::byte* in_cta(const void* mine, unsigned cta);
void wait_for_previous_grid();
void launch_dependents();

enum class Order { kRelaxed, kRelease };
// Of 4 or 8 bytes. add: to what stands there.
void store(void* address, u64 value, int bytes, Order order, bool add = false);
// What stands there, or this thread's own store on its way.
u64 load(const void* address, int bytes);
// This CTA's stores arrive first.
void flush();
// This thread's earlier stores, and what it saw at barriers, before its later stores.
void fence();

}  // namespace weft::emulator
