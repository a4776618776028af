"""weft: communication between ranks, woven into computation.

AllToAll is dispatch and combine of expert parallelism, with the calls of pplx-kernels, on tensors of any library that
speaks DLPack. Ranks are processes, started by mpirun, torchrun, weft.launch or one's own hand; see init().
"""

from weft._weft import has_cuda
from weft.all_to_all import AllToAll
from weft.errors import (
    Aborted,
    DeadlineExceeded,
    Error,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from weft.world import init, rank, world_size

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "AllToAll",
    "DeadlineExceeded",
    "Error",
    "InvalidArgument",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
    "has_cuda",
    "init",
    "rank",
    "world_size",
]
