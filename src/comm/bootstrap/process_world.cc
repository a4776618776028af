#include "comm/bootstrap/process_world.h"

#include "comm/bootstrap/share_fd.h"

namespace weft {
namespace {

class ProcessWorld final : public World {
 public:
  ProcessWorld(int rank, int size, const std::shared_ptr<Failure>& failure, Membership membership, MonitorTiming timing)
      : World(rank, size, failure), monitor_(std::move(membership), failure, timing) {}

  Result<std::vector<std::string>> all_gather(const std::string& bytes, Deadline deadline) override {
    return monitor_.all_gather(bytes, deadline);
  }
  bool is_threads() const override { return false; }
  Result<Fd> share_fd(Fd fd, int root, Deadline deadline) override {
    return share_descriptor(*this, monitor_.members(), std::move(fd), root, deadline);
  }
  void fail(Status reason) override { monitor_.fail(std::move(reason)); }

 private:
  Monitor monitor_;
};

}  // namespace

Result<std::unique_ptr<World>> join_world(const WorldSpec& spec, Deadline deadline, MonitorTiming timing) {
  WEFT_CHECK(spec.kind == WorldSpec::Kind::kRank && spec.rank >= 0 && spec.rank < spec.size, spec.rank, spec.size);
  WEFT_ASSIGN(Membership membership, meet(spec, deadline));
  return std::unique_ptr<World>(
      std::make_unique<ProcessWorld>(spec.rank, spec.size, std::make_shared<Failure>(), std::move(membership), timing));
}

}  // namespace weft
