#include "comm/communicator.h"

#include <algorithm>
#include <tuple>

#include "device/thread_pool.h"

namespace weft {

i64 Communicator::Mailbox::bytes(int ranks) {
  return (3 * ranks + 1) * kFlagLineBytes;
}

Communicator::Mailbox Communicator::Mailbox::at(u64 offset, int ranks) {
  const u64 line = u64(kFlagLineBytes);
  return {{offset}, {offset + 2 * u64(ranks) * line}, {offset + 3 * u64(ranks) * line}};
}

Result<Communicator> Communicator::create(World& world, const CommunicatorOptions& options) {
  if (options.deadline <= std::chrono::nanoseconds(0)) {
    return error(Code::kInvalidArgument, "communicator: deadline: expected more than 0");
  }
  auto state = std::make_shared<State>();
  WEFT_ASSIGN(state->arena, Arena::create(world, options.arena_bytes, Deadline::after(options.deadline)));
  HostGroup& group = state->group;
  group.rank = world.rank();
  for (int r = 0; r < world.size(); ++r) {
    group.bases.push_back(state->arena->base(r));
    group.world_ranks.push_back(r);
  }
  group.world = &world;
  group.deadline = options.deadline;
  group.usable_cpus = usable_cpu_count();
  WEFT_ASSIGN(group.doorbell, state->arena->alloc<Doorbell>(1, "communicator"));
  WEFT_ASSIGN(const auto mailbox, state->arena->alloc<std::byte>(Mailbox::bytes(world.size()), "communicator"));
  state->mailbox = Mailbox::at(mailbox.offset, world.size());
  return Communicator(std::move(state));
}

Status Communicator::expect_cpu(const std::string& what) const {
  if (device() == DeviceKind::kCpu) return {};
  return error(Code::kUnimplemented, "{}: no form for GPUs", what);
}

Result<Communicator> Communicator::split(int color, int key) {
  if (color < 0) return error(Code::kInvalidArgument, "split: color: expected at least 0, found {}", color);
  if (device() == DeviceKind::kCuda) return split_gpus(color, key);
  WEFT_ASSIGN(const auto chosen, exchange(u64(u32(color)) << 32 | u32(key)));
  // One offset for all colors: groups are disjoint, so their mailboxes never meet.
  WEFT_ASSIGN(const auto mailbox, alloc<std::byte>(Mailbox::bytes(size()), "split"));
  std::vector<std::tuple<i32, int>> members;  // key, rank
  for (int r = 0; r < size(); ++r) {
    if (int(chosen[size_t(r)] >> 32) == color) members.emplace_back(i32(u32(chosen[size_t(r)])), r);
  }
  std::sort(members.begin(), members.end());
  auto state = std::make_shared<State>(*state_);
  state->group.bases.clear();
  state->group.world_ranks.clear();
  for (const auto& [member_key, r] : members) {
    if (r == rank()) state->group.rank = state->group.ranks();
    state->group.bases.push_back(state_->group.bases[size_t(r)]);
    state->group.world_ranks.push_back(world_rank(r));
  }
  state->mailbox = Mailbox::at(mailbox.offset, state->group.ranks());
  return Communicator(std::move(state));
}

Result<std::vector<u64>> Communicator::exchange(u64 value) {
  WEFT_TRY(expect_cpu("exchange"));
  WEFT_TRY(status());
  constexpr i64 kLineWords = kFlagLineBytes / i64(sizeof(u64));
  HostMachine m(state_->group, 0, 1, "communicator");
  const Mailbox& box = state_->mailbox;
  const u32 epoch = m.epoch(box.epoch);
  const FlagTable flags{box.flags, kFlagsPerLine};
  const sym<u64> half = box.values + (epoch & 1) * size() * kLineWords;
  peers(m, [&](int p) {
    m.put(half + rank() * kLineWords, p, value);
    m.notify(flags.at(rank(), 0), p, epoch);
    m.flush(p);
  });
  std::vector<u64> values(size_t(size()), value);
  const bool heard = peers_until(m, [&](int p) {
    if (!m.await(flags.at(p, 0), p, epoch)) return false;
    values[size_t(p)] = m.get(half + p * kLineWords);
    return true;
  });
  if (!heard) return status();
  finish(m, box.epoch, epoch);
  return values;
}

Result<u64> Communicator::alloc_bytes(i64 bytes, const std::string& what) {
  WEFT_TRY(expect_cpu(what));
  // Ranks may stand at different offsets after allocations in other groups: the highest one suits all.
  WEFT_ASSIGN(const auto wanted, exchange(u64(bytes)));
  WEFT_ASSIGN(const auto used, exchange(u64(arena().used())));
  for (int r = 0; r < size(); ++r) {
    if (wanted[size_t(r)] != u64(bytes)) {
      return error(Code::kInvalidArgument, "{}: rank {} asks for {} bytes of symmetric memory, rank {} for {}", what,
                   world_rank(rank()), bytes, world_rank(r), wanted[size_t(r)]);
    }
  }
  return arena().alloc_at(i64(*std::max_element(used.begin(), used.end())), bytes, what);
}

}  // namespace weft
