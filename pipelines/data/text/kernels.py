"""Functions over arrays as machine code, compiled once on a machine.

Enters: a function. Leaves: the same, compiled at its first call, which takes a corpus's kernels some fifteen seconds.
What was compiled is kept in the cache by the text that it was made of, so every copy of the project (a clone, an
environment, a container that mounts the cache) has it. Numba's own cache is a copy's own, and does not see that a
function changed which the cached one calls.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numba
from numba.core import caching

from pipelines.store.cache import cache_folder


def compiled(function: Any) -> Any:
    """A function over arrays as machine code, kept on disk; it runs without the interpreter's lock.

    Of other modules' kernels it may call those of this room alone.
    """
    dispatcher = numba.njit(nogil=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher


@functools.cache
def _digest(*files: str) -> str:
    return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()


class _ByText(caching.InTreeCacheLocator):  # type: ignore[misc]
    """Where the kernels of a module are kept: by its text and that of the kernels it may call."""

    def __init__(self, function: Any, file: str):
        super().__init__(function, file)
        shared = sorted(str(path) for path in Path(__file__).parent.glob("*.py"))
        self._cache_path = str(cache_folder() / "kernels" / f"{Path(file).stem}-{_digest(file, *shared)[:16]}")


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    # beside the module, as ever, where the cache cannot be written
    _locator_classes: ClassVar[list[Any]] = [
        caching.UserProvidedCacheLocator,
        _ByText,
        *caching.CacheImpl._locator_classes[1:],
    ]


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation
