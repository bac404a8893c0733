"""Which storage is behind a URI: the one place that knows all kinds.

Enters: a folder's path or `s3://bucket/prefix`. Leaves: its `Storage`.
"""

from __future__ import annotations

from pipelines.errors import ConfigError
from pipelines.store.s3 import S3Storage
from pipelines.store.storage import FolderStorage, Storage


def open_storage(uri: str) -> Storage:
    """The storage behind a folder path or an `s3://bucket/prefix` URI. Raises: ConfigError for a URI of another
    kind.
    """
    if uri.startswith("s3://"):
        return S3Storage(uri)
    if "://" in uri:
        raise ConfigError(f"store {uri!r} is of an unknown kind; expected a folder or s3://bucket/prefix")
    return FolderStorage(uri)
