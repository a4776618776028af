// For tests that run row operators' kernels on the emulator; include device/emulator/language.h first.
#pragma once
#include <memory>

#include "device/cuda/rows.cuh"
#include "device/emulator/testing.h"
#include "ops/row_testing.h"

namespace weft::testing {

class EmulatedMemory {
 public:
  static Result<EmulatedMemory> create(size_t bytes) {
    EmulatedMemory memory;
    memory.lines_ = std::make_unique<Line[]>(bytes / sizeof(Line) + 1);
    return Result(std::move(memory));
  }
  std::byte* data() const { return lines_[0].bytes; }
  Status write(const std::vector<std::byte>& bytes) const {
    std::memcpy(data(), bytes.data(), bytes.size());
    return {};
  }
  Status read(std::vector<std::byte>& bytes) const {
    std::memcpy(bytes.data(), data(), bytes.size());
    return {};
  }

 private:
  struct alignas(256) Line {
    std::byte bytes[256];
  };
  std::unique_ptr<Line[]> lines_;
};

// Where the checks that GPUs share (cases.h) run. Every run has a seed of its own.
class OnEmulator {
 public:
  using Matrix = TestMatrix<EmulatedMemory>;

  // Behind what has been added before, which run() runs.
  template <class Params>
  Status add(const Result<RowLaunch<Params>>& made) {
    WEFT_TRY(made.status());
    const RowLaunch<Params>& rows = *made;
    if (rows.ctas == 0) return {};
    launches_.push_back({.ctas = int(rows.loops ? std::min<i64>(rows.ctas, kMostCtas) : rows.ctas),
                         .threads = rows.threads,
                         .early = rows.early,
                         .kernel = [kernel = rows.kernel, params = rows.params] { kernel(params); }});
    return {};
  }
  Status add(emulator::Launch made) {
    launches_.push_back(std::move(made));
    return {};
  }
  Status run() {
    if (launches_.empty()) return {};
    const std::string found = emulator::run(std::exchange(launches_, {}), ++seed_);
    return found.empty() ? Status() : error(Code::kAborted, "{}", found);
  }
  template <class Made>
  Status run(const Made& made) {
    WEFT_TRY(add(made));
    return run();
  }
  // An early launch behind a kernel that writes `input`, a matrix, as it is now, while that one is under way.
  template <class Made>
  Status run_behind(const TensorView& input, const Made& made) {
    const std::vector<std::byte> bytes(input.data, input.data + input.dim(0) * input.byte_strides[0]);
    std::memset(input.data, 0, bytes.size());
    WEFT_TRY(add({.threads = 32, .kernel = [&] {
                    emulator::launch_dependents();
                    for (int i = 0; i < 4; ++i) __syncthreads();
                    if (threadIdx.x == 0) std::memcpy(input.data, bytes.data(), bytes.size());
                  }}));
    return run(made);
  }

  // Sets up and calls twice: the outputs must have the same bits.
  Status repeat(const std::function<Status()>& set_up, const std::function<Status()>& call,
                const std::vector<const Matrix*>& outputs) const {
    return call_twice<Matrix>(set_up, [&](int) { return call(); }, outputs);
  }

 private:
  static constexpr i64 kMostCtas = 2;  // that take work in turn
  u64 seed_ = 0;
  std::vector<emulator::Launch> launches_;
};

}  // namespace weft::testing
