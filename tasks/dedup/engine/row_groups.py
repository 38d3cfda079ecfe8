"""The texts of a shard, a row group at a time, worked on by the threads of this process."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.process import threads
from tasks.dedup.documents import Shard

Result = TypeVar("Result")


def over_texts(shard: Shard, work: Callable[[pa.LargeStringArray], Result]) -> Iterator[Result]:
    """work(texts) of a row group after another, in order; as many are read and worked on at once as there are threads.

    `work` should let the interpreter go, as compiled code and Arrow do.
    """
    count = threads()
    with ExitStack() as stack:
        files = SimpleQueue[pq.ParquetFile]()  # one a thread: a reader is nobody else's while it reads
        for _ in range(count):
            files.put(stack.enter_context(pq.ParquetFile(shard.path)))

        def read_and_work(group: int) -> list[Result]:
            file = files.get()
            try:
                texts = [batch["text"] for _, batch in shard.batches_of(file, group, ["text"])]
            finally:
                files.put(file)  # of a damaged file too: the others wait for it
            return [work(each) for each in texts]

        pool = stack.enter_context(ThreadPoolExecutor(count))
        waiting: deque[Future[list[Result]]] = deque()
        for group in range(pq.read_metadata(shard.path).num_row_groups):
            waiting.append(pool.submit(read_and_work, group))
            if len(waiting) > count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
