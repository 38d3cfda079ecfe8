"""A write that failed for want of room."""

import errno
import re


def is_full(error: OSError) -> bool:
    """Whether a disk, a quota or a limit on files is what stopped a write. NumPy's tofile says it without a number."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or (error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)) is not None)
