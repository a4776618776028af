#include <numeric>

#include "ops/attention/attention.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

// Sequences of given lengths in a cache whose pages are shuffled; unused slots hold NaN. A step holds the last
// `queries[r]` tokens of sequence r.
struct Scene {
  i64 head_dim, kv_heads, page_tokens;
  HeadMap heads;
  DType dtype = DType::kBF16;
  std::vector<i32> lengths;

  std::vector<std::vector<float>> keys = {}, values = {}, queries = {};  // per sequence [length, heads * head_dim]
  std::vector<std::vector<i32>> pages = {};                              // per sequence
  std::optional<KvCache> cache = {};

  i64 q_heads() const { return i64(heads.kv_head_of.size()); }

  void build(u32 seed) {
    i64 total = 1;
    for (i32 length : lengths) total += (length + page_tokens - 1) / page_tokens + 1;
    cache = std::move(KvCache::create({1, total, kv_heads, page_tokens, head_dim, dtype})).value();
    std::vector<i32> free(size_t(total), 0);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(seed));
    const i64 elements = total * kv_heads * page_tokens * head_dim;
    for (i64 i = 0; i < elements; ++i) set(cache->layer(0).k, i, NAN), set(cache->layer(0).v, i, NAN);
    for (i32 length : lengths) {
      pages.emplace_back();
      for (i64 p = 0; p * page_tokens < length; ++p) pages.back().push_back(free.back()), free.pop_back();
      const auto random = [&](i64 count) {
        std::vector<float> x(static_cast<size_t>(count));
        fill_normal(x.data(), count, ++seed);
        return x;
      };
      keys.push_back(random(length * kv_heads * head_dim));
      values.push_back(random(length * kv_heads * head_dim));
      queries.push_back(random(length * q_heads() * head_dim));
      for (i32 t = 0; t < length; ++t) {
        for (i64 h = 0; h < kv_heads; ++h) {
          for (i64 d = 0; d < head_dim; ++d) {
            const i64 page = pages.back()[size_t(t / page_tokens)];
            const i64 to = ((page * kv_heads + h) * page_tokens + t % page_tokens) * head_dim + d;
            const size_t from = size_t((t * kv_heads + h) * head_dim + d);
            set(cache->layer(0).k, to, keys.back()[from]);
            set(cache->layer(0).v, to, values.back()[from]);
          }
        }
      }
    }
  }

  void set(const TensorView& view, i64 i, float x) const {
    if (dtype == DType::kBF16) view.as<bf16>()[i] = bf16(x);
    if (dtype == DType::kF16) view.as<f16>()[i] = f16(x);
    if (dtype == DType::kF32) view.as<float>()[i] = x;
  }
};

// Tokens [begin, end) of sequence `sequence`, seen as if the sequence ended there.
struct Chunk {
  size_t sequence;
  i32 begin, end;
};

// One step over chunks, and what owns its tensors.
struct Step {
  std::vector<i32> positions, starts{0}, lens, table;
  PaddedMatrix q;
  StepBatch batch;

  Step(const Scene& scene, const std::vector<Chunk>& chunks)
      : q(count(chunks), scene.q_heads() * scene.head_dim, 7, 1) {
    size_t max_pages = 1;
    for (const Chunk& chunk : chunks) max_pages = std::max(max_pages, scene.pages[chunk.sequence].size());
    for (const Chunk& chunk : chunks) {
      for (i32 t = chunk.begin; t < chunk.end; ++t) {
        const float* from = &scene.queries[chunk.sequence][size_t(t * scene.q_heads() * scene.head_dim)];
        std::copy_n(from, scene.q_heads() * scene.head_dim, q.view.row<float>(i64(positions.size())));
        positions.push_back(t);
      }
      starts.push_back(i32(positions.size()));
      lens.push_back(chunk.end);
      std::vector<i32> pages = scene.pages[chunk.sequence];
      pages.resize(max_pages, -1);
      table.insert(table.end(), pages.begin(), pages.end());
    }
    const i64 rows = i64(chunks.size());
    batch.positions = TensorView::dense(positions.data(), DType::kI32, {i64(positions.size())});
    batch.token_ids = batch.positions;
    batch.row_starts = TensorView::dense(starts.data(), DType::kI32, {rows + 1});
    batch.kv_lens = TensorView::dense(lens.data(), DType::kI32, {rows});
    batch.page_table = TensorView::dense(table.data(), DType::kI32, {rows, i64(max_pages)});
  }
  static i64 count(const std::vector<Chunk>& chunks) {
    i64 tokens = 0;
    for (const Chunk& chunk : chunks) tokens += chunk.end - chunk.begin;
    return tokens;
  }
};

