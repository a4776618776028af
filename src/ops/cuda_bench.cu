#include "ops/cuda_bench.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <set>

#include "base/divide.h"
#include "device/cuda/driver.cuh"
#include "device/cuda/timing.cuh"
#include "ops/embedding/embedding.cuh"
#include "ops/gemm/cublas.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"
#include "ops/quantise/quantise.cuh"
#include "ops/rms_norm/rms_norm.cuh"
#include "ops/rope/rope.cuh"
#include "ops/sampling/sampling.cuh"
#include "ops/swiglu/swiglu.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft {
namespace {

constexpr i64 kHidden = 5120, kWidth = 6400, kVocab = 151936, kHeads = 16, kKvHeads = 2, kHeadDim = 128;
constexpr i64 kCold = 256 << 20;  // bytes, several times L2
constexpr i64 kSampleRows = 512;  // more logits than that do not occur in a step

struct Variant {
  std::string name;
  std::function<Status(i64)> call;  // with the number of the call
  CudaGraph graph = {};
  std::vector<double> us = {};
};

TensorView matrix(void* data, DType dtype, i64 rows, i64 columns) {
  return TensorView::dense(data, dtype, {rows, columns}, DeviceKind::kCuda);
}

template <class T>
Result<DeviceBuffer> upload(const std::vector<T>& values) {
  WEFT_ASSIGN(auto buffer, DeviceBuffer::create(values.size() * sizeof(T)));
  WEFT_CUDA_TRY(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyDefault));
  WEFT_CUDA_TRY(cudaDeviceSynchronize());  // the stream does not wait for the default one
  return std::move(buffer);
}

// `calls` of each variant as a graph, all in shuffled rounds; us per call.
Status time_all(cudaStream_t stream, std::vector<Variant>& variants, i64 calls, int repeats) {
  WEFT_ASSIGN(const StreamTimer timer, StreamTimer::create());
  for (Variant& variant : variants) {
    WEFT_TRY(variant.call(0));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
    WEFT_ASSIGN(variant.graph, capture_graph(stream, [&]() -> Status {
                  for (i64 i = 0; i < calls; ++i) WEFT_TRY(variant.call(i));
                  return {};
                }));
    WEFT_TRY(timer.time(stream, variant.graph).status());  // warm
  }
  return in_shuffled_rounds(variants.size(), repeats, [&](size_t i) -> Status {
    WEFT_ASSIGN(const double us, timer.time(stream, variants[i].graph));
    variants[i].us.push_back(us / double(calls));
    return {};
  });
}

// Medians of a over b, repeat by repeat.
double ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return at_quantile(ratios, 0.5);
}

class RowsBench {
 public:
  RowsBench(cudaStream_t stream, int repeats, CudaRowsBenchReport& report)
      : stream_(stream), repeats_(repeats), report_(report) {}

  Status run(const std::string& op, i64 rows) {
    if (op == "rms_norm") return rms_norm(rows);
    if (op == "rope") return rope(rows);
    if (op == "swiglu") return swiglu(rows);
    if (op == "embedding") return embedding(rows);
    if (op == "take_rows") return take_rows(rows);
    if (op == "quantise") return quantise(rows);
    if (op == "sampling") return sampling(rows);
    return error(Code::kInvalidArgument, "--ops {}: no such operator", op);
  }

 private:
  // Memory for every turn: `bytes` each, a multiple of 256, at(turn) in a pool.
  struct Pool {
    DeviceBuffer memory;
    i64 bytes = 0, turns = 1;
    void* at(i64 call) const { return memory.as<std::byte>() + call % turns * bytes; }
  };
  Result<Pool> pool(i64 bytes, u32 seed = 0) {
    Pool made{{}, round_up(bytes, 256), turns_};
    WEFT_ASSIGN(made.memory, DeviceBuffer::create(size_t(made.bytes * turns_)));
    if (seed > 0) WEFT_TRY(fill_random_bf16(stream_, made.memory.data(), made.bytes * turns_ / 2, seed));
    return std::move(made);
  }
  // Sets how many buffers take turns for calls of `bytes`.
  void take_turns(i64 bytes) { turns_ = std::clamp<i64>(divide_up(kCold, bytes), 1, 64); }

