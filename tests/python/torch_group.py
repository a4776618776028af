"""Three processes of torch.multiprocessing that know each other through torch.distributed alone."""

import sys

import torch
import torch.distributed
import torch.multiprocessing

import weft


def main(rank, port):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    op = weft.AllToAll.intranode(4, 3, 1, rank, 3, 1, 8, 32, 0)
    x = torch.arange(32, dtype=torch.float32).reshape(4, 8) + 100 * rank
    indices = torch.tensor([[0], [1], [2], [0]], dtype=torch.uint32)
    counts, expert_x = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 12, 8)
    op.dispatch(counts, expert_x, None, x, None, indices, None)
    assert counts.tolist() == [6 if rank == 0 else 3]
    out = torch.empty(4, 8)
    op.combine(out, indices, torch.full((4, 1), 2.0), expert_x, None)
    torch.testing.assert_close(out, 2 * x, rtol=0, atol=0)
    print("torch's group, as expected", flush=True)
    op.destroy()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (sys.argv[1],), nprocs=3)
