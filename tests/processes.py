"""Processes of others as tests look at them: any may end between two looks."""

import psutil


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; one that was not yet waited for does not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def command_of(process: psutil.Process) -> list[str]:
    """Its command, empty when it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
