#include "comm/clock_sync.cuh"

namespace weft {
namespace {

constexpr u32 kRounds = 64;

struct ClockWords {
  sym<u32> ping;   // [ranks] on rank 0, a line apart: the round that the rank has asked for
  sym<u32> pong;   // on every other rank: the round that is answered
  sym<u64> stamp;  // and rank 0's time then
  WEFT_HD sym<u32> ping_of(int rank) const { return ping + rank * kFlagsPerLine; }
};

ClockWords words_at(sym<std::byte> base) {
  return {(base + 256).as<u32>(), base.as<u32>(), (base + 128).as<u64>()};
}

// Rank 0: one CTA of one thread for each other rank.
__global__ void clock_server_kernel(const __grid_constant__ CudaPeers peers, ClockWords words, u32 epoch) {
  const int client = int(blockIdx.x) + 1;
  for (u32 round = 1; round <= kRounds; ++round) {
    peers.await(words.ping_of(client), client, epoch + round);
    *peers.at(words.stamp, client) = ptx::globaltimer_ns();
    peers.notify(words.pong, client, epoch + round);
  }
}

// The others, one thread: the mean offset over the fastest rounds.
__global__ void clock_client_kernel(const __grid_constant__ CudaPeers peers, ClockWords words, u32 epoch, i64* offset) {
  u64 fastest = ~u64(0);
  i64 sum = 0, count = 0;
  for (u32 round = 1; round <= kRounds; ++round) {
    const u64 asked = ptx::globaltimer_ns();
    peers.notify(words.ping_of(peers.rank), 0, epoch + round);
    peers.await(words.pong, 0, epoch + round);
    const u64 heard = ptx::globaltimer_ns(), trip = heard - asked;
    if (trip > fastest) continue;
    if (trip < fastest) fastest = trip, sum = count = 0;
    sum += i64(*const_cast<volatile u64*>(peers.at(words.stamp, peers.rank))) - i64(asked + trip / 2);
    ++count;
  }
  *offset = sum / count;
}

}  // namespace

i64 ClockSync::bytes(int ranks) {
  return 256 + i64(ranks) * kFlagsPerLine * i64(sizeof(u32));
}

Result<ClockSync> ClockSync::create(sym<std::byte> words) {
  ClockSync clock;
  clock.words_ = words;
  WEFT_ASSIGN(clock.stream_, make_stream());
  WEFT_ASSIGN(clock.offset_, HostBuffer::create(sizeof(i64)));
  return std::move(clock);
}

Status ClockSync::enqueue(const CudaPeers& peers) {
  if (peers.ranks == 1) return {};
  const ClockWords words = words_at(words_);
  WEFT_TRY(peers.rank == 0
               ? launch("clock", clock_server_kernel, {.grid = unsigned(peers.ranks - 1)}, stream_.get(), peers, words,
                        epoch_)
               : launch("clock", clock_client_kernel, {}, stream_.get(), peers, words, epoch_, offset_.as<i64>()));
  epoch_ += kRounds;
  return {};
}

}  // namespace weft
