"""Dispatch and combine of expert parallelism, called as pplx-kernels' Python users call them."""

import sys

from weft import _weft, world
from weft.errors import Unimplemented


def _torch_on_gpu():
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def _current_stream():
    """The stream that torch works on, as its address; CUDA's default stream without torch."""
    return sys.modules["torch"].cuda.current_stream().cuda_stream if _torch_on_gpu() else 0


class AllToAll:
    """One exchange of a layer: tokens travel to the ranks of their experts and the weighted sums come back.

    Made by intranode(). Every rank makes the same calls in the same order; one thread at a time. Tensors are torch's,
    numpy's (with ml_dtypes for bf16 and fp8) or of any library with __dlpack__, in row-major order.

    All calls raise InvalidArgument naming the argument before anything is sent; DeadlineExceeded, Unavailable or
    Aborted naming the rank that did not come, after which the world is lost. On CPUs a dispatch that came to its end
    raises, on all ranks alike, ResourceExhausted for rows beyond a capacity (left out, they count as zeros) or a
    bound_m beyond the tensor (only m tokens count), and InvalidArgument for an index that is no expert (it counts as
    -1); combine may still be called. On GPUs calls return at once and report() says so later.
    """

    def __init__(self, exchange):
        self._exchange = exchange
        self._on_gpu = False

    @classmethod
    def intranode(
        cls,
        max_num_tokens,
        num_experts,
        experts_per_token,
        rank,
        world_size,
        dp_size,
        hidden_dim,
        hidden_dim_bytes,
        hidden_dim_scale_bytes,
        group_name="default",
        max_sm_count=0,
        *,
        device=None,
        expert_capacity=0,
        combine_dtype="float32",
        combine_mode="pre_reduced",
        cast_x_to_fp8=False,
        threads=0,
        deadline=10.0,
    ):
        """For ranks of one host. Collective.

        max_num_tokens: of a DP group, which is `dp_size` neighbouring ranks that hold the same tokens.
        num_experts: of all ranks; rank r holds a run of them, longer by one on the first ranks where they do not
            divide evenly: see local_experts.
        hidden_dim: elements of a row that combine adds. hidden_dim_bytes, hidden_dim_scale_bytes: of a row of dp_x and
            of dp_x_scale, 0 = no scales.
        group_name: of torch.distributed, where that is initialised; else the ranks are those of init().
        max_sm_count: accepted for compatibility; the operator chooses by itself.

        device: "cpu" or "cuda" (the GPU of local rank); None: cuda where torch has one and this package was built for
            it. expert_capacity: rows of an expert; 0: all that can come. combine_dtype: the widest type that expert_y
        has; a narrower one than float32 saves memory. combine_mode: "pre_reduced" sends one row per (token, rank),
        "exact" one per (token, expert) and rounds only the result. cast_x_to_fp8: dispatch takes dp_x in float32,
        bfloat16 or float16 and no dp_x_scale, and sends float8_e4m3fn with a float32 scale for each 128 elements;
        hidden_dim_bytes = hidden_dim and hidden_dim_scale_bytes = 4 * ceil(hidden_dim / 128) then. threads: of a CPU rank; 0: its share of the CPUs.
        deadline: seconds of each wait for another rank.
        """
        if device is None:
            device = "cuda" if _weft.has_cuda and _torch_on_gpu() else "cpu"
        index = sys.modules["torch"].cuda.current_device() if device == "cuda" and _torch_on_gpu() else -1
        self = cls(
            _weft.Exchange(
                ranks=world.ranks_of(group_name),
                max_num_tokens=max_num_tokens,
                num_experts=num_experts,
                experts_per_token=experts_per_token,
                rank=rank,
                world_size=world_size,
                dp_size=dp_size,
                hidden_dim=hidden_dim,
                hidden_dim_bytes=hidden_dim_bytes,
                hidden_dim_scale_bytes=hidden_dim_scale_bytes,
                expert_capacity=expert_capacity,
                combine_dtype=combine_dtype,
                combine_mode=combine_mode,
                cast_x_to_fp8=cast_x_to_fp8,
                device=device,
                device_index=index,
                threads=threads,
                deadline=deadline,
            )
        )
        self._on_gpu = device == "cuda"
        world.keep(self)
        return self

    @classmethod
    def internode(cls, *arguments, **options):
        """Ranks on several hosts: not there yet."""
        raise Unimplemented("internode: ranks on several hosts are not supported; intranode() serves those of one")

    def dispatch(
        self,
        out_expert_num_tokens,
        out_expert_x,
        out_expert_x_scale,
        dp_x,
        dp_x_scale,
        indices,
        bound_m,
        do_send=True,
        do_recv=True,
    ):
        """Sends each token to the ranks of its experts.

        out_expert_num_tokens: [local experts] int32, the rows that came to each.
        out_expert_x: [local experts, capacity, hidden_dim] as dp_x; an expert's rows stand first, ordered by DP group,
            then token. What lies behind them is left alone.
        out_expert_x_scale: [local experts, capacity, scales] as dp_x_scale; None without scales.
        dp_x: [m, hidden_dim] of any type, rows may lie apart. dp_x_scale: [m, scales]; None without scales.
        indices: [m, experts_per_token] uint32 or int32, all different in a row; -1 (0xffffffff) is no expert.
        bound_m: [1] uint32, only so many of the m tokens count; None: all.
        do_send, do_recv: False for one leaves only the other half; a receive follows its send, with the same arguments,
            which stay as they are in between.
        """
        stream = _current_stream() if self._on_gpu else 0
        self._exchange.dispatch(
            out_expert_num_tokens,
            out_expert_x,
            out_expert_x_scale,
            dp_x,
            dp_x_scale,
            indices,
            bound_m,
            do_send,
            do_recv,
            stream,
        )

    def combine(self, out_tokens, indices, weights, expert_y, bound_m, do_send=True, do_recv=True):
        """Brings back, for each token, the sum of weight * expert_y over its experts, added in float32.

        out_tokens: [at least m, hidden_dim] float32, bfloat16 or float16; rows beyond the tokens are left alone.
        indices, bound_m: those of the last dispatch (bound_m may be None). weights: [m, experts_per_token] float32.
        expert_y: [local experts, capacity, hidden_dim], or [rows, hidden_dim] without gaps, expert by expert;
            float32, bfloat16 or float16, the same on every rank.
        """
        stream = _current_stream() if self._on_gpu else 0
        self._exchange.combine(out_tokens, indices, weights, expert_y, bound_m, do_send, do_recv, stream)

    def destroy(self):
        """Frees the memory. Further calls raise InvalidArgument."""
        self._exchange.destroy()

    def report(self):
        """GPUs, after synchronising with the stream: raises what the dispatches so far have found wrong."""
        self._exchange.report()

    @property
    def local_experts(self):
        """This rank's experts, as a range."""
        return range(*self._exchange.local_experts)

    @property
    def capacity(self):
        """Rows of an expert."""
        return self._exchange.capacity

    @property
    def dropped_pairs(self):
        """(token, expert) pairs left out for want of capacity so far."""
        return self._exchange.dropped_pairs
