// The extension module weft._weft: worlds and operators as the Python files of the package use them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include "base/log.h"
#include "comm/bootstrap/launcher.h"
#include "comm/bootstrap/process_world.h"
#include "python/errors.h"
#include "python/operator.h"
#include "python/tensors.h"

namespace weft::python {
namespace nb = nanobind;
using namespace nb::literals;

namespace {

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(i64(seconds * 1e9));
}

// A share in this process's world; operators hold one too. The last one to go leaves the world.
struct Ranks {
  std::shared_ptr<World> world;
};

Ranks join(const WorldSpec& spec, double timeout) {
  const nb::gil_scoped_release release;
  if (spec.kind == WorldSpec::Kind::kSpawn) {
    check(error(Code::kInvalidArgument, "NODE_RANK: call weft.init() first: it starts the ranks of this host"));
  }
  if (spec.kind == WorldSpec::Kind::kAlone) return {std::move(make_thread_worlds(1).front())};
  return {check(join_world(spec, Deadline::after(nanoseconds(timeout))))};
}

Ranks join_environment(double timeout) {
  return join(check(world_spec_from_environment()), timeout);
}

// Ranks of one host that know their numbers and agree on a name.
Ranks join_job(int rank, int world_size, const std::string& job, double timeout) {
  if (world_size < 1 || world_size > kMaxWorldSize || rank < 0 || rank >= world_size) {
    check(error(Code::kInvalidArgument, "rank, world_size: {} of {} is no rank", rank, world_size));
  }
  if (job.empty()) check(error(Code::kInvalidArgument, "job: expected a name that the ranks agree on"));
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kRank;
  spec.rank = spec.local_rank = rank;
  spec.size = spec.local_size = world_size;
  spec.job = job;
  spec.rendezvous.socket = job_socket(::geteuid(), job);
  return join(spec, timeout);
}

std::optional<int> spawn_local_ranks(const std::vector<std::string>& command) {
  const nb::gil_scoped_release release;
  return check(maybe_spawn_local_ranks(check(world_spec_from_environment()), command));
}

int launch(int ranks, const std::vector<std::string>& command, bool prefix) {
  const nb::gil_scoped_release release;
  LaunchOptions options;
  options.prefix = prefix;
  return check(launch_local_ranks(ranks, command, options));
}

// The operator calls its arguments as C++ does; Python's are those of pplx-kernels.
Status with_python_names(Status status) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"dispatch: x:", "dispatch: dp_x:"},
      {"dispatch: x_scale:", "dispatch: dp_x_scale:"},
      {"dispatch: out_num_tokens:", "dispatch: out_expert_num_tokens:"},
      {"dispatch: expert_x:", "dispatch: out_expert_x:"},
      {"dispatch: expert_x_scale:", "dispatch: out_expert_x_scale:"},
      {"combine: out:", "combine: out_tokens:"},
  };
  const std::string& message = status.message();
  for (const auto& [ours, theirs] : kNames) {
    if (message.rfind(ours, 0) == 0) {
      return Status(status.code(), std::string(theirs) + message.substr(ours.size()));
    }
  }
  return status;
}

DType combine_dtype_of(const std::string& name) {
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  throw StatusError(
      error(Code::kInvalidArgument, "combine_dtype: expected float32, bfloat16 or float16, found '{}'", name));
}

ep::CombineMode combine_mode_of(const std::string& name) {
  if (name == "pre_reduced") return ep::CombineMode::kPreReduced;
  if (name == "exact") return ep::CombineMode::kExact;
  throw StatusError(error(Code::kInvalidArgument, "combine_mode: expected pre_reduced or exact, found '{}'", name));
}

class Exchange {
 public:
  Exchange(const Ranks& ranks, i64 max_num_tokens, i64 num_experts, i64 experts_per_token, int rank, int world_size,
           int dp_size, i64 hidden_dim, i64 hidden_dim_bytes, i64 hidden_dim_scale_bytes, i64 expert_capacity,
           const std::string& combine_dtype, const std::string& combine_mode, bool cast_x_to_fp8,
           const std::string& device, int device_index, int threads, double deadline)
      : scaled_(hidden_dim_scale_bytes > 0) {
    OperatorSpec spec;
    spec.shape = {.max_num_tokens = max_num_tokens,
                  .num_experts = num_experts,
                  .experts_per_token = experts_per_token,
                  .rank = rank,
                  .world_size = world_size,
                  .dp_size = dp_size,
                  .hidden_dim = hidden_dim,
                  .hidden_dim_bytes = hidden_dim_bytes,
                  .hidden_dim_scale_bytes = hidden_dim_scale_bytes};
    spec.options = {.expert_capacity = expert_capacity,
                    .combine_dtype = combine_dtype_of(combine_dtype),
                    .combine = combine_mode_of(combine_mode),
                    .cast_x_to_fp8 = cast_x_to_fp8};
    spec.deadline = nanoseconds(deadline);
    spec.threads = threads;
    spec.device = device_index;
    if (threads < 0 || threads > int(ep::kMaxCtas)) {
      check(error(Code::kInvalidArgument, "threads: expected 0 to {}, found {}", ep::kMaxCtas, threads));
    }
    if (device != "cpu" && device != "cuda") {
      check(error(Code::kInvalidArgument, "device: expected cpu or cuda, found '{}'", device));
    }
    const nb::gil_scoped_release release;
    operator_ = check(device == "cpu" ? make_cpu_operator(ranks.world, spec) : make_cuda_operator(ranks.world, spec));
  }

