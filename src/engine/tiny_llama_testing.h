// A small random model as a GGUF file and as a naive forward pass, for tests of whole models.
#pragma once
#include <gtest/gtest.h>

#include <cmath>

#include "engine/ranks.h"
#include "weights/gguf_writer.h"

namespace weft {

struct TinyLlamaShape {
  DType dtype = DType::kF32;  // of the matrices: f32, f16, bf16, q8_0 or q4_1
  i64 layers = 2, hidden = 64, q_heads = 6, kv_heads = 3, head_dim = 32, ffn = 160, vocab = 77;
  bool tied = false;
  bool scaled_rope = false;  // with a rope_freqs.weight tensor
  u32 seed = 1;
};

// A random model as a GGUF file and as a naive forward pass.
class TinyLlama {
 public:
  explicit TinyLlama(const TinyLlamaShape& shape);
  const TinyLlamaShape& shape() const { return shape_; }
  // Writes the file as llama.cpp lays out architecture "llama": rotated row pairs of Q and K side by side.
  Status write(const std::string& path) const;
  // logits [tokens, vocab] of one sequence, row-major, from the numbers that the file holds.
  std::vector<double> logits(const std::vector<i32>& tokens) const;

 private:
  struct Matrix {
    std::string name;
    i64 rows, columns;
    std::vector<std::byte> file;  // as `dtype` stores it
    std::vector<double> values;   // what that stands for, in the file's row order
    DType dtype;
  };
  void add(const std::string& name, i64 rows, i64 columns, DType dtype, float scale, float centre = 0);
  const Matrix& get(const std::string& name) const;
  std::vector<double> multiply(const std::string& name, const std::vector<double>& x) const;
  std::vector<double> normalise(const std::string& name, const std::vector<double>& x) const;
  void rotate(double* head, i64 position) const;

  TinyLlamaShape shape_;
  std::vector<Matrix> matrices_;
  u64 random_ = 0;
};

inline TinyLlama::TinyLlama(const TinyLlamaShape& shape) : shape_(shape), random_(shape.seed) {
  const i64 q = shape.q_heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  add("token_embd.weight", shape.vocab, shape.hidden, shape.dtype, 1.0f);
  if (!shape.tied) add("output.weight", shape.vocab, shape.hidden, shape.dtype, 0.6f);
  add("output_norm.weight", 1, shape.hidden, DType::kF32, 0.3f, 1.0f);
  if (shape.scaled_rope) add("rope_freqs.weight", 1, shape.head_dim / 2, DType::kF32, 1.0f, 3.0f);
  for (i64 i = 0; i < shape.layers; ++i) {
    const std::string blk = fmt::format("blk.{}.", i);
    add(blk + "attn_norm.weight", 1, shape.hidden, DType::kF32, 0.3f, 1.0f);
    add(blk + "attn_q.weight", q, shape.hidden, shape.dtype, 0.35f);
    add(blk + "attn_k.weight", kv, shape.hidden, shape.dtype, 0.35f);
    add(blk + "attn_v.weight", kv, shape.hidden, shape.dtype, 0.2f);
    add(blk + "attn_output.weight", shape.hidden, q, shape.dtype, 0.1f);
    add(blk + "ffn_norm.weight", 1, shape.hidden, DType::kF32, 0.3f, 1.0f);
    add(blk + "ffn_gate.weight", shape.ffn, shape.hidden, shape.dtype, 0.2f);
    add(blk + "ffn_up.weight", shape.ffn, shape.hidden, shape.dtype, 0.2f);
    add(blk + "ffn_down.weight", shape.hidden, shape.ffn, shape.dtype, 0.1f);
  }
}

inline void TinyLlama::add(const std::string& name, i64 rows, i64 columns, DType dtype, float scale, float centre) {
  Matrix matrix{name, rows, columns, {}, {}, dtype};
  auto put = [&](auto value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    matrix.file.insert(matrix.file.end(), bytes, bytes + sizeof value);
  };
  std::vector<float> x(size_t(rows * columns));
  for (float& value : x) {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    value = centre + scale * (float(random_ >> 40) * 0x1p-23f - 1.0f);
  }
  for (size_t i = 0; i < x.size(); i += size_t(dtype_layout(dtype).block)) {
    switch (dtype) {
      case DType::kF32: put(x[i]), matrix.values.push_back(x[i]); break;
      case DType::kF16: put(f16(x[i])), matrix.values.push_back(float(f16(x[i]))); break;
      case DType::kBF16: put(bf16(x[i])), matrix.values.push_back(float(bf16(x[i]))); break;
      case DType::kQ8_0: {
        const f16 d(scale / 127);
        put(d);
        for (size_t j = i; j < i + 32; ++j) {
          const i8 quant = i8(std::clamp(std::round(x[j] / float(d)), -127.0f, 127.0f));
          put(quant);
          matrix.values.push_back(double(float(d)) * quant);
        }
        break;
      }
      case DType::kQ4_1: {
        const f16 d(2 * scale / 15), m(-scale);
        put(d), put(m);
        auto quant = [&](size_t j) { return u8(std::clamp(std::round((x[j] - float(m)) / float(d)), 0.0f, 15.0f)); };
        for (size_t j = i; j < i + 16; ++j) put(u8(quant(j) | quant(j + 16) << 4));
        for (size_t j = i; j < i + 32; ++j) matrix.values.push_back(double(float(d)) * quant(j) + double(float(m)));
        break;
      }
      default: WEFT_CHECK(false, dtype_name(dtype));
    }
  }
  matrices_.push_back(std::move(matrix));
}

inline Status TinyLlama::write(const std::string& path) const {
  GgufWriter writer;
  writer.set("general.architecture", "llama").set("llama.block_count", u32(shape_.layers));
  writer.set("llama.embedding_length", u32(shape_.hidden)).set("llama.feed_forward_length", u32(shape_.ffn));
  writer.set("llama.context_length", u32(256)).set("llama.attention.head_count", u32(shape_.q_heads));
  writer.set("llama.attention.head_count_kv", u32(shape_.kv_heads));
  writer.set("llama.attention.key_length", u32(shape_.head_dim));
  writer.set("llama.attention.value_length", u32(shape_.head_dim));
  writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5f).set("llama.rope.freq_base", 10000.0f);
  for (const Matrix& m : matrices_) {
    const Shape shape = m.rows == 1 ? Shape{m.columns} : Shape{m.rows, m.columns};
    writer.tensor(m.name, TensorView::dense(const_cast<std::byte*>(m.file.data()), m.dtype, shape));
  }
  return writer.write(path);
}

