#include "dist/expert_parallel/selfcheck.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/mix.h"
#include "dist/exchange/plan.h"
#include "dist/expert_parallel/reference.h"
#include "ops/quantise/quantise.h"

namespace weft::ep {
namespace {

constexpr std::byte kPoison{0xa5};

u64 mixed(u64 a, u64 b, u64 c, u64 d = 0) {
  return mix64(a * 0x9e3779b97f4a7c15u + b * 0xbf58476d1ce4e5b9u + c * 0x94d049bb133111ebu + d * 0xd6e8feb86659fd93u);
}

// Any bytes at all, NaNs and words of all ones among them.
void fill_bytes(std::byte* out, i64 bytes, u64 seed) {
  for (i64 i = 0; i < bytes; i += 8) {
    const u64 word = i % 56 == 48 ? ~u64(0) : mix64(seed + u64(i) * 0x9e3779b97f4a7c15u);
    std::memcpy(out + i, &word, size_t(std::min<i64>(8, bytes - i)));
  }
}
bool same_bytes(const std::byte* found, i64 bytes, u64 seed) {
  std::vector<std::byte> expected(static_cast<size_t>(bytes));
  fill_bytes(expected.data(), bytes, seed);
  return std::memcmp(found, expected.data(), expected.size()) == 0;
}
u64 x_seed(u64 call, int group, i64 token) {
  return mixed(call, u64(group), u64(token), 1);
}
u64 scale_seed(u64 call, int group, i64 token) {
  return mixed(call, u64(group), u64(token), 2);
}

// An element of a token that is cast: sizes differ by 2^16 from block to block, some are zero.
float cast_element(u64 seed, i64 i) {
  const u64 word = mix64(seed + u64(i));
  const float size = std::ldexp(1.0f, int(mix64(seed ^ u64(i / kFp8Block)) % 17) - 8);
  return word % 13 == 0 ? 0 : float(i32(word >> 40 & 255) - 127) / 64.0f * size;
}
bool is_cast_row(const std::byte* x, const std::byte* scales, i64 hidden, DType from, u64 seed) {
  std::vector<float> row(static_cast<size_t>(hidden));
  with_element(from, [&](auto element) {
    for (i64 i = 0; i < hidden; ++i) row[size_t(i)] = widen(narrow<decltype(element)>(cast_element(seed, i)));
  });
  std::vector<u8> q(row.size());
  std::vector<float> expected(size_t(divide_up(hidden, kFp8Block)));
  quantise_fp8_reference(row.data(), hidden, q.data(), expected.data());
  return std::memcmp(x, q.data(), q.size()) == 0 && std::memcmp(scales, expected.data(), expected.size() * 4) == 0;
}

// What an expert makes of a token: exact in bf16, and so in every type. -4 to 4.
float y_element(u64 seed, i64 i) {
  return float(i32(mix64(seed + u64(i)) % 255) - 127) / 32.0f;
}
u64 y_seed(u64 call, i64 expert, int group, i64 token) {
  return mixed(call, u64(expert) + 7, u64(group), u64(token));
}

double unit_roundoff(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}

void poison(const Tensor& tensor) {
  std::ranges::fill(tensor.storage.span(), kPoison);
}

TensorView leading_rows(const Tensor& tensor, i64 rows) {
  return tensor.view.rows(0, rows);
}

}  // namespace

Result<Routing> parse_routing(const std::string& name) {
  constexpr const char* kNames[] = {"uniform", "zipf", "one_hot", "holes", "mixed"};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return Routing(i);
  }
  return error(Code::kInvalidArgument, "routing '{}' is not one of uniform, zipf, one_hot, holes, mixed", name);
}

