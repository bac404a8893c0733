"""A chat in a terminal: lines in, answers out, and commands that begin with a slash.

Enters: a loaded model and a stream of lines. Leaves: text on a stream; files that `/save` writes. A conversation is
saved as a JSON line `{"messages": [...]}`, as the corpus reads conversations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pipelines.config import parse, plain
from pipelines.data.sources.conversations import messages as conversation_of
from pipelines.data.sources.shape import Unfit
from pipelines.data.text.document import Message
from pipelines.display.progress import shown
from pipelines.errors import ConfigError, TrunklineError
from pipelines.train.runtimes.contract import Loaded, Sampling
from pipelines.train.runtimes.conversation import answer, fitted

HELP = """\
   /retry            another answer to the last question, with another seed
   /undo             forget the last question and its answer
   /clear            forget all of them
   /system [text]    show what is put before the first question, or change it; /system - takes it away
   /set [key=value]  show how answers are chosen, or change it: /set sampling.temperature=0.2
   /save [file]      keep the conversation as a JSON line of messages
   /load file        go on with the last conversation of such a file
   /quit             end; Ctrl-D too. Ctrl-C stops an answer"""
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_HISTORY = 1000  # lines that the arrow keys bring back, over all chats


class Chat:
    """A conversation in a terminal.

    Args:
        interactive: a person types; else lines come from a file or a pipe, answers alone go to `out`, and a mistake
            ends it.
        notes: where goes what is no answer.
    """

    def __init__(
        self, loaded: Loaded, system: str | None, sampling: Sampling, interactive: bool,
        out: TextIO | None = None, notes: TextIO | None = None,
    ):  # fmt: skip
        self._loaded, self._system, self._sampling, self._interactive = loaded, system, sampling, interactive
        self._out: TextIO = out or sys.stdout
        self._notes: TextIO = notes or (self._out if interactive else sys.stderr)
        self._turns: list[Message] = []
        self._tries = 0  # how often the last question was answered
        self._left_out = 0
        self._saved: set[Path] = set()
        self._began = time.strftime("%Y%m%d-%H%M%S")
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._note(HELP),
            "/retry": self._retry,
            "/undo": self._undo,
            "/clear": self._clear,
            "/system": self._change_system,
            "/set": self._change_sampling,
            "/save": self._save,
            "/load": self._load,
        }

    def loop(self, read: Callable[[], str]) -> None:
        """Answer line after line. Args: read, gives the next; raises EOFError at the end."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._note("\n   /quit or Ctrl-D ends")
                continue
            if line == "/quit":
                return
            try:
                self._take(line)
            except TrunklineError as error:
                if not self._interactive:
                    raise
                self._note(f"   {error}")
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._note("\n   stopped")

    def _take(self, line: str) -> None:
        if not line:
            return
        if not line.startswith("/"):
            self._ask(line)
            return
        name, _, argument = line.partition(" ")
        if name not in self._commands:
            known = ", ".join([*self._commands, "/quit"])
            raise ConfigError(f"{name} is no command; there are {known}: a question does not begin with a slash")
        self._commands[name](argument.strip())

    # ── Questions ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, question: str) -> None:
        self._turns.append({"role": "user", "content": question})
        self._tries = 0
        try:
            self._answer()
        except BaseException:
            self._turns.pop()
            raise

    def _answer(self) -> None:
        sampling = dataclasses.replace(self._sampling, seed=self._seed())
        ids, left_out = fitted(self._loaded, self._messages(), sampling)
        if left_out > self._left_out:
            exchanges = "the oldest exchange is" if left_out == 1 else f"the oldest {left_out} exchanges are"
            self._note(f"   ({exchanges} left out: the model has {self._loaded.context:,} positions)")
        self._left_out = left_out
        said = answer(self._loaded, ids, sampling, self._show, interruptible=self._interactive)
        self._show("\n")
        self._note(f"   {said}")
        self._tries += 1
        if said.text.strip():
            self._turns.append({"role": "assistant", "content": said.text})
        else:
            self._turns.pop()
            self._note("   the answer is empty: question and answer are forgotten")

    def _seed(self) -> int:
        """Another one for each question, and for each try."""
        return (self._sampling.seed + 1000 * (len(self._turns) // 2) + self._tries) % 2**63

    def _messages(self) -> list[Message]:
        system: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*system, *self._turns]

    # ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _retry(self, _: str) -> None:
        self._refuse_empty("/retry")
        kept = self._turns.pop()
        try:
            self._answer()
        except BaseException:
            self._turns.append(kept)
            raise

    def _undo(self, _: str) -> None:
        self._refuse_empty("/undo")
        del self._turns[-2:]
        self._tries = 0
        self._note(f"   forgotten; {len(self._turns) // 2} exchanges are left")

    def _clear(self, _: str) -> None:
        self._turns.clear()
        self._left_out = self._tries = 0
        self._note("   a new conversation")

    def _change_system(self, text: str) -> None:
        if text:
            self._system = None if text == "-" else text
        self._note(f"   system: {self._system or 'nothing'}")

    def _change_sampling(self, text: str) -> None:
        values = plain(self._sampling)
        for pair in text.split():
            key, _, value = pair.partition("=")
            key = key.removeprefix("sampling.")
            try:
                values[key] = json.loads(value)
            except ValueError:
                values[key] = value
        self._sampling = parse(Sampling, values)
        self._note("   " + "  ".join(f"{key}={value}" for key, value in plain(self._sampling).items()))

    def _save(self, name: str) -> None:
        self._refuse_empty("/save")
        path = Path(name or f"chat-{self._began}.jsonl").expanduser()
        if path.exists() and path not in self._saved:
            raise ConfigError(f"{path} exists: name another file")
        line = json.dumps({"messages": self._messages()}, ensure_ascii=False) + "\n"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(line, encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise ConfigError(f"{path} cannot be written: {error.strerror}: name another file") from error
        self._saved.add(path)
        self._note(f"   saved {len(self._turns) // 2} exchanges as {path}")

    def _load(self, name: str) -> None:
        if not name:
            raise ConfigError("/load takes the file that /save wrote: /load chat.jsonl")
        path = Path(name).expanduser()
        try:
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            content = conversation_of(json.loads(lines[-1]), "")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        except (ValueError, IndexError) as error:
            raise ConfigError(f"{path} holds no line of JSON: {error}") from error
        except Unfit as error:
            raise ConfigError(
                f"the last line of {path} is no conversation: {error.reason}; expected "
                '{"messages": [{"role": …, "content": …}]} that ends with an answer'
            ) from error
        assert content is not None
        messages: list[Message] = content[1]["messages"]
        system = [message["content"] for message in messages if message["role"] == "system"]
        self._turns = [message for message in messages if message["role"] != "system"]
        self._system = "\n".join(system) or None
        self._left_out = self._tries = 0
        self._note(f"   {len(self._turns) // 2} exchanges of {path}")

    def _refuse_empty(self, command: str) -> None:
        if not self._turns:
            raise ConfigError(f"{command} needs a question that was answered; there is none yet")

    # ── Streams ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _show(self, text: str) -> None:
        # what a model says must not steer the terminal
        text = text.translate(_CONTROLS)
        self._out.write(shown(text, self._out))
        self._out.flush()

    def _note(self, text: str) -> None:
        self._notes.write(shown(text, self._notes) + "\n")
        self._notes.flush()


def typed_lines(history: Path) -> Callable[[], str]:
    """What a person types, with the arrow keys' history over all chats. Returns: gives the next line."""
    try:
        import readline
    except ImportError:  # Python built without it
        return lambda: input("> ")
    with contextlib.suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY)

    def read() -> str:
        line = input("> ")
        with contextlib.suppress(OSError):
            readline.write_history_file(history)
        return line

    return read


def piped_lines(stream: TextIO) -> Callable[[], str]:
    """The lines of a file or a pipe."""

    def read() -> str:
        line = stream.readline()
        if not line:
            raise EOFError
        return line

    return read