struct Options {
  int threads = 1;
  i64 window = 0;
  ActivationFormat format = ActivationFormat::kF32;
  i64 parts = kAttentionParts;
};

// Rows of the result as bytes; checked against the reference if `check`.
std::vector<std::string> run(const Scene& scene, const std::vector<Chunk>& chunks, const Options& options,
                             bool check = false) {
  Step step(scene, chunks);
  const i64 tokens = step.batch.tokens(), width = scene.q_heads() * scene.head_dim;
  const auto y = ActivationBuffer::create(options.format, tokens, width);
  const float scale = 1 / std::sqrt(float(scene.head_dim));
  const AlignedBuffer memory(size_t(options.parts) * sizeof(float));
  const std::span<float> parts(reinterpret_cast<float*>(memory.data()), size_t(options.parts));
  const AttentionArgs args{step.q.view, scene.head_dim, scene.heads,    step.batch, scene.cache->layer(0),
                           scale,       y.view(tokens), options.window, parts};
  const Status status = run_team(options.threads, [&](Exec& exec) { return attention(exec, args); });
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<std::string> rows;
  for (i64 t = 0; t < tokens; ++t) rows.push_back(activation_bytes(y.view(tokens), t));
  if (!check) return rows;
  Tensor expected = Tensor::zeros(DType::kF32, {tokens, width});
  attention_reference(args, expected.view);
  for (i64 t = 0; t < tokens; ++t) {
    const std::vector<float> found = activation_row(y.view(tokens), t);
    const std::vector<float> row(expected.view.row<float>(t), expected.view.row<float>(t) + width);
    // A score sums head_dim products of deviation 1 (error up to head_dim * 2^-24 * sum |q k| * scale, about
    // head_dim^1.5 * 2^-24); weights carry it relatively, with exp's 4 roundings and, for every block, two more; the
    // sums of up to n weighted values of size below 5 add n roundings in the worst case.
    const float n = float(step.positions[size_t(t)] + 1);
    const float bound = 0x1p-24f * 5 * (2 * std::pow(float(scene.head_dim), 1.5f) + 8 + n + n / 32);
    for (i64 k = 0; k < width; ++k) {
      const float storage = storage_error(options.format, row, size_t(k));
      EXPECT_NEAR(found[size_t(k)], row[size_t(k)], bound + storage * 1.01f) << "token " << t << " column " << k;
      if (::testing::Test::HasFailure()) return rows;
    }
  }
  return rows;
}

HeadMap groups(i64 q_heads, i64 kv_heads) {
  HeadMap map;
  for (i64 h = 0; h < q_heads; ++h) map.kv_head_of.push_back(i32(h * kv_heads / q_heads));
  return map;
}

TEST(Attention, MatchesReferenceOverShapes) {
  struct Shape {
    i64 head_dim, page_tokens;
    HeadMap heads;
    i64 kv_heads;
  };
  const std::vector<Shape> shapes{
      {64, 16, groups(9, 3), 3},   {128, 64, groups(4, 4), 4}, {80, 7, groups(5, 1), 1},   {8, 1, groups(4, 2), 2},
      {256, 128, groups(2, 1), 1}, {24, 5, {{1, 1, 0, 1}}, 2}, {16, 33, groups(70, 1), 1}, {1, 3, groups(1, 1), 1},
  };
  for (const Shape& shape : shapes) {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      Scene scene{shape.head_dim, shape.kv_heads, shape.page_tokens, shape.heads, dtype, {130, 1, 65, 200}};
      scene.build(3);
      const std::vector<Chunk> chunks{{0, 0, 130}, {1, 0, 1}, {2, 64, 65}, {3, 100, 177}};
      for (i64 window : {0, 1, 50, 64, 1000}) {
        run(scene, chunks, {2, window}, true);
        if (HasFailure()) FAIL() << shape.head_dim << " " << dtype_name(dtype) << " window " << window;
      }
      for (ActivationFormat format : kFormats) {
        if (format == ActivationFormat::kQ16 && shape.head_dim * scene.q_heads() % 32 != 0) continue;
        run(scene, chunks, {2, 0, format}, true);
        if (HasFailure()) FAIL() << shape.head_dim << " " << activation_format_name(format);
      }
    }
  }
}

