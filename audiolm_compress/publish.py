"""A saved folder or an export, uploaded as a repository of the Hugging Face hub.

A repository tells by the metadata of its README.md whose licence holds. Without one nothing is uploaded: only
the owner of the weights can say it, as those of LLM, encoders and connector come together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import is_export
from audiolm_compress.faults import explained
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.hub import is_hub_id
from audiolm_compress.untrusted import linked_outside

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
AUDIO = "report.html"  # every test clip can be heard in it
_AGAIN = "the same command sends what is not there yet"


class Upload(NamedTuple):
    """What goes where.

    Attributes:
        repository: ``owner/name``.
        files: paths in the folder, which they keep, and their bytes.
        left_out: files of the folder that stay behind.
    """

    repository: str
    files: dict[str, int]
    left_out: tuple[str, ...]


def prepare_upload(
    folder: str | Path,
    repository: str,
    *,
    licence: str | None = None,
    base_models: Sequence[str] = (),
    with_audio: bool = False,
) -> Upload:
    """Complete the card of a folder, and say what would be uploaded; nothing is sent.

    Args:
        folder: that this package wrote; its README.md gets ``licence`` and ``base_models``.
        repository: ``owner/name``.
        licence: the hub's name of it, such as ``gemma`` or ``apache-2.0``; None: the card has one.
        base_models: hub ids that the weights come from, in the place of the card's.
        with_audio: whether report.html goes along, in which the test clips can be heard.

    Raises:
        AudioLMError: no folder of this package, no hub id, links that lead out, or no licence.
    """
    from huggingface_hub import metadata_load
    from huggingface_hub.repocard import metadata_save

    folder = Path(folder)
    if not store.is_model_folder(folder) and not is_export(folder):
        raise AudioLMError(f"push {folder}: not written by this package: no model and no export in it")
    for name in (repository, *base_models):
        if not is_hub_id(name) or "@" in name:
            raise AudioLMError(f"push: {name!r} is no hub id (owner/name)")
    files = sorted(folder.rglob("*"))
    if target := linked_outside(folder, [file.relative_to(folder).as_posix() for file in files]):
        raise AudioLMError(f"push {folder}: a symbolic link leads out of the folder: {target}")
    card = folder / CARD
    if not card.is_file():
        raise AudioLMError(f"push {folder}: no {CARD}, the model card; `run` and `export` write one")
    known = metadata_load(card) or {}
    licence = licence or known.get("license")
    if not licence or licence == "unknown":
        raise AudioLMError(
            f"push {folder}: {CARD} names no licence; give --license, such as gemma or llama3.2: the "
            "strictest of those that the LLM, the encoders and the trained connector came under"
        )
    given = {"license": str(licence)} | ({"base_model": [*base_models]} if base_models else {})
    metadata_save(card, known | given)
    found = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in files
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }
    left_out = () if with_audio or AUDIO not in found else (AUDIO,)
    return Upload(repository, {n: size for n, size in found.items() if n not in left_out}, left_out)


def send(folder: str | Path, upload: Upload, *, revision: str | None = None, private: bool = True) -> str:
    """Create repository and branch if they are not there, and upload; the address of the commit.

    The commit comes last: an upload that was cut off leaves the branch as it was.

    Args:
        folder: as given to :func:`prepare_upload`.
        upload: what it gave.
        revision: branch to commit to; None: the main one.
        private: whether a repository that is created is; one that is there must not be public then.

    Raises:
        AudioLMError: the hub refuses, leaves something out or cannot be reached.
        KeyboardInterrupt: as inside, with how to go on.
    """
    from huggingface_hub import HfApi, get_token

    token: str | None = None
    try:
        with explained(Path(folder)):
            token = _usable(get_token())
            return _sent(HfApi(token=token), folder, upload, revision, private)
    except AudioLMError:
        raise
    except KeyboardInterrupt as interrupt:
        told = f"the upload to {upload.repository} is not finished; {_AGAIN}"
        raise KeyboardInterrupt(told) from interrupt
    except Exception as error:  # the client hands on what httpx, hf_xet and the system raise
        words = _refusal(error, upload.repository)
        shown = words.replace(token, "***") if token else words
        # A traceback would show what is cut out of the message.
        raise AudioLMError(shown) from (error if shown == words else None)


def _sent(api: HfApi, folder: str | Path, upload: Upload, revision: str | None, private: bool) -> str:
    """``send``, with the errors of the client."""
    name = upload.repository
    api.create_repo(name, private=private, exist_ok=True)
    if private and api.model_info(name).private is False:
        raise AudioLMError(
            f"push {name}: it is there, and public; give --public if everybody may see the files, or name "
            "another repository"
        )
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=name,
        folder_path=folder,
        allow_patterns=[escape(file) for file in upload.files],
        revision=revision,
        commit_message="Upload of audiolm-compress",
    )
    there = api.list_repo_tree(name, recursive=True, revision=commit.oid)
    sizes = {entry.path: getattr(entry, "size", None) for entry in there}
    if lacking := [file for file, size in upload.files.items() if sizes.get(file) != size]:
        raise AudioLMError(
            f"push {name}: not in the commit {commit.oid}, or not whole: {', '.join(lacking)}; see whether "
            "the repository's .gitignore leaves them out"
        )
    return str(commit.commit_url)


def _usable(token: str | None) -> str | None:
    """A token as it may stand in a header; the client's errors about others would show them."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise AudioLMError(
            "push: the token has characters that none has; see HF_TOKEN, or give it again by `hf auth login`"
        )
    return token


def _refusal(error: BaseException, repository: str) -> str:
    """What the hub or the way to it gave, in one line, and what to do.

    The client wraps what goes wrong with a file; the answer of the hub is then among the causes.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    answers = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    status = answers[0].response.status_code if answers else None
    told = dict.fromkeys(" ".join(str(one).split()) for one in (error, (answers or causes[-1:])[0]))
    said = ": ".join(filter(None, told)) or type(error).__name__
    if constants.is_offline_mode():
        return f"push {repository}: HF_HUB_OFFLINE is set, which forbids any connection; unset it"
    if status == 401:
        do = "it does not know you: `hf auth login`, or HF_TOKEN, with a token that may write"
    elif status == 403:
        do = "your token may not write there: take one that may, or a repository of your own"
    elif status == 404:
        do = "see whether owner, name and branch are right, and whether your token may see them"
    elif status is not None and status < 500:
        do = "see what it says"
    else:
        do = f"see whether {constants.ENDPOINT} can be reached; {_AGAIN}"
    return f"push {repository}: the hub gave: {said}; {do}"