std::vector<i32> make_indices(const AllToAllShape& shape, Routing routing, u64 call, int group, i64 tokens) {
  if (routing == Routing::kMixed) routing = Routing(call % 4);
  const i64 k = shape.experts_per_token;
  std::vector<i32> ids;
  std::vector<std::pair<double, i32>> order(static_cast<size_t>(shape.num_experts));
  for (i64 t = 0; t < tokens; ++t) {
    const u64 seed = mixed(call, u64(group), u64(t), 3);
    for (size_t e = 0; e < order.size(); ++e) {
      // The k smallest of -log(u) / weight are a draw without replacement (Efraimidis and Spirakis, 2006).
      const double u = (double(mix64(seed + e) >> 11) + 0.5) * 0x1p-53;
      order[e] = {-std::log(u) * (routing == Routing::kZipf ? double(e + 1) : 1.0), i32(e)};
    }
    std::partial_sort(order.begin(), order.begin() + k, order.end());
    const i32 hot = i32(shape.num_experts - 1);
    if (routing == Routing::kOneHot) {
      const auto held = std::find_if(order.begin(), order.begin() + k, [&](const auto& o) { return o.second == hot; });
      (held == order.begin() + k ? order.begin() : held)->second = hot;
    }
    for (i64 j = 0; j < k; ++j) {
      const bool hole = routing == Routing::kHoles && (t % 5 == 2 || mix64(seed + 77 + u64(j)) % 3 == 0);
      ids.push_back(hole ? kNoExpert : order[size_t(j)].second);
    }
  }
  return ids;
}

std::vector<float> make_weights(const AllToAllShape& shape, u64 call, int group, i64 tokens) {
  std::vector<float> weights(static_cast<size_t>(tokens * shape.experts_per_token));
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = float(mixed(call, u64(group), i, 4) >> 40) * 0x1p-24f;
  return weights;
}

// What every rank knows of a call, computed for itself.
struct CallChecker::Step {
  u64 call;
  int group;                              // this rank's
  i64 tokens;                             // of the own group
  std::vector<std::vector<i32>> indices;  // by group
  std::vector<i32> own_indices;           // of the own group, longer where a bound cuts them
  std::vector<float> weights;
  std::vector<std::vector<Origin>> rows;  // by expert
  i64 wanted_rows, wanted_here;           // before the capacity cuts them: of all experts, of this rank's
};

void CallChecker::complete(CheckCase& check) {
  AllToAllShape& s = check.shape;
  const i64 scales = check.scale_block > 0 ? (s.hidden_dim + check.scale_block - 1) / check.scale_block : 0;
  s.hidden_dim_bytes = dtype_bytes(check.x_dtype, s.hidden_dim);
  s.hidden_dim_scale_bytes = scales * i64(sizeof(float));
  check.options.map_rows = check.map;
}

CallChecker::CallChecker(const CheckCase& check, Range local_experts, i64 capacity)
    : case_(check), local_(local_experts), capacity_(capacity) {
  const AllToAllShape& s = check.shape;
  const i64 m = s.max_num_tokens, local = local_.size(), scales = s.hidden_dim_scale_bytes / i64(sizeof(float));
  x_ = Tensor::zeros(check.options.cast_x_to_fp8 ? check.cast_from : check.x_dtype, {m, s.hidden_dim});
  scales_ = Tensor::zeros(DType::kF32, {m, scales});
  counts_ = Tensor::zeros(DType::kI32, {local});
  if (check.map) {
    row_map_ = Tensor::zeros(DType::kI32, {local, capacity});
    row_experts_ = Tensor::zeros(DType::kI32, {s.world_size * divide_up(m, s.dp_size), s.experts_per_token});
  } else {
    expert_x_ = Tensor::zeros(check.x_dtype, {local, capacity, s.hidden_dim});
    if (scales > 0) expert_scales_ = Tensor::zeros(DType::kF32, {local, capacity, scales});
  }
  y_ = Tensor::zeros(check.options.combine_dtype, {local, capacity, s.hidden_dim});
  out_ = Tensor::zeros(check.out_dtype, {m, s.hidden_dim});
}

i64 CallChecker::tokens_of(u64 call, int group) const {
  const i64 most = case_.shape.max_num_tokens;
  if (case_.routing == Routing::kMixed && call % 8 == 5) return group == 0 ? 0 : most;
  if (case_.routing == Routing::kMixed && call % 16 == 14) return 0;
  return case_.vary_tokens ? i64(mixed(call, u64(group), 5) % u64(most + 1)) : most;
}

