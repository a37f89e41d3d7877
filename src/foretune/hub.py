"""The Hugging Face hub: which names are ids there, and uploads, whose repository is claimed before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.errors import HubError, message_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from huggingface_hub import CommitInfo


def is_local(model: str) -> bool:
    """Whether a model's name is a path, and no id on the hub."""
    path = Path(model)
    return path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.exists()


def claim_repo(repo: str, *, token: str | None = None, private: bool | None = None) -> str:
    """Make a model repository, or take the one there is, and make sure that it may be written to; return its full id.

    Args:
        repo: ``namespace/name``, or a name in the namespace of the token's owner.
        token: Of a user; None for the one of ``HF_TOKEN`` or ``hf auth login``.
        private: Whether a new repository is private; None for the namespace's default, which is public for most.
    Raises:
        HubError: there is no token, it is not valid or may not write there, the name is none, or there is no network.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _explained(repo):
        api.whoami()
        repo_id = api.create_repo(repo, private=private, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)  # a repository that is there may be read by more than may write to it
    return repo_id


def upload(
    repo_id: str,
    files: Mapping[str, Path],
    *,
    message: str,
    token: str | None = None,
    revision: str | None = None,
    blocking: bool = True,
) -> CommitInfo | Future[CommitInfo]:
    """Send files in one commit, and nothing else.

    Args:
        repo_id: A repository that `claim_repo` returned.
        files: Where each file is, by its name in the repository.
        message: Of the commit.
        token: As in `claim_repo`.
        revision: Branch; None for the main one.
        blocking: Whether to wait for the end of it.
    Raises:
        HubError: the upload was refused or broke off.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
    with _explained(repo_id):
        return HfApi(token=token).create_commit(
            repo_id, operations, commit_message=message, revision=revision, run_as_future=not blocking
        )


def url_of(repo_id: str) -> str:
    """Return the page of a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by the names that they have in a repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    where = f"Cannot push to {repo}"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"{where}: there is no token. Log in with 'hf auth login', or set HF_TOKEN to one that may write."
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError(f"{where}: HF_HUB_OFFLINE is set. Unset it, or push when there is a network.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {
            401: f"{constants.ENDPOINT} does not know the token. Log in with 'hf auth login', or correct HF_TOKEN.",
            403: "the token may not write there. Give one that may write, or a repository of your own.",
        }
        raise HubError(f"{where}: {reasons.get(status) or f'status {status}, {message_of(error)}'}") from error
    except HTTPError as error:
        raise HubError(f"{where}: {constants.ENDPOINT} cannot be reached ({message_of(error)}).") from error
    except (OSError, ValueError, RuntimeError) as error:  # names that are none; hf_xet's own
        raise HubError(f"{where}: {message_of(error)}") from error
