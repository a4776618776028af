// Two MLP layers over the ranks of either device, for tests.
#pragma once
#include <algorithm>

#include "layers/mlp_layer.h"
#include "ops/swiglu/swiglu.h"
#include "ops/testing.h"

namespace weft::testing {

// How far `found`, from element `first` of the reference on, is from it, relative to what the layers add to x.
inline Status expect_near(const std::vector<float>& expected, const std::vector<float>& x, i64 first,
                          const std::vector<float>& found, double limit) {
  double wrong = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const size_t at = size_t(first) + i;
    wrong += std::pow(double(found[i]) - double(expected[at]), 2);
    size += std::pow(double(expected[at]) - double(x[at]), 2);
  }
  if (found.empty() || std::sqrt(wrong / size) <= limit) return {};
  return error(Code::kDataLoss, "{} from the reference, limit {}", std::sqrt(wrong / size), limit);
}

struct MlpNumbers {
  static constexpr i64 kHidden = 96, kFfn = 160;
  static constexpr float kEpsilon = 1e-5f;
  i64 tokens;
  std::vector<float> norm, gate_up, down, x;

  // Of numbers that bf16 holds.
  static MlpNumbers random(i64 tokens) {
    MlpNumbers n{.tokens = tokens,
                 .norm = std::vector<float>(kHidden),
                 .gate_up = std::vector<float>(2 * kFfn * kHidden),
                 .down = std::vector<float>(kHidden * kFfn),
                 .x = std::vector<float>(size_t(tokens * kHidden))};
    fill_normal(n.norm.data(), kHidden, 1);
    fill_normal(n.gate_up.data(), 2 * kFfn * kHidden, 2, 0.1f);
    fill_normal(n.down.data(), kHidden * kFfn, 3, 0.1f);
    fill_normal(n.x.data(), tokens * kHidden, 4);
    for (auto* matrix : {&n.gate_up, &n.down})
      for (float& value : *matrix) value = float(bf16(value));
    return n;
  }

  // x after both layers, which have the same weights.
  std::vector<float> reference() const {
    const auto dot = [](const float* a, const float* b, i64 n) {
      double sum = 0;
      for (i64 i = 0; i < n; ++i) sum += double(a[i]) * b[i];
      return float(sum);
    };
    std::vector<float> y = x, normed(kHidden), gate(kFfn), up(kFfn), activated(kFfn);
    for (i64 row = 0; row < 2 * tokens; ++row) {
      float* at = y.data() + row / 2 * kHidden;
      rms_norm_reference(at, norm.data(), kHidden, kEpsilon, normed.data());
      for (i64 j = 0; j < kFfn; ++j) {
        gate[size_t(j)] = dot(normed.data(), &gate_up[size_t(j * kHidden)], kHidden);
        up[size_t(j)] = dot(normed.data(), &gate_up[size_t((kFfn + j) * kHidden)], kHidden);
      }
      swiglu_reference(gate.data(), up.data(), kFfn, activated.data());
      for (i64 i = 0; i < kHidden; ++i) at[i] += dot(activated.data(), &down[size_t(i * kFfn)], kFfn);
    }
    return y;
  }
};

// What a rank of two_layers() does on its device.
struct MlpDevice {
  std::function<Status(const std::function<Status(Exec&)>&)> run;  // the work, to its end
  std::function<Status(const TensorView& to, const float* from)> write;
  std::function<Status(const TensorView& from, float* to)> read;
};

// Two threads of a CPU.
inline MlpDevice cpu_device() {
  return {.run = [](const auto& work) { return run_team(2, work); },
          .write = [](const TensorView& to, const float* from) -> Status {
            std::copy_n(from, to.shape.elements(), to.as<float>());
            return {};
          },
          .read = [](const TensorView& from, float* to) -> Status {
            std::copy_n(from.as<const float>(), from.shape.elements(), to);
            return {};
          }};
}