  Result<std::vector<float>> bf16_row(const void* from, i64 columns) {
    std::vector<bf16> raw(static_cast<size_t>(columns));
    WEFT_CUDA_TRY(cudaMemcpyAsync(raw.data(), from, raw.size() * 2, cudaMemcpyDefault, stream_));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream_));
    std::vector<float> values;
    for (const bf16 value : raw) values.push_back(float(value));
    return values;
  }
  static Status expect_near(const char* op, const std::vector<float>& found, const std::vector<float>& expected) {
    for (size_t i = 0; i < expected.size(); ++i)
      if (!(std::abs(found[i] - expected[i]) <= std::abs(expected[i]) * 0x1p-7f + 1e-30f))
        return error(Code::kAborted, "{}: column {}: expected {}, found {}", op, i, expected[i], found[i]);
    return {};
  }

  // Times the operator beside a copy of as many bytes.
  Status time(const std::string& name, i64 rows, i64 width, i64 bytes, std::function<Status(i64)> call) {
    WEFT_ASSIGN(const Pool from, pool(bytes / 2));
    WEFT_ASSIGN(const Pool to, pool(bytes / 2));
    const auto copy = [&](i64 i) {
      return cuda_status(cudaMemcpyAsync(to.at(i), from.at(i), size_t(bytes / 2), cudaMemcpyDeviceToDevice, stream_),
                         "cudaMemcpyAsync");
    };
    std::vector<Variant> variants;
    variants.push_back({name, std::move(call)});
    variants.push_back({"copy", copy});
    WEFT_TRY(time_all(stream_, variants, std::max<i64>(turns_, 8), repeats_));
    const auto& us = variants[0].us;
    const double median = at_quantile(us, 0.5);
    report_.rows.push_back({name, rows, width, bytes, median, at_quantile(us, 0.25), at_quantile(us, 0.75),
                            double(bytes) / median * 1e-3, ratio(variants[1].us, us)});
    return {};
  }

  Status rms_norm(i64 rows) {
    const i64 bytes = rows * kHidden * 2 * 4;  // x and residual read, residual and y written
    take_turns(bytes);
    WEFT_ASSIGN(const Pool x, pool(bytes / 4, 1));
    WEFT_ASSIGN(const Pool residual, pool(bytes / 4, 2));
    WEFT_ASSIGN(const Pool y, pool(bytes / 4));
    WEFT_ASSIGN(const DeviceBuffer weight, DeviceBuffer::create(kHidden * 2));
    WEFT_TRY(fill_random_bf16(stream_, weight.data(), kHidden, 3));
    const auto call = [&](i64 i) {
      const auto view = [&](const Pool& p) { return matrix(p.at(i), DType::kBF16, rows, kHidden); };
      return cuda_rms_norm(stream_,
                           {.x = view(x),
                            .residual = view(residual),
                            .weight = TensorView::dense(weight.data(), DType::kBF16, {kHidden}, DeviceKind::kCuda),
                            .epsilon = 1e-6f,
                            .y = view(y)});
    };
    WEFT_TRY(call(0));
    WEFT_ASSIGN(const auto scale, bf16_row(weight.data(), kHidden));
    for (const i64 row : {i64(0), rows - 1}) {
      WEFT_ASSIGN(const auto stored, bf16_row(static_cast<bf16*>(residual.at(0)) + row * kHidden, kHidden));
      WEFT_ASSIGN(const auto found, bf16_row(static_cast<bf16*>(y.at(0)) + row * kHidden, kHidden));
      std::vector<float> expected(stored.size());
      rms_norm_reference(stored.data(), scale.data(), kHidden, 1e-6f, expected.data());
      WEFT_TRY(expect_near("rms_norm", found, expected));
    }
    return time("rms_norm + residual", rows, kHidden, bytes, call);
  }

  Status rope(i64 rows) {
    const i64 columns = (kHeads + 2 * kKvHeads) * kHeadDim, page = 16, pages = divide_up(rows, page);
    const i64 bytes = rows * (columns * 2 * 2 + kHeadDim * 4 + 4);
    take_turns(bytes);
    WEFT_ASSIGN(const Pool qkv, pool(rows * columns * 2, 1));
    WEFT_ASSIGN(const Pool k, pool(pages * page * kKvHeads * kHeadDim * 2));
    WEFT_ASSIGN(const Pool v, pool(pages * page * kKvHeads * kHeadDim * 2));
    WEFT_ASSIGN(const Pool angles, pool(rows * kHeadDim * 4));
    const std::vector<float> frequencies = rope_inverse_frequencies(kHeadDim, 1e6f, {});
    std::vector<i32> numbers(static_cast<size_t>(rows));
    for (size_t t = 0; t < numbers.size(); ++t) numbers[t] = i32(t);  // position and slot
    WEFT_ASSIGN(const DeviceBuffer steps, upload(numbers));
    WEFT_ASSIGN(const DeviceBuffer table, upload(frequencies));
    const auto list = TensorView::dense(steps.data(), DType::kI32, {rows}, DeviceKind::kCuda);
    for (i64 i = 0; i < turns_; ++i)
      WEFT_TRY(cuda_rope_angles(stream_, list,
                                TensorView::dense(table.data(), DType::kF32, {kHeadDim / 2}, DeviceKind::kCuda),
                                matrix(angles.at(i), DType::kF32, rows, kHeadDim)));
    const auto call = [&](i64 i) {
      const auto cache = [&](const Pool& p) {
        return TensorView::dense(p.at(i), DType::kBF16, {pages, kKvHeads, page, kHeadDim}, DeviceKind::kCuda);
      };
      return cuda_rope_kv_write(stream_, {.qkv = matrix(qkv.at(i), DType::kBF16, rows, columns),
                                          .angles = matrix(angles.at(i), DType::kF32, rows, kHeadDim),
                                          .slots = list,
                                          .q_heads = kHeads,
                                          .kv_heads = kKvHeads,
                                          .head_dim = kHeadDim,
                                          .cache = {cache(k), cache(v)}});
    };
    const void* last = static_cast<bf16*>(qkv.at(0)) + (rows - 1) * columns;
    WEFT_ASSIGN(auto expected, bf16_row(last, kHeadDim));
    WEFT_TRY(call(0));
    WEFT_ASSIGN(const auto found, bf16_row(last, kHeadDim));
    const std::vector<float> before = expected;
    rope_reference(expected.data(), kHeadDim, i32(rows - 1), frequencies.data());
    for (size_t i = 0; i < expected.size(); ++i) {  // a difference of products may cancel
      const float size = std::abs(before[i]) + std::abs(before[(i + kHeadDim / 2) % kHeadDim]);
      if (!(std::abs(found[i] - expected[i]) <= size * 0x1p-7f))
        return error(Code::kAborted, "rope: column {}: expected {}, found {}", i, expected[i], found[i]);
    }
    return time("rope + KV write", rows, columns, bytes, call);
  }

  Status swiglu(i64 rows) {
    const i64 bytes = rows * kWidth * 2 * 3;
    take_turns(bytes);
    WEFT_ASSIGN(const Pool gate_up, pool(rows * kWidth * 4, 1));
    WEFT_ASSIGN(const Pool y, pool(rows * kWidth * 2));
    const auto call = [&](i64 i) {
      return cuda_swiglu(stream_, {matrix(gate_up.at(i), DType::kBF16, rows, 2 * kWidth),
                                   matrix(y.at(i), DType::kBF16, rows, kWidth)});
    };
    WEFT_TRY(call(0));
    for (const i64 row : {i64(0), rows - 1}) {
      WEFT_ASSIGN(const auto in, bf16_row(static_cast<bf16*>(gate_up.at(0)) + row * 2 * kWidth, 2 * kWidth));
      WEFT_ASSIGN(const auto found, bf16_row(static_cast<bf16*>(y.at(0)) + row * kWidth, kWidth));
      std::vector<float> expected(found.size());
      swiglu_reference(in.data(), in.data() + kWidth, kWidth, expected.data());
      WEFT_TRY(expect_near("swiglu", found, expected));
    }
    return time("swiglu", rows, kWidth, bytes, call);
  }

  // y[i] = table[ids[i]], which both operators do.
  Status gather(const char* name, i64 rows, i64 table_rows,
                const std::function<Status(TensorView, TensorView, TensorView)>& run) {
    const i64 bytes = rows * (kHidden * 2 * 2 + 4);
    take_turns(bytes);
    WEFT_ASSIGN(const DeviceBuffer table, DeviceBuffer::create(size_t(table_rows * kHidden) * 2));
    WEFT_TRY(fill_random_bf16(stream_, table.data(), table_rows * kHidden, 1));
    WEFT_ASSIGN(const Pool y, pool(rows * kHidden * 2));
    std::mt19937 random(1);
    std::vector<i32> numbers(size_t(rows * turns_));
    for (i32& number : numbers) number = i32(random() % u64(table_rows));
    WEFT_ASSIGN(const DeviceBuffer ids, upload(numbers));
    const auto call = [&](i64 i) {
      return run(matrix(table.data(), DType::kBF16, table_rows, kHidden),
                 TensorView::dense(ids.as<i32>() + i % turns_ * rows, DType::kI32, {rows}, DeviceKind::kCuda),
                 matrix(y.at(i), DType::kBF16, rows, kHidden));
    };
    WEFT_TRY(call(0));
    for (const i64 row : {i64(0), rows - 1}) {
      WEFT_ASSIGN(const auto expected, bf16_row(table.as<bf16>() + i64(numbers[size_t(row)]) * kHidden, kHidden));
      WEFT_ASSIGN(const auto found, bf16_row(static_cast<bf16*>(y.at(0)) + row * kHidden, kHidden));
      if (found != expected) return error(Code::kAborted, "{}: row {} is wrong", name, row);
    }
    return time(name, rows, kHidden, bytes, call);
  }
  Status embedding(i64 rows) {
    return gather("embedding", rows, kVocab, [&](TensorView table, TensorView ids, TensorView y) {
      return cuda_embedding(stream_, {ids, table, 0, y});
    });
  }
  Status take_rows(i64 rows) {
    return gather("take_rows", rows, std::max<i64>(rows, 1 << 14), [&](TensorView table, TensorView ids, TensorView y) {
      return cuda_take_rows(stream_, table, ids, y);
    });
  }

  Status quantise(i64 rows) {
    const i64 blocks = kHidden / kFp8Block, bytes = rows * (kHidden * 3 + blocks * 4);
    take_turns(bytes);
    WEFT_ASSIGN(const Pool x, pool(rows * kHidden * 2, 1));
    WEFT_ASSIGN(const Pool q, pool(rows * kHidden));
    WEFT_ASSIGN(const Pool scales, pool(rows * blocks * 4));
    const auto call = [&](i64 i) {
      return cuda_quantise_fp8(
          stream_, {matrix(x.at(i), DType::kBF16, rows, kHidden), matrix(q.at(i), DType::kU8, rows, kHidden),
                    matrix(scales.at(i), DType::kF32, rows, blocks)});
    };
    WEFT_TRY(call(0));
    for (const i64 row : {i64(0), rows - 1}) {
      WEFT_ASSIGN(const auto in, bf16_row(static_cast<bf16*>(x.at(0)) + row * kHidden, kHidden));
      std::vector<u8> found(kHidden), expected(kHidden);
      std::vector<float> expected_scales(static_cast<size_t>(blocks));
      WEFT_CUDA_TRY(cudaMemcpy(found.data(), static_cast<u8*>(q.at(0)) + row * kHidden, kHidden, cudaMemcpyDefault));
      quantise_fp8_reference(in.data(), kHidden, expected.data(), expected_scales.data());
      if (found != expected) return error(Code::kAborted, "quantise: row {} is wrong", row);
    }
    return time("quantise fp8", rows, kHidden, bytes, call);
  }

  Status sampling(i64 rows) {
    const i64 bytes = rows * kVocab * 2;  // the logits once, though all but greedy pass over them again
    take_turns(bytes);
    WEFT_ASSIGN(const Pool logits, pool(bytes, 1));
    WEFT_ASSIGN(const DeviceBuffer tokens, DeviceBuffer::create(size_t(rows) * 4));
    const std::pair<const char*, SamplingParams> kinds[] = {
        {"greedy", {}},
        {"temperature 1", {.temperature = 1}},
        {"top_p 0.95", {.temperature = 1, .top_p = 0.95f}},
        {"top_k 50, top_p 0.95", {.temperature = 1, .top_k = 50, .top_p = 0.95f}}};
    for (const auto& [name, params] : kinds) {
      std::vector<CudaSampleRow> sample_rows(static_cast<size_t>(rows));
      for (size_t i = 0; i < sample_rows.size(); ++i) sample_rows[i].params = params, sample_rows[i].position = i;
      WEFT_ASSIGN(const DeviceBuffer device_rows, upload(sample_rows));
      const auto call = [&](i64 i) {
        return cuda_sample(stream_,
                           {.logits = matrix(logits.at(i), DType::kBF16, rows, kVocab),
                            .rows = device_rows.as<CudaSampleRow>(),
                            .tokens = TensorView::dense(tokens.data(), DType::kI32, {rows}, DeviceKind::kCuda)});
      };
      WEFT_TRY(call(0));
      SamplingScratch scratch;
      for (const i64 row : {i64(0), rows - 1}) {
        WEFT_ASSIGN(const auto in, bf16_row(static_cast<bf16*>(logits.at(0)) + row * kVocab, kVocab));
        WEFT_ASSIGN(const i32 expected, sample({.logits = in, .params = params, .position = u64(row)}, scratch));
        i32 found = -1;
        WEFT_CUDA_TRY(cudaMemcpy(&found, tokens.as<i32>() + row, 4, cudaMemcpyDefault));
        if (found != expected)
          return error(Code::kAborted, "sampling, {}: row {}: expected {}, found {}", name, row, expected, found);
      }
      WEFT_TRY(time(fmt::format("sampling, {}", name), rows, kVocab, bytes, call));
    }
    return {};
  }

  const cudaStream_t stream_;
  const int repeats_;
  CudaRowsBenchReport& report_;
  i64 turns_ = 1;
};

