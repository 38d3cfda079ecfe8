"""Ranks that a test spawns: gloo on this machine's CPU."""

import os

import torch
import torch.distributed as dist


def join(rank: int, world: int, folder: str, name: str = "store") -> None:
    """Be this one of the ranks that meet in a file of the folder."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo", TOKENMILL_CHECKPOINT_SECONDS="1e9")
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=world)