inline const TinyLlama::Matrix& TinyLlama::get(const std::string& name) const {
  for (const Matrix& m : matrices_)
    if (m.name == name) return m;
  WEFT_CHECK(false, name);
  return matrices_.front();
}

inline std::vector<double> TinyLlama::multiply(const std::string& name, const std::vector<double>& x) const {
  const Matrix& m = get(name);
  std::vector<double> y(size_t(m.rows), 0.0);
  for (i64 i = 0; i < m.rows; ++i)
    for (i64 k = 0; k < m.columns; ++k) y[size_t(i)] += m.values[size_t(i * m.columns + k)] * x[size_t(k)];
  return y;
}

inline std::vector<double> TinyLlama::normalise(const std::string& name, const std::vector<double>& x) const {
  double squares = 0;
  for (double v : x) squares += v * v;
  const double scale = 1 / std::sqrt(squares / double(x.size()) + 1e-5f);
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * get(name).values[i];
  return y;
}

// The file's row order: elements 2i and 2i + 1 of a head rotate together.
inline void TinyLlama::rotate(double* head, i64 position) const {
  for (i64 i = 0; i < shape_.head_dim / 2; ++i) {
    double frequency = std::pow(10000.0, -2.0 * double(i) / double(shape_.head_dim));
    if (shape_.scaled_rope) frequency /= get("rope_freqs.weight").values[size_t(i)];
    const double c = std::cos(double(position) * frequency), s = std::sin(double(position) * frequency);
    const double a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * c - b * s;
    head[2 * i + 1] = a * s + b * c;
  }
}

inline std::vector<double> TinyLlama::logits(const std::vector<i32>& tokens) const {
  const i64 d = shape_.head_dim, group = shape_.q_heads / shape_.kv_heads;
  std::vector<std::vector<double>> x;
  for (i32 id : tokens) {
    const auto row = get("token_embd.weight").values.begin() + id * shape_.hidden;
    x.emplace_back(row, row + shape_.hidden);
  }
  for (i64 layer = 0; layer < shape_.layers; ++layer) {
    const std::string blk = fmt::format("blk.{}.", layer);
    std::vector<std::vector<double>> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const auto h = normalise(blk + "attn_norm.weight", x[t]);
      auto q = multiply(blk + "attn_q.weight", h);
      keys.push_back(multiply(blk + "attn_k.weight", h));
      values.push_back(multiply(blk + "attn_v.weight", h));
      for (i64 i = 0; i < shape_.q_heads; ++i) rotate(&q[size_t(i * d)], i64(t));
      for (i64 i = 0; i < shape_.kv_heads; ++i) rotate(&keys[t][size_t(i * d)], i64(t));
      std::vector<double> attended(size_t(shape_.q_heads * d), 0.0);
      for (i64 head = 0; head < shape_.q_heads; ++head) {
        const i64 kv = head / group;
        std::vector<double> weights;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (i64 i = 0; i < d; ++i) dot += q[size_t(head * d + i)] * keys[s][size_t(kv * d + i)];
          weights.push_back(std::exp(dot / std::sqrt(double(d))));
          sum += weights.back();
        }
        for (size_t s = 0; s <= t; ++s)
          for (i64 i = 0; i < d; ++i) {
            attended[size_t(head * d + i)] += weights[s] / sum * values[s][size_t(kv * d + i)];
          }
      }
      const auto out = multiply(blk + "attn_output.weight", attended);
      for (size_t i = 0; i < out.size(); ++i) x[t][i] += out[i];
      const auto m = normalise(blk + "ffn_norm.weight", x[t]);
      auto gate = multiply(blk + "ffn_gate.weight", m);
      const auto up = multiply(blk + "ffn_up.weight", m);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const auto down = multiply(blk + "ffn_down.weight", gate);
      for (size_t i = 0; i < down.size(); ++i) x[t][i] += down[i];
    }
  }
  std::vector<double> all;
  for (const auto& row : x) {
    const auto y = multiply(shape_.tied ? "token_embd.weight" : "output.weight", normalise("output_norm.weight", row));
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

class TinyLlamaTest : public testing::Test {
 protected:
  Pretrained open(const TinyLlama& tiny) {
    const std::string path =
        testing::TempDir() + "/tiny_" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".gguf";
    EXPECT_TRUE(tiny.write(path).ok());
    auto model = Pretrained::open(path);
    EXPECT_TRUE(model.ok()) << model.status().message();
    return *std::move(model);
  }
};

}  // namespace weft
