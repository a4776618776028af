"""How this process becomes a rank, and how it leaves."""

import atexit
import itertools
import os
import sys
import uuid
import weakref

from weft import _weft
from weft.errors import InvalidArgument

_worlds = {}  # by the name of the torch.distributed group, None where there is none
_open = weakref.WeakValueDictionary()  # what must end before the worlds do, in the order that all ranks made it
_numbers = itertools.count()


def init(rank=None, world_size=None, job=None, *, timeout=60.0):
    """Joins the world. Optional: the first AllToAll does it too. Every rank calls it; it waits for the others.

    The ranks are, first match wins:
      - those given here, all on this host: `job` is a name that only they know;
      - those of the environment: RANK and WORLD_SIZE with MASTER_ADDR and MASTER_PORT (torchrun, weft.launch), mpirun,
        srun, or NODE_RANK, WORLD_SIZE and WORLD_LOCAL_SIZE: then this process starts the ranks of its host as further
        processes of the same command, and ends with them;
      - this process alone.
    Where torch.distributed is initialised, AllToAll.intranode() takes its group instead.

    Raises InvalidArgument naming the variable; DeadlineExceeded naming the ranks missing after `timeout` seconds.
    """
    if None in _worlds:
        raise InvalidArgument("init: this process has joined a world already")
    given = [value is not None for value in (rank, world_size, job)]
    if any(given):
        if not all(given):
            raise InvalidArgument("init: rank, world_size and job go together")
        _worlds[None] = _weft.join_job(rank, world_size, job, timeout)
        return
    status = _weft.spawn_local_ranks([sys.executable, *sys.orig_argv[1:]])
    if status is not None:
        sys.stdout.flush()
        os._exit(status)  # this process has only waited for the ranks: nothing of the program is to run here
    _worlds[None] = _weft.join_environment(timeout)


def rank():
    """The number of this rank."""
    return ranks_of(None).rank


def world_size():
    """The number of ranks."""
    return ranks_of(None).size


def ranks_of(group_name):
    """The world of a torch.distributed group, or that of init()."""
    group = _torch_group(group_name) if None not in _worlds else None
    key = group_name if group is not None else None
    if key not in _worlds:
        if group is None:
            init()
        else:
            _worlds[key] = _join_torch(group)
    return _worlds[key]


def _torch_group(name):
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    from torch.distributed import distributed_c10d

    try:
        return distributed_c10d._resolve_process_group(name)
    except (AttributeError, LookupError, RuntimeError, ValueError):
        if name not in (None, "default"):
            raise
        return distributed.group.WORLD


def _join_torch(group, timeout=60.0):
    """The ranks of a group meet under a name that its first rank draws."""
    import torch.distributed as distributed

    job = [f"torch-{uuid.uuid4().hex}"]
    distributed.broadcast_object_list(job, src=distributed.get_global_rank(group, 0), group=group)
    return _weft.join_job(distributed.get_rank(group), distributed.get_world_size(group), job[0], timeout)


def keep(operator):
    """Notes what is to be destroyed before this process leaves its worlds."""
    _open[next(_numbers)] = operator


@atexit.register
def _leave():
    """Says goodbye, so that the others do not take the end of this process for a death; an exception is one."""
    fault = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    for ranks in _worlds.values():
        if fault is not None:
            ranks.fail(f"rank {ranks.rank} ended with {type(fault).__name__}: {fault}")
    for operator in list(_open.values()):
        operator.destroy()
    _worlds.clear()