CallChecker::Step CallChecker::make_step(u64 call) const {
  const AllToAllShape& s = case_.shape;
  const int groups = s.world_size / s.dp_size;
  Step step{.call = call,
            .group = s.rank / s.dp_size,
            .tokens = 0,
            .indices = {},
            .own_indices = {},
            .weights = {},
            .rows = {},
            .wanted_rows = 0,
            .wanted_here = 0};
  for (int g = 0; g < groups; ++g) {
    step.indices.push_back(make_indices(s, case_.routing, call, g, tokens_of(call, g)));
    for (const i32 index : step.indices.back()) {
      step.wanted_rows += index >= 0;
      step.wanted_here += index >= local_.begin && index < local_.end;
    }
  }
  step.tokens = tokens_of(call, step.group);
  // Behind a bound lie indices that nobody may read.
  step.own_indices = step.indices[size_t(step.group)];
  if (case_.bound) step.own_indices.resize(size_t(s.max_num_tokens * s.experts_per_token), i32(0x7fffffff));
  const i64 given = i64(step.own_indices.size()) / s.experts_per_token;
  step.weights = make_weights(s, call, step.group, given);
  step.rows = route_reference(step.indices, s.num_experts, s.experts_per_token, capacity_);
  return step;
}

void CallChecker::fill_inputs(const Step& step) {
  const AllToAllShape& s = case_.shape;
  for (i64 t = 0; t < step.tokens; ++t) {
    const u64 seed = x_seed(step.call, step.group, t);
    if (case_.options.cast_x_to_fp8) {
      with_element(case_.cast_from, [&](auto element) {
        using T = decltype(element);
        for (i64 i = 0; i < s.hidden_dim; ++i) x_.view.row<T>(t)[i] = narrow<T>(cast_element(seed, i));
      });
      continue;
    }
    fill_bytes(x_.view.row<std::byte>(t), s.hidden_dim_bytes, seed);
    fill_bytes(scales_.view.row<std::byte>(t), s.hidden_dim_scale_bytes, scale_seed(step.call, step.group, t));
  }
  for (const Tensor* output : {&expert_x_, &expert_scales_, &counts_, &row_map_, &row_experts_, &out_}) poison(*output);
}

Status CallChecker::check_row(const GatheredRows& gathered, const Step& step, i64 place, int group, i64 token) const {
  const AllToAllShape& s = case_.shape;
  const std::byte *x = expert_x_.storage.data() + place * s.hidden_dim_bytes,
                  *scales = expert_scales_.storage.data() + place * s.hidden_dim_scale_bytes;
  if (case_.map) {
    const i32 row = row_map_.view.as<i32>()[place];
    if (row < 0 || row >= gathered.x.dim(0)) return error(Code::kDataLoss, "row_map [{}]: found {}", place, row);
    x = gathered.x.row<std::byte>(row);
    scales = gathered.scale.row<std::byte>(row);
    const i32* experts = row_experts_.view.row<i32>(row);
    const i32 expert = i32(place / capacity_);
    if (std::find(experts, experts + s.experts_per_token, expert) == experts + s.experts_per_token) {
      return error(Code::kDataLoss, "row_experts [{}]: expert {} is missing", row, expert);
    }
  }
  const u64 seed = x_seed(step.call, group, token);
  const bool same = case_.options.cast_x_to_fp8
                        ? is_cast_row(x, scales, s.hidden_dim, case_.cast_from, seed)
                        : same_bytes(x, s.hidden_dim_bytes, seed) &&
                              same_bytes(scales, s.hidden_dim_scale_bytes, scale_seed(step.call, group, token));
  if (same) return {};
  return error(Code::kDataLoss, "call {}: rank {}: place {} is not token {} of group {}", step.call, s.rank, place,
               token, group);
}