constexpr i64 kExperts = 128, kPerToken = 8;
struct GroupedShape {
  const char* name;
  i64 n, k;
};
constexpr GroupedShape kGroupedShapes[] = {{"qwen3-30b-a3b gate_up", 384, 2048},
                                           {"qwen3-30b-a3b down", 2048, 192},
                                           {"qwen3-235b-a22b gate_up", 768, 4096},
                                           {"qwen3-235b-a22b down", 4096, 384}};

Status bench_grouped(cudaStream_t stream, Cublas& cublas, const GroupedShape& shape, i64 tokens, int sms, int repeats,
                     CudaGroupedBenchReport& report) {
  const i64 n = shape.n, k = shape.k, rows = tokens * kPerToken;
  std::mt19937 random(1);
  std::vector<std::vector<i32>> chosen(kExperts);
  std::vector<i32> order(kExperts), offsets{0}, map;
  for (i32 e = 0; e < i32(kExperts); ++e) order[size_t(e)] = e;
  for (i64 t = 0; t < tokens; ++t)
    for (size_t j = 0; j < size_t(kPerToken); ++j) {  // the first steps of a shuffle
      std::swap(order[j], order[j + random() % (order.size() - j)]);
      chosen[size_t(order[j])].push_back(i32(t));
    }
  for (const auto& expert : chosen) {
    map.insert(map.end(), expert.begin(), expert.end());
    offsets.push_back(i32(map.size()));
  }
  const auto buffer = [](i64 elements) { return DeviceBuffer::create(size_t(elements) * 2); };
  WEFT_ASSIGN(const auto x, buffer(tokens * k));
  WEFT_ASSIGN(const auto sorted, buffer(rows * k));
  WEFT_ASSIGN(const auto w, buffer(kExperts * n * k));
  WEFT_ASSIGN(const auto y, buffer(rows * n));
  WEFT_ASSIGN(const auto expected, buffer(rows * n));
  WEFT_ASSIGN(const auto device_offsets, upload(offsets));
  WEFT_ASSIGN(const auto device_map, upload(map));
  WEFT_TRY(fill_random_bf16(stream, x.data(), tokens * k, 1));
  WEFT_TRY(fill_random_bf16(stream, w.data(), kExperts * n * k, 2));
  const auto view = [](const DeviceBuffer& b, i64 r, i64 c) { return matrix(b.data(), DType::kBF16, r, c); };
  const auto list = TensorView::dense(device_map.data(), DType::kI32, {rows}, DeviceKind::kCuda);
  WEFT_TRY(cuda_take_rows(stream, view(x, tokens, k), list, view(sorted, rows, k)));
  const auto grouped = [&](bool gathers) {
    return cuda_grouped_gemm(
        stream, {.x = gathers ? view(x, tokens, k) : view(sorted, rows, k),
                 .map = gathers ? list : TensorView{},
                 .offsets = TensorView::dense(device_offsets.data(), DType::kI32, {kExperts + 1}, DeviceKind::kCuda),
                 .w = TensorView::dense(w.data(), DType::kBF16, {kExperts, n, k}, DeviceKind::kCuda),
                 .y = view(y, rows, n)});
  };
  const auto by_expert = [&](i64) -> Status {
    for (size_t e = 0; e < size_t(kExperts); ++e)
      if (const int count = offsets[e + 1] - offsets[e]; count > 0)
        WEFT_TRY(cublas.gemm(sorted.as<bf16>() + offsets[e] * k, w.as<bf16>() + i64(e) * n * k,
                             expected.as<bf16>() + offsets[e] * n, count, int(n), int(k)));
    return {};
  };
  WEFT_TRY(by_expert(0));
  for (const bool gathers : {false, true}) {
    WEFT_CUDA_TRY(cudaMemsetAsync(y.data(), 0xff, y.bytes(), stream));
    WEFT_TRY(grouped(gathers));
    WEFT_ASSIGN(const double distance, relative_distance_bf16(stream, y.data(), expected.data(), rows * n));
    // Both round fp32 sums to bf16: at most an ulp apart, 2^-8 of a value.
    if (!(distance <= 0x1p-8))
      return error(Code::kAborted, "{}, {} tokens, map {}: differs from cuBLAS by {}", shape.name, tokens, gathers,
                   distance);
  }
  std::vector<Variant> variants;
  variants.push_back({"weft sorted", [&](i64) { return grouped(false); }});
  variants.push_back({"weft gathered", [&](i64) { return grouped(true); }});
  variants.push_back({"weft take_rows + sorted", [&](i64) -> Status {
                        WEFT_TRY(cuda_take_rows(stream, view(x, tokens, k), list, view(sorted, rows, k)));
                        return grouped(false);
                      }});
  variants.push_back({"cuBLAS by expert", by_expert});
  variants.push_back({"cuBLAS dense", [&](i64) {
                        return cublas.gemm(sorted.data(), w.data(), expected.data(), int(rows), int(n), int(k));
                      }});
  const double flop = 2.0 * double(rows) * double(n) * double(k);
  WEFT_TRY(time_all(stream, variants, std::clamp<i64>(i64(1e12 / flop), 2, 20), repeats));
  const GemmTileShape tile = plan_grouped_gemm_sm90(rows, kExperts, n, k, sms).tile;
  for (const Variant& v : variants)
    report.rows.push_back(
        {shape.name, v.name, tokens, rows, n, k, v.name.starts_with("weft") ? fmt::format("{}x{}", tile.m, tile.n) : "",
         at_quantile(v.us, 0.5), at_quantile(v.us, 0.25), at_quantile(v.us, 0.75), ratio(v.us, variants.back().us)});
  return {};
}

}  // namespace

