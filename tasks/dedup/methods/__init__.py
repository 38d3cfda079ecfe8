"""Ways to find duplicates: `(texts) -> cluster: N ints, the row of the first document of each one's cluster`."""

from tasks.dedup.methods.exact import Exact
from tasks.dedup.methods.minhash import Minhash
