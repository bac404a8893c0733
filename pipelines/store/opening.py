"""Which storage is behind a URI: the one place that knows all kinds.

Enters: a folder's path or `s3://bucket/prefix`. Leaves: its `Storage`.
"""

from __future__ import annotations

import re

from pipelines.errors import ConfigError
from pipelines.store.s3 import S3Storage
from pipelines.store.storage import FolderStorage, Storage


def open_storage(uri: str) -> Storage:
    """The storage behind a folder path or an `s3://bucket/prefix` URI. Raises: ConfigError for a URI of another
    kind.
    """
    if uri.startswith("s3://"):
        return S3Storage(uri)
    if near := re.match(r"(?i)s3:/*(?=[^/])", uri):  # s3:/bucket, S3://bucket: else a folder of that name
        raise ConfigError(f"store {uri!r}: write store=s3://{uri[near.end() :]}")
    if uri.lower().startswith("file:"):
        path = "/" + re.sub(r"(?i)^file:(//[^/]*)?", "", uri).lstrip("/")
        raise ConfigError(f"store {uri!r} is of an unknown kind; a folder is named by its path: write store={path}")
    if variable := re.match(r"\$\{?(\w+)\}?(/|$)", uri):
        raise ConfigError(
            f"store {uri!r} begins with ${variable[1]} as it stands: a shell puts its value there outside of single "
            "quotes; in a YAML write ${oc.env:" + variable[1] + "}"
        )
    if "://" in uri:
        raise ConfigError(f"store {uri!r} is of an unknown kind; expected a folder or s3://bucket/prefix")
    return FolderStorage(uri)
