"""A saved folder or an export, uploaded as a repository of the Hugging Face hub.

A repository tells by the metadata of its README.md whose licence holds. Without one nothing is uploaded: only
the owner of the weights can say it, as those of LLM, encoders and connector come together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import is_export
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.hub import is_hub_id
from audiolm_compress.untrusted import linked_outside

CARD = "README.md"
AUDIO = "report.html"  # every test clip can be heard in it


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
    if target := linked_outside(folder):
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
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }
    left_out = () if with_audio or AUDIO not in found else (AUDIO,)
    return Upload(repository, {n: size for n, size in found.items() if n not in left_out}, left_out)


def send(folder: str | Path, upload: Upload, *, revision: str | None = None, private: bool = True) -> str:
    """Create the repository if there is none, and upload; the address of the commit.

    Args:
        folder: as given to :func:`prepare_upload`.
        upload: what it gave.
        revision: branch to commit to; None: the main one.
        private: whether a repository that is created is.

    Raises:
        AudioLMError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(upload.repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repository,
            folder_path=folder,
            allow_patterns=[*upload.files],
            revision=revision,
            commit_message="Upload of audiolm-compress",
        )
    except (HfHubHTTPError, OSError) as error:
        raise AudioLMError(
            f"push {upload.repository}: the hub gave: {error}; `hf auth login` opens an account"
        ) from error
    return str(commit.commit_url)
