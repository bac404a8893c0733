"""What runs below a process: any of it may end, or be between `fork` and `exec`, at the moment it is looked at."""

from __future__ import annotations

import contextlib

import psutil


def below(pid: int | None = None, word: str = "", *, deep: bool = True) -> list[psutil.Process]:
    """The processes that one has started, and those that these have started; one that ends meanwhile is left out.

    How many there are is told only by `deep=False`: a server that starts a process is there twice for a moment, its
    copy with its own command line. So `assert len(below(deep=True)) == 1` fails now and then.

    Args: pid, of the process, by default this one; word, in any case, part of the first three words of its command, or
        of the title that Ray gives its own once they have started; deep, whether children of children count.
    """
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=deep):
            with contextlib.suppress(psutil.NoSuchProcess):
                if word.casefold() in " ".join(process.cmdline()[:3]).casefold():
                    found.append(process)
    return found


def send(processes: list[psutil.Process], signal: int) -> None:
    """A signal to each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal)
