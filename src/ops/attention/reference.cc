#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/attention/attention.h"

namespace weft {
namespace {

double element(const TensorView& cache, i64 page, i64 head, i64 offset, i64 d) {
  const i64 index = ((page * cache.dim(1) + head) * cache.dim(2) + offset) * cache.dim(3) + d;
  if (cache.dtype == DType::kBF16) return double(float(cache.as<const bf16>()[index]));
  if (cache.dtype == DType::kF16) return double(float(cache.as<const f16>()[index]));
  return double(cache.as<const float>()[index]);
}

}  // namespace

void attention_reference(const AttentionArgs& args, const TensorView& y) {
  const StepBatch& batch = args.batch;
  const i64 head_dim = args.head_dim, page_tokens = args.cache.k.dim(2);
  for (i64 row = 0; row < batch.rows(); ++row) {
    const i32* pages = batch.page_table.row<const i32>(row);
    const i32* starts = batch.row_starts.as<const i32>();
    for (i64 t = starts[row]; t < starts[row + 1]; ++t) {
      for (size_t h = 0; h < args.heads.kv_head_of.size(); ++h) {
        const float* q = args.q.row<const float>(t) + i64(h) * head_dim;
        float* out = y.row<float>(t) + i64(h) * head_dim;
        const i64 kv_head = args.heads.kv_head_of[h], position = batch.positions.as<const i32>()[t];
        const i64 begin = args.window > 0 ? std::max<i64>(0, position - args.window + 1) : 0;
        const i64 end = std::min<i64>(position + 1, batch.kv_lens.as<const i32>()[row]);
        std::vector<double> weights;
        double largest = -INFINITY, total = 0;
        for (i64 p = begin; p < end; ++p) {
          double score = 0;
          for (i64 d = 0; d < head_dim; ++d) {
            score += q[d] * element(args.cache.k, pages[p / page_tokens], kv_head, p % page_tokens, d);
          }
          weights.push_back(score * double(args.scale));
          largest = std::max(largest, weights.back());
        }
        for (double& weight : weights) total += weight = std::exp(weight - largest);
        for (i64 d = 0; d < head_dim; ++d) {
          double sum = 0;
          for (i64 p = begin; p < end; ++p) {
            sum += weights[size_t(p - begin)] / total *
                   element(args.cache.v, pages[p / page_tokens], kv_head, p % page_tokens, d);
          }
          out[d] = float(sum);
        }
      }
    }
  }
}

}  // namespace weft