Status CallChecker::check_dispatch(const CheckedCalls& calls, const Step& step) const {
  const Range mine = local_;
  const i64 cap = capacity_;
  GatheredRows gathered;
  if (case_.map) {
    WEFT_ASSIGN(gathered, calls.gathered());
  }
  i64 pairs = 0;
  for (i64 e = mine.begin; e < mine.end; ++e) {
    const auto& rows = step.rows[size_t(e)];
    const i32 count = counts_.view.as<i32>()[e - mine.begin];
    if (count != i32(rows.size())) {
      return error(Code::kDataLoss, "call {}: expert {}: expected {} rows, found {}", step.call, e, rows.size(), count);
    }
    for (i64 i = 0; i < i64(rows.size()); ++i, ++pairs) {
      WEFT_TRY(check_row(gathered, step, (e - mine.begin) * cap + i, rows[size_t(i)].group, rows[size_t(i)].token));
    }
    const i64 row_bytes = case_.map ? 0 : case_.shape.hidden_dim_bytes;
    const auto* rest = expert_x_.storage.data() + ((e - mine.begin) * cap + i64(rows.size())) * row_bytes;
    const i64 rest_bytes = (cap - i64(rows.size())) * row_bytes;
    if (!std::all_of(rest, rest + rest_bytes, [](std::byte b) { return b == kPoison; })) {
      return error(Code::kDataLoss, "call {}: expert {}: rows beyond {} were written", step.call, e, rows.size());
    }
  }
  if (!case_.map) return {};
  const i32* all = row_experts_.view.as<i32>();
  const i64 noted = std::count_if(all, all + row_experts_.view.shape.elements(), [](i32 e) { return e != kNoExpert; });
  if (noted == pairs) return {};
  return error(Code::kDataLoss, "call {}: row_experts: expected {} pairs, found {}", step.call, pairs, noted);
}

void CallChecker::fill_y(const Step& step) {
  const Range mine = local_;
  const i64 cap = capacity_, hidden = case_.shape.hidden_dim;
  // Rows that no token has are NaN: nobody may add them.
  std::ranges::fill(y_.storage.span(), std::byte{0xff});
  i64 at = 0;
  for (i64 e = mine.begin; e < mine.end; ++e) {
    const auto& rows = step.rows[size_t(e)];
    for (i64 i = 0; i < i64(rows.size()); ++i, ++at) {
      const i64 place = case_.packed ? at : (e - mine.begin) * cap + i;
      const u64 seed = y_seed(step.call, e, rows[size_t(i)].group, rows[size_t(i)].token);
      with_element(y_.view.dtype, [&](auto element) {
        using T = decltype(element);
        T* y = y_.view.as<T>() + place * hidden;
        for (i64 h = 0; h < hidden; ++h) y[h] = narrow<T>(y_element(seed, h));
      });
    }
  }
}

Status CallChecker::check_out(const Step& step) const {
  const AllToAllShape& s = case_.shape;
  const i64 k = s.experts_per_token, hidden = s.hidden_dim;
  Layout layout;
  layout.ranks = s.world_size;
  layout.experts = s.num_experts;
  // Pairs that a capacity cut off count as zeros.
  std::vector<bool> kept(size_t(step.tokens * k), false);
  for (const auto& rows : step.rows) {
    for (const Origin& origin : rows) {
      if (origin.group == step.group) kept[size_t(origin.token * k + origin.choice)] = true;
    }
  }
  const double rounding = unit_roundoff(case_.out_dtype), inner = case_.options.combine == CombineMode::kPreReduced
                                                                      ? unit_roundoff(case_.options.combine_dtype)
                                                                      : 0;
  std::vector<double> partial(size_t(s.world_size));
  for (i64 t = 0; t < s.max_num_tokens; ++t) {
    if (t >= step.tokens) {
      const auto* row = out_.view.row<std::byte>(t);
      if (std::all_of(row, row + out_.view.byte_strides[0], [](std::byte b) { return b == kPoison; })) continue;
      return error(Code::kDataLoss, "call {}: out: token {} beyond the {} of the call was written", step.call, t,
                   step.tokens);
    }
    for (i64 h = 0; h < hidden; ++h) {
      std::ranges::fill(partial, 0.0);
      double sum = 0, magnitude = 0;
      for (i64 j = 0; j < k; ++j) {
        const i32 expert = step.own_indices[size_t(t * k + j)];
        if (!kept[size_t(t * k + j)]) continue;
        const double product =
            double(step.weights[size_t(t * k + j)]) * double(y_element(y_seed(step.call, expert, step.group, t), h));
        partial[size_t(layout.rank_of(expert))] += product;
        sum += product;
        magnitude += std::abs(product);
      }
      // Each product and each of at most k + ranks additions rounds in fp32, each rank's sum once more to the type that
      // travels, the result to its own. A half's smallest steps are absolute.
      double bound = magnitude * double(k + s.world_size + 1) * 0x1p-24;
      for (const double part : partial) bound += std::abs(part) * inner + (part != 0 && inner > 0 ? 0x1p-24 : 0);
      bound += (std::abs(sum) + bound) * rounding + (case_.out_dtype == DType::kF16 ? 0x1p-24 : 0);
      const double found = with_element(
          case_.out_dtype, [&](auto element) { return double(widen(out_.view.row<decltype(element)>(t)[h])); });
      if (std::abs(found - sum) <= bound) continue;
      return error(Code::kDataLoss, "call {}: rank {}: out [{}, {}]: expected {} within {}, found {}", step.call,
                   s.rank, t, h, sum, bound, found);
    }
  }
  return {};
}

