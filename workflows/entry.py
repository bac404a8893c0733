"""The `main` of every workflow: a command line in, an exit code out.

Enters: the workflow's config class and its `run`. Leaves: a function for `if __name__ == "__main__"`. Exit codes: 0
done, 1 a fault of ours (traceback), 2 a mistake in config, data or names, 3 storage, 4 cluster, 130 interrupted,
143 ended by SIGTERM.

Every error ends here and nowhere below, so that a workflow only raises, and a test may call its `run`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

from pipelines.config import WorkflowConfig
from pipelines.display.progress import end_live_line, reopen_closed_streams, say
from pipelines.errors import TrunklineError
from pipelines.store.disk import disk_error
from pipelines.uris import without_secrets
from workflows.command_line import places
from workflows.command_line.commands import as_typed
from workflows.command_line.composing import (
    command_typed,
    experiment_named,
    explained,
    hand_on,
    hydra_arguments,
    parse_composed,
    register_resolvers,
    with_overlay,
)
from workflows.command_line.turns import asks_for_sweep
from workflows.command_line.typed import check_typed, typed_again
from workflows.command_line.usage import print_usage
from workflows.running.session import DryRun, Session

C = TypeVar("C", bound=WorkflowConfig)


def entry(
    config_class: type[C],
    run: Callable[[C, Session], Any],
    config_name: str,
    uses_store: bool = True,
) -> Callable[[], None]:
    """The `main` of a workflow: Hydra composes, the dataclass validates, a user's mistake ends without a traceback.

    Args: config_name, the workflow's name, of its module and of its YAML; uses_store, as `Session` says.
    """

    def main() -> None:
        try:
            with ended_by_signals():
                command()
        except Ended as ended:
            number = signal.Signals(ended.number)
            fail(f"ended by {number.name}; committed work is kept: run the same command to go on", 128 + number)

    def command() -> None:
        reopen_closed_streams()
        sys.argv[1:] = begin(sys.argv[1:])
        if asked := {"-h", "--help", "--version"} & set(sys.argv[1:]):
            try:
                say(f"trunkline {version('trunkline')}") if asked == {"--version"} else print_usage(config_name)
            except TrunklineError as error:  # of a full disk that the help goes to
                fail(str(error), error.exit_code)
            return
        import hydra
        from hydra.errors import HydraException
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        register_resolvers()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing and exiting
        # transformers imports torchao where it is installed, which tells of kernels for other builds of torch
        for talker in ("torchao", "torch.utils._pytree"):
            logging.getLogger(talker).setLevel(logging.ERROR)

        failures: list[TrunklineError] = []
        begun: list[bool] = []
        experiment = experiment_named(sys.argv[1:])
        again = typed_again(sys.argv[1:])

        @hydra.main(version_base=None, config_path=str(places.SHIPPED), config_name=config_name)
        def composed(choices: DictConfig) -> None:
            begun.append(True)

            def work() -> None:
                try:
                    values = OmegaConf.to_container(choices, resolve=True)
                except OmegaConfBaseException as error:
                    # a ${…} that leads nowhere; Hydra would print a line of its own
                    raise explained(error, config_name, config_class, sys.argv[1:]) from error
                config = parse_composed(config_class, values, sys.argv[1:])
                tell_again()
                with Session(config, experiment, uses_store, command_typed(config_name)) as session:
                    run(config, session)

            telling(work)

        def tell_again() -> None:
            for line in again:
                say(f"   {line}")

        def telling(work: Callable[[], None]) -> None:
            try:
                work()
            except DryRun as dry:
                say("   dry run: nothing was started")
                if dry.refused is not None:
                    failures.append(dry.refused)
                    complain(str(dry.refused))
            except TrunklineError as error:  # kept from Hydra, which would print a line of its own
                failures.append(error)
                complain(str(error))
            except Exception as error:
                if (told := disk_error(error)) is None:
                    raise
                failures.append(told)
                complain(str(told))

        try:
            check_typed(config_class, config_name, sys.argv[1:])
            if asks_for_sweep(sys.argv[1:]):
                from workflows.running.sweeps.sweep import run_sweep

                begun.append(True)
                tell_again()
                telling(lambda: run_sweep(config_class, run, config_name, uses_store, sys.argv[1:]))
                sys.exit(failures[0].exit_code if failures else 0)
            sys.argv[1:] = hydra_arguments(
                [with_overlay(argument, config_name) for argument in hand_on(config_class, sys.argv[1:])]
            )
            composed()
            if failures:
                sys.exit(failures[0].exit_code)
        except TrunklineError as error:
            fail(str(error), error.exit_code)
        except (HydraException, OmegaConfBaseException) as error:
            fail(str(explained(error, config_name, config_class, sys.argv[1:])), 2)
        except KeyboardInterrupt:
            fail("interrupted; committed work is kept: run the same command to go on", 130)
        except Exception as error:
            if not begun:  # raised while composing: OmegaConf raises ValueErrors too, which name no key
                fail(str(explained(error, config_name, config_class, sys.argv[1:])), 2)
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
            fail("this is a fault in Trunkline, not in your input; committed work is kept", 1)

    return main


class Ended(SystemExit):
    """The process was asked to end. Attributes: number, of the signal that asked."""

    def __init__(self, number: int):
        super().__init__(128 + number)  # as a shell says it
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM (`kill`, `timeout`, a scheduler) and SIGHUP (a terminal that closes) as `Ended` in the block, once.

    Whoever asks twice would else end what the first time is putting in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        if not received:
            received.append(number)
            raise Ended(number)

    asked = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # under nohup
    before = {number: signal.signal(number, end) for number in asked}
    try:
        yield
    except SystemExit:
        if received:  # Ray makes another of it, where it was raised while its client waited
            raise Ended(received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def begin(arguments: Sequence[str]) -> list[str]:
    """`places.begin`, also for a command that splits its words before `entry` sees them: it hands `places.words` on."""
    try:
        return places.begin(arguments)
    except TrunklineError as error:
        fail(str(error), error.exit_code)


def complain(message: str) -> None:
    end_live_line()
    with contextlib.suppress(OSError):  # nobody can read it; the exit code tells
        print(f"error: {as_typed(without_secrets(message))}", file=sys.stderr, flush=True)


def fail(message: str, code: int) -> NoReturn:
    complain(message)
    sys.exit(code)
