"""What travels to the cluster with a job, as one zip: the project's folder without what is ignored, and folders from
elsewhere that the job needs (a lab's configs, the code where it is installed).

Enters: folders and patterns. Leaves: a zip whose bytes depend on the files' paths and contents alone, so that a
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

_CODE = Path(__file__).absolute().parents[3]  # in a clone the project, else where packages are installed
_NAMED = 10  # files and folders in the refusal


@dataclass(frozen=True)
class Package:
    """The files that go along.

    Attributes: sizes, bytes by path in the zip; places, where the file of each path lies.
    """

    sizes: dict[str, int]
    places: dict[str, Path]

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


def collect(folder: Path, excludes: Sequence[str], code: Path = _CODE) -> Package:
    """List what would be uploaded: of a folder with workflows/ in it that folder; of any other the code that runs here,
    and beside it that folder where it was named (`.` may be a home, whose files are nobody's business).

    Args: code, the folder that holds `pipelines` and `workflows`.
    Raises: ConfigError for a folder that is not there or is too large.
    """
    if not folder.is_dir():
        raise ConfigError(f"working_dir={folder} is no folder; expected one, e.g. working_dir=.")
    own_code = (folder / "workflows").is_dir()
    package = Package({}, {})
    if own_code or folder != Path("."):
        package = _joined(package, folder, "", excludes)
    if not own_code:
        # installed, ours is workflows/conf, and a folder of that name beside it is somebody else's
        ours = () if (code / "workflows" / "conf").is_dir() else ("conf",)
        for name in ("pipelines", "workflows", *ours):
            if (code / name).is_dir():
                package = _joined(package, code / name, name, ["__pycache__", *excludes])
    _check_size(package, folder)
    return package


def with_folder(package: Package, folder: Path, working_dir: Path, name: str) -> tuple[Package, str]:
    """The package with one more folder in it, and the path of that folder there: its own below `working_dir`, where its
    files go along already, else `name`. Raises: ConfigError where that makes it too large.
    """
    inside = {str(where.absolute()): path for path, where in package.places.items()}
    files = [path for path in sorted(folder.rglob("*.yaml")) if path.is_file()]
    if files and all(str(path.absolute()) in inside for path in files):
        return package, str(folder.absolute().relative_to(working_dir.absolute()))
    joined = Package(dict(package.sizes), dict(package.places))
    for path in files:
        inner = f"{name}/{path.relative_to(folder)}"
        joined.sizes[inner], joined.places[inner] = path.stat().st_size, path
    _check_size(joined, working_dir)
    return joined, name


def _joined(package: Package, folder: Path, name: str, excludes: Sequence[str]) -> Package:
    """With the files of a folder, below `name`."""
    sizes, places = dict(package.sizes), dict(package.places)
    for path in uploaded(folder, excludes):
        inner = (Path(name) / path.relative_to(folder.absolute())).as_posix()
        sizes[inner], places[inner] = path.stat().st_size, path
    return Package(sizes, places)


def _check_size(package: Package, folder: Path) -> None:
    if package.bytes >= upload_limit():
        listed = "\n".join(f"     {human(size, 'B'):>8}  {name}" for name, size in package.largest(_NAMED))
        raise ConfigError(
            f"working_dir={folder} holds {human(package.bytes, 'B')} in {len(package.sizes):,} files; the Jobs API "
            f"takes less than {human(upload_limit(), 'B')}. The largest:\n{listed}\n   Leave out what the cluster "
            "does not need: a line in .rayignore (as in .gitignore; also obeyed by `ray job submit`), or "
            "'excludes=[/folder,*.bin]'"
        )


def pack(package: Package) -> Path:
    """The zip, named after its content, in the cache (`TRUNKLINE_CACHE`); one that is there is taken."""
    buffer = io.BytesIO()  # the limit is small
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(package.sizes):
            source = package.places[name]
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
