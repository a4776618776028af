#include "dist/ag_moe/ag_moe.h"

#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "ag_moe";

struct ExpertHooks {
  const HostMachine& m;
  const Exec& exec;
  const ActivationView& x;
  const ExpertGroups& groups;
  const GroupedWeight& w;
  const TensorView& y;

  void local(i64 begin, i64 end) const { grouped_gemm_share(exec, {x, begin, begin, end}, groups, w, y); }
  void gathered(sym<std::byte> rows, i64 begin, i64 end) const {
    const ActivationView all{m.at(rows, m.rank()), x.format, DeviceKind::kCpu, end, x.k};
    grouped_gemm_share(exec, {all, 0, begin, end}, groups, w, y);
  }
};

}  // namespace

Result<AgMoe> AgMoe::create(Communicator& comm, const AgGemmShape& shape, const AgMoeOptions& options) {
  AgMoe op(comm, shape, options);
  WEFT_ASSIGN(op.plan_, AgGemmPlan::create(comm, shape, kOp));
  return op;
}

Status AgMoe::run(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
                  const TensorView& y) {
  WEFT_TRY(expect_cpu(kOp, exec));
  const i64 m = groups.tokens();
  WEFT_TRY(AgGemmPlan::check(kOp, comm_, shape_, x, m));
  WEFT_TRY(check_grouped_input(kOp, x, x.rows, groups, w));
  WEFT_TRY(expect_tensor("ag_moe: y", y, DType::kF32, {groups.pairs(), w.n()}));
  WEFT_TRY(comm_.status());
  if (comm_.size() == 1) return grouped_gemm(exec, x, groups, w, y);
  if (m == 0) return exec.sync();
  HostMachine machine = comm_.machine(exec, kOp);
  const ExpertHooks hooks{machine, exec, x, groups, w, y};
  return end_call(comm_, exec, ag_gemm(machine, plan_.buffers, m, x.data, m <= options_.at_once_rows, hooks));
}

}  // namespace weft
