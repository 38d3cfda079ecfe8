"""What the sources that read files have in common: which files, and how far a document and a compressed file may go."""

from pydantic import Field, field_validator

from lm.inputs.encodings import known_encoding
from tasks.ingest.sources.base import File, Source, below_folder
from tasks.ingest.sources.files import matching


class FileSource(Source):
    """A source that reads files, by a glob relative to ingest.folder or by a URL such as s3://bucket/folder/*.parquet."""

    path: str = Field(description="glob relative to ingest.folder, or a URL")
    max_document_bytes: int = Field(16 << 20, gt=0, description="what is longer is quarantined without being held")
    max_expansion: int = Field(
        200,
        gt=0,
        description="bytes that a compressed one may become; beyond it (and 64 MiB) a file is read no further",
    )

    file_in_meta: bool = Field(
        False, description="put the file's name into meta as `file`; what is kept then depends on it"
    )

    @field_validator("path")
    @classmethod
    def _stays_below(cls, path: str) -> str:
        return below_folder(path)

    def files(self, folder: str) -> list[File]:
        return matching(folder, self.path, self.called)


class TextSource(FileSource):
    """A source of files that are text."""

    encoding: str = Field(
        "utf-8", description="of files without a byte order mark; latin-1, cp1252, shift_jis: any that Python knows"
    )

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        return known_encoding(encoding)
