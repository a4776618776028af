"""One rank of a world that dispatches and combines in every form, everything compared with numpy.

Run by tests/python_test.py through `python -m weft.launch`. --torch hands torch tensors over instead of numpy arrays,
--cuda such ones on GPUs, --copy copies on the CPU, as a stand-in for them.
"""

import itertools
import sys

import ml_dtypes
import numpy as np

import weft

TOKENS, EXPERTS, TOP_K, HIDDEN, BLOCK = 11, 10, 3, 48, 16
TYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SENTINEL = 0x5A


class Group:
    """The tokens of a DP group in one call. Every rank can draw those of all groups."""

    def __init__(self, call, number, dtype, bounded):
        random = np.random.default_rng([call, number])
        self.rows = TOKENS - number % 2
        self.tokens = int(random.integers(0, self.rows + 1)) if bounded else self.rows
        self.x = random.standard_normal((self.rows, HIDDEN), dtype=np.float32).astype(TYPES[dtype])
        self.scale = random.random((self.rows, HIDDEN // BLOCK), dtype=np.float32)
        every = np.tile(np.arange(EXPERTS, dtype=np.int32), (self.rows, 1))
        self.indices = random.permuted(every, axis=1)[:, :TOP_K].copy()
        self.indices[random.random(self.indices.shape) < 0.2] = -1
        self.weights = random.random((self.rows, TOP_K), dtype=np.float32)


class Hands:
    """Hands arrays over in the form that the command line asks for, and brings back what was written elsewhere."""

    def __init__(self):
        self.torch = bool({"--torch", "--cuda", "--copy"} & set(sys.argv))
        self.cuda = "--cuda" in sys.argv
        self.elsewhere = self.cuda or "--copy" in sys.argv
        self.copies = []
        if self.cuda:
            import torch

            torch.cuda.set_device(weft.rank() % torch.cuda.device_count())

    def over(self, array):
        if not self.torch:
            return array
        import torch

        exotic = str(array.dtype) in ("bfloat16", "float8_e4m3fn")
        plain = torch.from_numpy(array.view(f"uint{8 * array.itemsize}") if exotic else array)
        if self.elsewhere:
            # Strides as they are: a clone would close the gaps between rows.
            there = torch.empty_strided(plain.shape, plain.stride(), dtype=plain.dtype, device="cuda" if self.cuda else None)
            there.copy_(plain)
            self.copies.append((plain, there))
            plain = there
        return plain.view(getattr(torch, str(array.dtype))) if exotic else plain

    def back(self):
        """All that was handed over: what calls have written stands in the arrays then."""
        for here, there in self.copies:
            here.copy_(there)  # waits for the stream
        self.copies.clear()


def tokens_of(groups, expert):
    """(group, token) of an expert's rows, in their order."""
    for group in groups:
        for token in range(group.tokens):
            if expert in group.indices[token]:
                yield group, token


def blank(shape, dtype):
    return np.full(int(np.prod(shape)) * dtype.itemsize, SENTINEL, np.uint8).view(dtype).reshape(shape)


def apart(rows):
    """The same rows with gaps between them."""
    wide = np.zeros((rows.shape[0], rows.shape[1] + 16), rows.dtype)
    wide[:, : rows.shape[1]] = rows
    return wide[:, : rows.shape[1]]


def check_dispatch(case, experts, groups, counts, expert_x, expert_scale):
    for local, expert in enumerate(experts):
        rows = list(tokens_of(groups, expert))
        assert counts[local] == len(rows), f"{case}: {counts[local]} rows for expert {expert}, expected {len(rows)}"
        for place, (group, token) in enumerate(rows):
            assert expert_x[local, place].tobytes() == group.x[token].tobytes(), f"{case}: row {place} of {expert}"
            if expert_scale is not None:
                assert (expert_scale[local, place] == group.scale[token]).all(), f"{case}: scale {place} of {expert}"
        for rest in (expert_x, expert_scale):
            if rest is not None:
                assert (rest[local, len(rows) :].view(np.uint8) == SENTINEL).all(), f"{case}: written behind {expert}"


def answer(groups, experts, capacity, dtype, expert):
    """What an expert makes of its rows: [capacity, HIDDEN]."""
    y = np.zeros((capacity, HIDDEN), TYPES[dtype])
    for place, (group, token) in enumerate(tokens_of(groups, expert)):
        y[place] = (group.x[token].astype(np.float32) * (1 + expert)).astype(TYPES[dtype])
    return y


def check_combine(case, group, out, y_dtype, out_dtype, exact):
    for token in range(group.tokens):
        total, size = np.zeros(HIDDEN), np.zeros(HIDDEN)
        for index, weight in zip(group.indices[token], group.weights[token]):
            if index >= 0:
                y = (group.x[token].astype(np.float32) * (1 + index)).astype(TYPES[y_dtype]).astype(np.float64)
                total += y * float(weight)
                size += np.abs(y * float(weight))
        # fp32 sums of products, a rounding of each rank's sum unless exact, one of the result; f16 has subnormals.
        error = 2 * (TOP_K + 1) * ROUNDOFF["float32"] + (0 if exact else ROUNDOFF[y_dtype]) + ROUNDOFF[out_dtype]
        bound = size * error * (1 + error) + (2.0**-23 if "float16" in (y_dtype, out_dtype) else 0)
        found = out[token].astype(np.float64)
        assert (np.abs(found - total) <= bound).all(), f"{case}: token {token}: {found} instead of {total}"
    assert (out[group.tokens :].view(np.uint8) == SENTINEL).all(), f"{case}: written behind the tokens"


def operator(hands, **options):
    return weft.AllToAll.intranode(
        max_num_tokens=TOKENS,
        num_experts=EXPERTS,
        experts_per_token=TOP_K,
        rank=weft.rank(),
        world_size=weft.world_size(),
        device="cuda" if hands.cuda else "cpu",
        **options,
    )


def run(case, call, hands):
    dtype, y_dtype, out_dtype, dp_size, exact, split, bounded, packed = case
    rank, size = weft.rank(), weft.world_size()
    scaled = dtype == "float8_e4m3fn"
    op = operator(
        hands,
        dp_size=dp_size,
        hidden_dim=HIDDEN,
        hidden_dim_bytes=HIDDEN * TYPES[dtype].itemsize,
        hidden_dim_scale_bytes=HIDDEN // BLOCK * 4 if scaled else 0,
        combine_mode="exact" if exact else "pre_reduced",
    )
    experts = op.local_experts
    assert op.capacity == TOKENS * (size // dp_size)
    for repeat in range(3):
        groups = [Group(1000 * call + repeat, number, dtype, bounded) for number in range(size // dp_size)]
        own = groups[rank // dp_size]
        counts = np.empty(len(experts), np.int32)
        expert_x = blank((len(experts), op.capacity, HIDDEN), TYPES[dtype])
        expert_scale = blank((len(experts), op.capacity, HIDDEN // BLOCK), np.dtype(np.float32)) if scaled else None
        bound_m = hands.over(np.array([own.tokens], np.uint32)) if bounded else None
        indices = hands.over(own.indices.view(np.uint32) if call % 2 else own.indices)
        to = {
            "out_expert_num_tokens": hands.over(counts),
            "out_expert_x": hands.over(expert_x),
            "out_expert_x_scale": hands.over(expert_scale) if scaled else None,
            "dp_x": hands.over(apart(own.x) if call % 3 == 0 else own.x),
            "dp_x_scale": hands.over(own.scale) if scaled else None,
            "indices": indices,
            "bound_m": bound_m,
        }
        for half in ({"do_recv": False}, {"do_send": False}) if split else ({},):
            op.dispatch(**to, **half)
        hands.back()
        op.report()
        check_dispatch(case, experts, groups, counts, expert_x, expert_scale)

        parts = [answer(groups, experts, op.capacity, y_dtype, expert) for expert in experts]
        y = np.stack(parts) if parts else np.zeros((0, op.capacity, HIDDEN), TYPES[y_dtype])
        if packed:
            most = min(len(experts) * op.capacity, TOKENS * TOP_K * (size // dp_size))  # what GPUs ask for
            y = np.zeros((most, HIDDEN), TYPES[y_dtype])
            y[: counts.sum()] = np.concatenate([part[:count] for part, count in zip(parts, counts)] or [y[:0]])
        out = blank((TOKENS, HIDDEN), TYPES[out_dtype])  # as many rows as any call needs
        back = {
            "out_tokens": hands.over(out),
            "indices": indices,
            "weights": hands.over(own.weights),
            "expert_y": hands.over(y),
            "bound_m": bound_m if repeat else None,
        }
        for half in ({"do_recv": False}, {"do_send": False}) if split else ({},):
            op.combine(**back, **half)
        hands.back()
        check_combine(case, own, out, y_dtype, out_dtype, exact)
    op.destroy()


def run_cast(dtype, hands):
    """Dispatch casts to fp8: what comes is within half a step of e4m3 of what went, and its scale is the block's."""
    rank, size, hidden = weft.rank(), weft.world_size(), 272
    op = operator(
        hands,
        dp_size=1,
        hidden_dim=hidden,
        hidden_dim_bytes=hidden,
        hidden_dim_scale_bytes=3 * 4,
        cast_x_to_fp8=True,
    )
    rows = [np.random.default_rng([7, number]).standard_normal((TOKENS, hidden), dtype=np.float32) for number in range(size)]
    rows = [row.astype(TYPES[dtype]) for row in rows]
    groups = [Group(7, number, dtype, False) for number in range(size)]
    counts = np.empty(len(op.local_experts), np.int32)
    expert_x = blank((len(op.local_experts), op.capacity, hidden), TYPES["float8_e4m3fn"])
    expert_scale = blank((len(op.local_experts), op.capacity, 3), np.dtype(np.float32))
    own = groups[rank]
    op.dispatch(
        out_expert_num_tokens=hands.over(counts),
        out_expert_x=hands.over(expert_x),
        out_expert_x_scale=hands.over(expert_scale),
        dp_x=hands.over(rows[rank][: own.rows]),
        dp_x_scale=None,
        indices=hands.over(own.indices),
        bound_m=None,
    )
    hands.back()
    op.report()
    for local, expert in enumerate(op.local_experts):
        there = [rows[number][token] for number, group in enumerate(groups) for token in np.flatnonzero((group.indices == expert).any(1))]
        assert counts[local] == len(there), f"cast: {counts[local]} rows for expert {expert}, expected {len(there)}"
        for place, row in enumerate(there):
            row = row.astype(np.float32)
            for block, begin in enumerate(range(0, hidden, 128)):
                part, scale = row[begin : begin + 128], expert_scale[local, place, block]
                assert scale == np.abs(part).max() / np.float32(448), f"cast: scale {block} of row {place} of {expert}"
                found = expert_x[local, place, begin : begin + 128].astype(np.float32) * scale
                bound = np.maximum(np.abs(part) * 2.0**-4, scale * 2.0**-10) * 1.0001
                assert (np.abs(found - part) <= bound).all(), f"cast: block {block} of row {place} of {expert}"
    op.destroy()


def main():
    weft.init()
    hands = Hands()
    size = weft.world_size()
    dp_sizes = [dp for dp in (1, 2, 4) if size % dp == 0]
    kinds = [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "bfloat16"),
        ("float8_e4m3fn", "bfloat16", "float16"),
        ("float8_e4m3fn", "float32", "bfloat16"),
    ]
    flags = [(False, False, False, False), (True, True, True, False), (False, True, True, True)]
    cases = [(*kind, dp, *flag) for kind, dp, flag in itertools.product(kinds, dp_sizes, flags)]
    for call, case in enumerate(cases):
        run(case, call, hands)
    casts = ["float32", "float16", "bfloat16"]
    for dtype in casts:
        run_cast(dtype, hands)
    print(f"rank {weft.rank()} of {size}: {len(cases) + len(casts)} cases passed")


if __name__ == "__main__":
    main()
