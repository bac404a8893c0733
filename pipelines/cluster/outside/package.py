"""What travels to the cluster with a job: the project's folder without what is ignored, as one zip.

Enters: a folder and patterns. Leaves: a zip whose bytes depend on the files' paths and contents alone, so that a
cluster which has it already is sent nothing, and a retry days later runs the same code, whatever was edited meanwhile.

The limit is compared with the files' sizes before they are compressed: Ray's own upload compresses nothing, and what
fits here should fit there.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.cluster.outside.jobs import upload_limit, uploaded
from pipelines.display.progress import human
from pipelines.errors import ConfigError
from pipelines.store.cache import cache_folder

_NAMED = 10  # files and folders in the refusal


@dataclass(frozen=True)
class Package:
    """The files of a folder that go along."""

    folder: Path
    sizes: dict[str, int]  # path relative to the folder: bytes

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The largest files, and the largest folders (with a closing /), where a folder adds to what its largest entry
        says.
        """
        folders = Counter[str]()
        for path, size in self.sizes.items():
            for parent in Path(path).parents:
                if parent != Path("."):
                    folders[f"{parent}/"] += size
        entries = sorted([*self.sizes.items(), *folders.items()], key=lambda entry: (-entry[1], len(entry[0])))
        named: list[tuple[str, int]] = []
        for name, size in entries:
            # a folder that holds nothing but what is named already, or the other way round
            if any(size == other and (name.startswith(there) or there.startswith(name)) for there, other in named):
                continue
            named.append((name, size))
        return named[:count]


def collect(folder: Path, excludes: Sequence[str]) -> Package:
    """List what would be uploaded. Raises: ConfigError for a folder that is not there, is not this project or is too
    large.
    """
    if not folder.is_dir():
        raise ConfigError(f"working_dir={folder} is no folder; expected this project's, e.g. working_dir=.")
    if not (folder / "workflows").is_dir():
        raise ConfigError(
            f"working_dir={folder} has no workflows/, which the job runs; expected this project's folder: go there, "
            "or name it"
        )
    package = Package(
        folder, {str(path.relative_to(folder.absolute())): path.stat().st_size for path in uploaded(folder, excludes)}
    )
    if package.bytes >= upload_limit():
        listed = "\n".join(f"     {human(size, 'B'):>8}  {name}" for name, size in package.largest(_NAMED))
        raise ConfigError(
            f"working_dir={folder} holds {human(package.bytes, 'B')} in {len(package.sizes):,} files; the Jobs API "
            f"takes less than {human(upload_limit(), 'B')}. The largest:\n{listed}\n   Leave out what the cluster "
            "does not need: a line in .rayignore (as in .gitignore; also obeyed by `ray job submit`), or "
            "'excludes=[/folder,*.bin]'"
        )
    return package


def pack(package: Package) -> Path:
    """The zip, named after its content, in the cache (`TRUNKLINE_CACHE`); one that is there is taken."""
    buffer = io.BytesIO()  # the limit is small
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(package.sizes):
            source = package.folder / name
            entry = zipfile.ZipInfo(name)  # dated 1980, whatever the file's date is
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if os.access(source, os.X_OK) else 0o644) << 16
            archive.writestr(entry, source.read_bytes())
    path = package_path(hashlib.sha256(buffer.getvalue()).hexdigest()[:16])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    return path


def package_path(digest: str) -> Path:
    """Where a package lies, or would, on this machine: a retry from another shell finds it by its digest."""
    return cache_folder() / "packages" / f"{digest}.zip"