TEST(Attention, SharingBlocksOverThreadsKeepsTheBits) {
  struct Shape {
    i64 head_dim;
    HeadMap heads;
    i64 kv_heads;
  };
  for (const Shape& shape : {Shape{64, groups(9, 3), 3}, Shape{80, groups(4, 1), 1}, Shape{8, {{1, 1, 0, 1}}, 2}}) {
    Scene scene{shape.head_dim, shape.kv_heads, 16, shape.heads, DType::kBF16, {300, 90}};
    scene.build(5);
    for (const i64 window : {0, 70}) {
      for (const ActivationFormat format : {ActivationFormat::kF32, ActivationFormat::kQ16}) {
        const auto whole = run(scene, {{0, 0, 300}}, {1, window, format});
        const auto other = run(scene, {{1, 0, 90}}, {1, window, format});
        for (const int threads : {2, 3, 7}) {
          for (const i64 parts : {kAttentionParts, i64(1000), i64(0)}) {
            const Options options{threads, window, format, parts};
            for (const i32 at : {0, 63, 64, 191, 299}) {
              ASSERT_EQ(run(scene, {{0, at, at + 1}}, options)[0], whole[size_t(at)]) << at << " " << threads;
            }
            const auto two = run(scene, {{0, 128, 129}, {1, 70, 71}}, options);
            ASSERT_EQ(two[0], whole[128]);
            ASSERT_EQ(two[1], other[70]);
            const auto run_of_three = run(scene, {{0, 190, 193}}, options);
            for (size_t i = 0; i < 3; ++i) ASSERT_EQ(run_of_three[i], whole[190 + i]);
          }
        }
      }
    }
  }
}

TEST(Attention, ARowsBitsDependOnItsSequenceAlone) {
  for (i64 window : {0, 70}) {
    for (ActivationFormat format : kFormats) {
      Scene scene{64, 3, 16, groups(9, 3), DType::kBF16, {300, 90}};
      scene.build(11);
      const auto whole = run(scene, {{0, 0, 300}}, {1, window, format});
      const auto other = run(scene, {{1, 0, 90}}, {1, window, format});
      const auto expect_same = [&](const std::vector<std::string>& rows, const std::vector<Chunk>& chunks) {
        size_t at = 0;
        for (const Chunk& chunk : chunks) {
          for (i32 t = chunk.begin; t < chunk.end; ++t, ++at) {
            ASSERT_EQ(rows[at], (chunk.sequence == 0 ? whole : other)[size_t(t)]) << "position " << t;
          }
        }
      };
      for (int threads : {1, 2, 3, 5}) {
        const std::vector<std::vector<Chunk>> steps{
            {{0, 0, 300}},
            {{0, 0, 77}, {1, 3, 90}},
            {{1, 0, 64}, {0, 77, 300}},
            {{0, 299, 300}, {1, 89, 90}},
            {{0, 128, 129}, {0, 64, 65}, {0, 63, 64}, {0, 0, 1}, {1, 0, 90}},
        };
        for (const auto& chunks : steps) expect_same(run(scene, chunks, {threads, window, format}), chunks);
      }
      for (i32 t = 0; t < 90; ++t) expect_same(run(scene, {{1, t, t + 1}}, {2, window, format}), {{1, t, t + 1}});
    }
  }
}

TEST(Attention, LaterTokensCannotBeSeenEvenIfInfinite) {
  Scene scene{32, 1, 8, groups(2, 1), DType::kF32, {70}};
  scene.build(5);
  const auto before = run(scene, {{0, 0, 70}}, {});
  const i64 element = (i64(scene.pages[0][8]) * 8 + 4) * 32;  // position 68
  scene.set(scene.cache->layer(0).v, element, INFINITY);
  scene.set(scene.cache->layer(0).k, element + 1, NAN);
  const auto after = run(scene, {{0, 0, 70}}, {});
  for (size_t t = 0; t < 68; ++t) EXPECT_EQ(before[t], after[t]) << t;
  EXPECT_NE(before[68], after[68]);
}