Result<CudaRowsBenchReport> bench_cuda_rows(const CudaRowsBenchOptions& options) {
  CudaRowsBenchReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  WEFT_CUDA_TRY(cudaSetDevice(0));
  WEFT_ASSIGN(const auto stream, make_stream());
  RowsBench bench(stream.get(), options.repeats, report);
  std::set<i64> timed;
  for (const i64 asked : options.rows) {
    const i64 rows = options.op == "sampling" ? std::min(asked, kSampleRows) : asked;
    if (timed.insert(rows).second) WEFT_TRY(bench.run(options.op, rows));
  }
  return report;
}

Result<CudaGroupedBenchReport> bench_cuda_grouped_gemm(const CudaGroupedBenchOptions& options) {
  CudaGroupedBenchReport report;
  WEFT_ASSIGN(report.device, cuda_device_name());
  WEFT_CUDA_TRY(cudaSetDevice(0));
  int sms = 0;
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  WEFT_ASSIGN(const auto stream, make_stream());
  WEFT_ASSIGN(const auto cublas, Cublas::open(stream.get()));
  report.cublas = cublas->version();
  for (const GroupedShape& shape : kGroupedShapes)
    for (const i64 tokens : options.tokens)
      WEFT_TRY(bench_grouped(stream.get(), *cublas, shape, tokens, sms, options.repeats, report));
  return report;
}

}  // namespace weft
