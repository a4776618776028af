"""A mixture of experts over ranks, on the CPU: python -m weft.launch -n 4 examples/python/all_to_all.py

Every expert multiplies its rows by its own number. With torch tensors the same calls work unchanged.
"""

import numpy as np

import weft

TOKENS, HIDDEN, EXPERTS, TOP_K = 128, 1024, 16, 4

rank, ranks = weft.rank(), weft.world_size()
moe = weft.AllToAll.intranode(
    max_num_tokens=TOKENS,
    num_experts=EXPERTS,
    experts_per_token=TOP_K,
    rank=rank,
    world_size=ranks,
    dp_size=1,
    hidden_dim=HIDDEN,
    hidden_dim_bytes=HIDDEN * 4,
    hidden_dim_scale_bytes=0,
)

random = np.random.default_rng(rank)
x = random.standard_normal((TOKENS, HIDDEN), dtype=np.float32)
indices = random.permuted(np.tile(np.arange(EXPERTS, dtype=np.uint32), (TOKENS, 1)), axis=1)[:, :TOP_K].copy()
weights = random.dirichlet(np.ones(TOP_K), TOKENS).astype(np.float32)

experts = moe.local_experts
counts = np.empty(len(experts), np.int32)
expert_x = np.empty((len(experts), moe.capacity, HIDDEN), np.float32)
moe.dispatch(counts, expert_x, None, x, None, indices, None)

expert_y = np.zeros_like(expert_x)
for local, expert in enumerate(experts):
    expert_y[local, : counts[local]] = expert_x[local, : counts[local]] * (expert + 1)

out = np.empty_like(x)
moe.combine(out, indices, weights, expert_y, None)

expected = x * (weights * (indices + 1)).sum(axis=1, keepdims=True)
np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
print(f"rank {rank} of {ranks}: {counts.sum()} rows came for experts {experts.start} to {experts.stop - 1}; sums match")
moe.destroy()