TEST(Attention, NothingToDoAndNothingToSee) {
  Scene scene{16, 1, 4, groups(2, 1), DType::kBF16, {5}};
  scene.build(5);
  EXPECT_TRUE(run(scene, {}, {2}).empty());
  Step step(scene, {{0, 4, 5}});
  step.lens[0] = 0;  // a padding row
  const auto y = ActivationBuffer::create(ActivationFormat::kF32, 1, 32);
  std::fill_n(reinterpret_cast<float*>(y.view(1).row(0)), 32, 7.0f);
  ASSERT_TRUE(run_team(2, [&](Exec& exec) {
                return attention(exec, {step.q.view, 16, scene.heads, step.batch, scene.cache->layer(0), 1, y.view(1)});
              }).ok());
  EXPECT_EQ(activation_row(y.view(1), 0), std::vector<float>(32, 0));
}

TEST(Attention, ErrorsNameTheTensor) {
  Scene scene{16, 1, 4, groups(2, 1), DType::kBF16, {5}};
  scene.build(5);
  Step step(scene, {{0, 0, 5}});
  const auto y = ActivationBuffer::create(ActivationFormat::kF32, 5, 48);
  ActivationView out = y.view(5);
  out.k = 32;
  HeadMap heads = scene.heads;
  AttentionArgs args{step.q.view, 16, heads, step.batch, scene.cache->layer(0), 1, out};
  const auto message = [&](const AttentionArgs& a) {
    return run_team(2, [&](Exec& exec) { return attention(exec, a); }).message();
  };
  EXPECT_EQ(message(args), "");
  args.y.k = 48;
  EXPECT_EQ(message(args), "y: expected f32 [5, 32], found [5, 48]");
  args.y.k = 32;
  args.head_dim = 8;
  EXPECT_EQ(message(args), "cache.k: expected bf16 [-1, -1, -1, 8], found bf16 [4, 1, 4, 16]");
  args.head_dim = 257;
  EXPECT_EQ(message(args), "q: head_dim must be in [1, 256], found 257");
  args.head_dim = 16;
  heads.kv_head_of = {0, 1};
  EXPECT_EQ(message(args), "heads: query head 1 reads KV head 1 of 1");
  heads.kv_head_of = {0, 0, 0};
  EXPECT_EQ(message(args), "q: expected at least 48 columns for 3 heads, found f32 [5, 32]");
  heads.kv_head_of = {0, 0};
  args.window = -1;
  EXPECT_EQ(message(args), "window: expected at least 0, found -1");
}

TEST(KvCache, ShapesViewsAndErrors) {
  auto cache = KvCache::create({2, 3, 4, 5, 6, DType::kF16});
  ASSERT_TRUE(cache.ok());
  EXPECT_EQ(cache->bytes_per_token(), 2 * 2 * 4 * 6 * 2);
  EXPECT_EQ(cache->layer(1).v.describe(), "f16 [3, 4, 5, 6]");
  EXPECT_EQ(cache->layer(0).v.data - cache->layer(0).k.data, 3 * 4 * 5 * 6 * 2);
  EXPECT_EQ(cache->layer(1).v.data - cache->layer(0).k.data, 3 * 3 * 4 * 5 * 6 * 2);
  EXPECT_TRUE(KvCache::create({1, 1, 0, 1, 1}).ok());
  EXPECT_EQ(KvCache::create({1, 0, 1, 1, 1}).status().message(), "KV cache: pages must be at least 1, found 0");
  EXPECT_EQ(KvCache::create({1, 1, 1, 1, 1, DType::kI8}).status().message(),
            "KV cache: dtype must be bf16, f16 or f32, found i8");
  EXPECT_EQ(KvCache::create({1ll << 40, 1ll << 40, 1, 1, 1}).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(KvCache::create({1, 1ll << 50, 1, 16, 64}).status().code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace weft
