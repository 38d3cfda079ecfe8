"""How much text the data stages will have, told from the sources."""

from tasks.about.sections import Sections

# Bytes of a table of documents over those of their text: zstd makes 0.35 of code and 0.4 of prose.
PACKED = 0.5
# What .gz, .zst and Parquet become when they are read.
EXPANDED = 4
PACKED_ENDINGS = (".gz", ".zst", ".parquet")


def text_bytes(sections: Sections) -> float:
    """UTF-8 bytes of text that ingest keeps, at most: a source gives its share or all it has."""
    config, total = sections["ingest"], 0.0
    for source in config.sources:
        share = float(config.share(source))
        if not source.endless:
            files = source.files(config.folder)
            share = min(share, sum(f.bytes * (EXPANDED if f.name.endswith(PACKED_ENDINGS) else 1) for f in files))
        total += share
    return total
