"""A repository of the Hugging Face Hub as the place of a published model.

Enters: `hf://org/name`, and what is to lie there. Leaves: one commit with all files, so that nobody ever sees half of
them. Large files go up before the commit, and one that the Hub has already is not sent again.

The token comes from where the Hub's own programs look for it: `HF_TOKEN`, or what `hf auth login` has kept. Only
`huggingface_hub` reads it; it is in no config, artifact or message. `HF_ENDPOINT` names another server of the same
kind.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, StorageError
from pipelines.uris import without_secrets

if TYPE_CHECKING:
    from pipelines.train.results.publication import Outgoing, Plan, Sending

_OWN = {".gitattributes"}  # files that the Hub puts there itself
_REFUSED = (401, 403)
_SENT_ALONE = 1_000_000  # bytes of a file that goes up before the commit; smaller ones go with it


class HubDestination:
    """A model repository; it is made where there is none."""

    def __init__(self, to: str, private: bool):
        """Raises: ConfigError for what is no `hf://org/name`."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        self.repository, self.private = to.removeprefix("hf://").rstrip("/"), private
        if self.repository.count("/") != 1:
            raise ConfigError(f"to={to} is no repository of models; expected hf://org/name, e.g. hf://me/demo")
        try:
            validate_repo_id(self.repository)
        except HFValidationError as error:
            raise ConfigError(f"to={to} cannot be a repository's name: {error}; expected hf://org/name") from error
        self.uri = f"hf://{self.repository}"
        self._there: dict[str, Any] = {}  # by name, what the Hub says of each file
        self._head: str | None = None  # the commit that was looked at; None: there is no repository
        self._public: bool | None = None

    @property
    def _hub(self) -> Any:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # our own line shows how far it is
        return HfApi(endpoint=constants.ENDPOINT, library_name="trunkline")

    def look(self) -> dict[str, int]:
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        hub = self._hub
        with self._errors("look at"):
            hub.whoami()  # a repository that is not there and one that may not be seen look alike without a user
            try:
                said = hub.model_info(self.repository)
            except RepositoryNotFoundError:
                self._there, self._head = {}, None
                return {}
            listed = hub.list_repo_tree(self.repository, recursive=True, revision=said.sha) if said.sha else ()
            self._there = {item.path: item for item in listed if isinstance(item, RepoFile) and item.path not in _OWN}
        self._head, self._public = said.sha, not said.private
        if self._public == self.private:
            now, wanted = ("public", "private") if self._public else ("private", "public")
            raise ConfigError(
                f"{self.uri} is {now}, and private={str(self.private).lower()} asks for one that is {wanted}: change "
                f"it in the repository's settings, or pass private={str(not self.private).lower()}"
            )
        return {name: item.size for name, item in self._there.items()}

    def read(self, name: str) -> bytes | None:
        if name not in self._there:
            return None
        with self._errors("read"):
            path = self._hub.hf_hub_download(self.repository, name, revision=self._head)
            return Path(path).read_bytes()

    def holds(self, file: Outgoing) -> bool:
        item = self._there.get(file.name)
        if item is None:
            return False
        if item.lfs is not None:
            return bool(item.lfs.sha256 == file.sha256)
        content = file.source()  # a small one: git's own checksum of it
        data = content if isinstance(content, bytes) else content.read_bytes()
        return bool(item.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())

    def deliver(self, plan: Plan, sending: Sending) -> str | None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if plan.finished and not plan.removed:
            return self._head
        hub = self._hub
        with self._errors("write to"):
            if self._head is None:
                hub.create_repo(self.repository, private=self.private, exist_ok=True)
            record = plan.shipment.record()
            additions = []
            for file in plan.sent:
                content = file.source()
                source = content if isinstance(content, bytes) else str(content)
                addition = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=source)
                if file.size_bytes > _SENT_ALONE:
                    hub.preupload_lfs_files(self.repository, [addition], free_memory=False)
                additions.append(addition)
                sending.whole(file)
            content = record.source()
            assert isinstance(content, bytes)
            additions.append(CommitOperationAdd(path_in_repo=record.name, path_or_fileobj=content))
            gone = [CommitOperationDelete(path_in_repo=name) for name in plan.removed]
            made = hub.create_commit(
                self.repository,
                [*additions, *gone],
                commit_message=f"Publish {plan.shipment.model}",
                parent_commit=self._head,
            )
        return str(made.oid)

    def told(self) -> dict[str, str]:
        from huggingface_hub import constants

        return {
            "it lies at": f"{constants.ENDPOINT}/{self.repository} ({'private' if self.private else 'public'})",
            "take it": f"hf download {self.repository} --local-dir FOLDER",
        }

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """What the Hub's library raises, as a StorageError that says what to do."""
        from huggingface_hub import constants
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HTTPError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
        )

        place = f"{self.uri} on {without_secrets(constants.ENDPOINT)}"
        login = "give it by HF_TOKEN in the environment, or by `hf auth login`"
        try:
            yield
        except LocalTokenNotFoundError as error:
            raise StorageError(f"cannot {verb} {place} without a token of yours: {login}") from error
        except OfflineModeIsEnabled as error:
            raise StorageError(f"cannot {verb} {place}: HF_HUB_OFFLINE is set: unset it") from error
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            advice = "finished files are kept there: run the same command again later"
            if status in _REFUSED:
                advice = f"the token may not do that: make one that may write to {self.repository}, and {login}"
            elif status == 412:
                advice = "somebody else changed the repository meanwhile: run the same command again"
            raise StorageError(f"cannot {verb} {place}: {_short(error)}; {advice}") from error
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            cause = error.__cause__ or error
            raise StorageError(
                f"cannot {verb} {place}: {_short(cause)}; does that server answer, and is HF_ENDPOINT right? Finished "
                "files are kept there: run the same command again"
            ) from error


def _short(error: BaseException) -> str:
    """The message without addresses of single requests, on one line."""
    return " ".join(without_secrets(str(error)).split())[:400] or type(error).__name__