Result<u64> CallChecker::run(const CheckedCalls& calls, u64 call) {
  const AllToAllShape& s = case_.shape;
  Step step = make_step(call);
  fill_inputs(step);
  const i64 given = i64(step.own_indices.size()) / s.experts_per_token;
  bound_ = u32(step.tokens);
  const TensorView indices = TensorView::dense(step.own_indices.data(), DType::kI32, {given, s.experts_per_token});
  const TensorView weights = TensorView::dense(step.weights.data(), DType::kF32, {given, s.experts_per_token});
  const DispatchArgs to{.x = leading_rows(x_, given),
                        .x_scale = case_.options.cast_x_to_fp8 ? TensorView{} : leading_rows(scales_, given),
                        .indices = indices,
                        .bound_m = case_.bound ? &bound_ : nullptr,
                        .weights = case_.early ? weights : TensorView{},
                        .out_num_tokens = counts_.view,
                        .expert_x = expert_x_.view,
                        .expert_x_scale = expert_scales_.view,
                        .row_map = row_map_.view,
                        .row_experts = row_experts_.view};
  CheckedCalls::Dropped dropped{step.wanted_rows, step.wanted_here};
  for (i64 e = 0; e < i64(step.rows.size()); ++e) {
    dropped.everywhere -= i64(step.rows[size_t(e)].size());
    if (e >= local_.begin && e < local_.end) dropped.here -= i64(step.rows[size_t(e)].size());
  }
  WEFT_TRY(calls.dispatch(to, dropped));
  WEFT_TRY(check_dispatch(calls, step));
  fill_y(step);
  TensorView y = y_.view;
  if (case_.packed) y = TensorView::dense(y.data, y.dtype, {y.dim(0) * y.dim(1), s.hidden_dim});
  WEFT_TRY(calls.combine({.expert_y = y, .indices = indices, .weights = weights, .out = leading_rows(out_, given)}));
  WEFT_TRY(check_out(step));
  u64 hash = 0;
  for (const std::byte b : out_.storage.span()) hash = mix64(hash + u64(b) + 1);
  return hash;
}

Result<SelfCheck> SelfCheck::create(Communicator& comm, CheckCase check) {
  check.shape.rank = comm.rank();
  check.shape.world_size = comm.size();
  CallChecker::complete(check);
  WEFT_ASSIGN(AllToAll op, AllToAll::create(comm, check.shape, check.options));
  return SelfCheck(check, std::move(op));
}

Result<u64> SelfCheck::run(ThreadPool& pool, u64 call) {
  const auto between = [] { std::this_thread::yield(); };
  CheckedCalls calls;
  calls.gathered = [this] { return op_.gathered(); };
  calls.dispatch = [&](const DispatchArgs& to, const CheckedCalls::Dropped& dropped) -> Status {
    const Status sent = pool.run([&](Exec& exec) -> Status {
      if (!case_.split) return op_.dispatch(exec, to);
      WEFT_TRY(op_.dispatch_send(exec, to));
      between();
      return op_.dispatch_receive(exec, to);
    });
    if (dropped.everywhere == 0 || !sent.ok()) {
      return dropped.everywhere > 0 && sent.code() == Code::kResourceExhausted ? Status() : sent;
    }
    return error(Code::kDataLoss, "call {}: {} pairs beyond the capacity were not reported", call, dropped.everywhere);
  };
  calls.combine = [&](const CombineArgs& from) {
    return pool.run([&](Exec& exec) -> Status {
      if (!case_.split) return op_.combine(exec, from);
      WEFT_TRY(op_.combine_send(exec, from));
      between();
      return op_.combine_receive(exec, from);
    });
  };
  return checker_.run(calls, call);
}

}  // namespace weft::ep