// The layers with weights packed from `dtype`, then a norm. kDataLoss where this rank's rows of the residual are
// further than `limit` from the reference.
inline Status two_layers(Communicator& comm, const MlpDevice& device, DType dtype, LayerMode mode,
                         const std::string& all_reduce, const MlpNumbers& numbers, double limit) {
  constexpr i64 kHidden = MlpNumbers::kHidden, kFfn = MlpNumbers::kFfn;
  const Range eights = split_range(kFfn / 8, comm.size(), comm.rank());
  const Range mine{eights.begin * 8, eights.end * 8};
  const auto share = [&](const std::vector<float>& values, i64 columns, std::vector<i64> rows,
                         Range k) -> Result<Weight> {
    const Tensor raw = Tensor::zeros(dtype, {i64(values.size()) / columns, columns});
    for (size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::kF32) raw.view.as<float>()[i] = values[i];
      if (dtype == DType::kBF16) raw.view.as<bf16>()[i] = bf16(values[i]);
    }
    const WeightPart part{.raw = raw.view, .rows = std::move(rows), .k_begin = k.begin, .k_end = k.end};
    WEFT_ASSIGN(Weight weight, Weight::pack("w", {&part, 1}));
    if (comm.device() == DeviceKind::kCpu) return Result<Weight>(std::move(weight));
    return weight.copy_to_gpu();
  };
  std::vector<i64> rows;
  for (const i64 half : {i64(0), kFfn})
    for (i64 i = mine.begin; i < mine.end; ++i) rows.push_back(half + i);
  MlpWeights weights;
  WEFT_ASSIGN(weights.norm, make_tensor(comm.device(), DType::kF32, {kHidden}));
  WEFT_TRY(device.write(weights.norm.view, numbers.norm.data()));
  WEFT_ASSIGN(weights.gate_up, share(numbers.gate_up, kHidden, rows, {0, kHidden}));
  WEFT_ASSIGN(weights.down, share(numbers.down, kFfn, {}, mine));
  const TensorView norm = weights.norm.view;
  const ActivationFormat format = weights.gate_up.activation_format();
  const MlpLayer layer(std::move(weights), MlpNumbers::kEpsilon);

  TensorParallelShape shape{.max_tokens = numbers.tokens,
                            .max_logits = 0,
                            .hidden = kHidden,
                            .vocab = 0,
                            .column_formats = {},
                            .column_n = 2 * kFfn,
                            .row_k = kFfn};
  shape.column_formats[size_t(format)] = true;
  WEFT_ASSIGN(const auto tp, TensorParallel::create(comm, shape, mode, {.all_reduce = all_reduce}));
  WEFT_ASSIGN(Workspace workspace, Workspace::create({.max_tokens = numbers.tokens,
                                                      .max_logits = 0,
                                                      .hidden = kHidden,
                                                      .head_dim = 0,
                                                      .qkv = 0,
                                                      .attention = 0,
                                                      .ffn = mine.size(),
                                                      .vocab = 0,
                                                      .attention_format = format,
                                                      .ffn_format = format,
                                                      .head_format = format},
                                                     comm.device()));
  const Range local = tp->local_tokens(numbers.tokens);
  const TensorView local_rows = leading(workspace.residual, local.size(), kHidden);
  WEFT_TRY(device.write(local_rows, numbers.x.data() + local.begin * kHidden));
  WEFT_TRY(device.run([&](Exec& exec) -> Status {
    Residual residual{.rows = local_rows};
    WEFT_TRY(layer.forward(exec, *tp, workspace, numbers.tokens, residual));
    WEFT_TRY(layer.forward(exec, *tp, workspace, numbers.tokens, residual));
    return normalise(exec, residual, norm, MlpNumbers::kEpsilon, tp->column_input(format, numbers.tokens));
  }));
  std::vector<float> found(size_t(local.size() * kHidden));
  WEFT_TRY(device.read(local_rows, found.data()));
  return expect_near(numbers.reference(), numbers.x, local.begin * kHidden, found, limit);
}

}  // namespace weft::testing