  void dispatch(nb::handle out_expert_num_tokens, nb::handle out_expert_x, nb::handle out_expert_x_scale,
                nb::handle dp_x, nb::handle dp_x_scale, nb::handle indices, nb::handle bound_m, bool do_send,
                bool do_recv, u64 stream) {
    Tensors tensors("dispatch", op().device());
    if (!scaled_ && !(dp_x_scale.is_none() && out_expert_x_scale.is_none())) {
      check(error(Code::kInvalidArgument, "dispatch: {}: expected None, hidden_dim_scale_bytes is 0",
                  dp_x_scale.is_none() ? "out_expert_x_scale" : "dp_x_scale"));
    }
    ep::DispatchArgs args;
    args.x = tensors.input("dp_x", dp_x);
    args.x_scale = tensors.input("dp_x_scale", dp_x_scale);
    args.indices = tensors.input("indices", indices);
    args.bound_m = tensors.number("bound_m", bound_m);
    args.out_num_tokens = tensors.output("out_expert_num_tokens", out_expert_num_tokens);
    args.expert_x = tensors.output("out_expert_x", out_expert_x);
    args.expert_x_scale = tensors.output("out_expert_x_scale", out_expert_x_scale);
    const Halves halves = halves_of("dispatch", do_send, do_recv);
    run([&] { return operator_->dispatch(args, halves, reinterpret_cast<void*>(stream)); });
  }

  void combine(nb::handle out_tokens, nb::handle indices, nb::handle weights, nb::handle expert_y, nb::handle bound_m,
               bool do_send, bool do_recv, u64 stream) {
    Tensors tensors("combine", op().device());
    ep::CombineArgs args;
    args.out = tensors.output("out_tokens", out_tokens);
    args.indices = tensors.input("indices", indices);
    args.weights = tensors.input("weights", weights);
    args.expert_y = tensors.input("expert_y", expert_y);
    const u32* bound = tensors.number("bound_m", bound_m);
    // The result may have room for max_num_tokens.
    const i64 m = args.indices.shape.rank() > 0 ? args.indices.dim(0) : 0;
    if (args.out.shape.rank() == 2 && args.out.dim(0) > m) args.out = args.out.rows(0, m);
    const Halves halves = halves_of("combine", do_send, do_recv);
    run([&] { return operator_->combine(args, bound, halves, reinterpret_cast<void*>(stream)); });
  }

  void destroy() {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    operator_.reset();
  }

  Operator& op() const {
    if (!operator_) check(error(Code::kInvalidArgument, "AllToAll: already destroyed"));
    return *operator_;
  }

 private:
  static Halves halves_of(const char* op, bool send, bool receive) {
    if (!send && !receive) check(error(Code::kInvalidArgument, "{}: neither do_send nor do_recv", op));
    return {send, receive};
  }
  // Other Python threads go on meanwhile, but not in this operator.
  template <class F>
  void run(F&& call) {
    const nb::gil_scoped_release release;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) check(error(Code::kInvalidArgument, "AllToAll: another thread is in a call"));
    op();
    check(with_python_names(call()));
  }

  const bool scaled_;
  std::mutex mutex_;
  std::unique_ptr<Operator> operator_;
};

}  // namespace

NB_MODULE(_weft, module) {
  register_errors();
  module.attr("has_cuda") = built_with_cuda();
  check(init_logging("warn"));

  nb::class_<Ranks>(module, "Ranks")
      .def_prop_ro("rank", [](const Ranks& ranks) { return ranks.world->rank(); })
      .def_prop_ro("size", [](const Ranks& ranks) { return ranks.world->size(); })
      .def("fail",
           [](const Ranks& ranks, const std::string& why) { ranks.world->fail(error(Code::kAborted, "{}", why)); });
  module.def("join_environment", &join_environment, "timeout"_a);
  module.def("join_job", &join_job, "rank"_a, "world_size"_a, "job"_a, "timeout"_a);
  module.def("spawn_local_ranks", &spawn_local_ranks, "command"_a);
  module.def("launch", &launch, "ranks"_a, "command"_a, "prefix"_a);

  nb::class_<Exchange>(module, "Exchange")
      .def(nb::init<const Ranks&, i64, i64, i64, int, int, int, i64, i64, i64, i64, const std::string&,
                    const std::string&, bool, const std::string&, int, int, double>(),
           "ranks"_a, "max_num_tokens"_a, "num_experts"_a, "experts_per_token"_a, "rank"_a, "world_size"_a, "dp_size"_a,
           "hidden_dim"_a, "hidden_dim_bytes"_a, "hidden_dim_scale_bytes"_a, "expert_capacity"_a, "combine_dtype"_a,
           "combine_mode"_a, "cast_x_to_fp8"_a, "device"_a, "device_index"_a, "threads"_a, "deadline"_a)
      .def("dispatch", &Exchange::dispatch, "out_expert_num_tokens"_a.none(), "out_expert_x"_a.none(),
           "out_expert_x_scale"_a.none(), "dp_x"_a.none(), "dp_x_scale"_a.none(), "indices"_a.none(),
           "bound_m"_a.none(), "do_send"_a, "do_recv"_a, "stream"_a)
      .def("combine", &Exchange::combine, "out_tokens"_a.none(), "indices"_a.none(), "weights"_a.none(),
           "expert_y"_a.none(), "bound_m"_a.none(), "do_send"_a, "do_recv"_a, "stream"_a)
      .def("destroy", &Exchange::destroy)
      .def("report", [](const Exchange& exchange) { check(exchange.op().report()); })
      .def_prop_ro("local_experts",
                   [](const Exchange& exchange) {
                     const Range range = exchange.op().local_experts();
                     return std::pair(range.begin, range.end);
                   })
      .def_prop_ro("capacity", [](const Exchange& exchange) { return exchange.op().capacity(); })
      .def_prop_ro("dropped_pairs", [](const Exchange& exchange) { return exchange.op().dropped_pairs(); });
}

}  // namespace weft::python
