"""Where a study is kept: a database that several processes read and write.

Why SQLite by default: a process that is killed while it writes leaves neither a lock (the system frees it)
nor half an entry (transactions). A journal file's lock is a file of its own: Optuna breaks one that a killed
process left after 30 s. It is for shared folders where SQLite's locks do not work, as on many NFS mounts.
"""

from __future__ import annotations

import re
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from audiolm_compress.errors import AudioLMError

_LOCK_SECONDS = 60  # that a process waits for others to finish writing


def open_storage(place: str) -> BaseStorage:
    """SQLite or another database, or a journal file.

    Args:
        place: a database URL (``postgresql://...``), or a file: ``.journal`` is a journal, else SQLite.

    Raises:
        AudioLMError: it cannot be opened.
    """
    try:
        if "://" in place:
            return RDBStorage(place)
        if place.endswith(".journal"):
            return JournalStorage(JournalFileBackend(place))
        return RDBStorage(
            f"sqlite:///{Path(place).resolve()}", engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}}
        )
    # ValueError, KeyError, TypeError: a journal that optuna did not write
    except (OSError, ImportError, SQLAlchemyError, ValueError, KeyError, TypeError) as error:
        shown = re.sub(r"(?<=://)[^/]*@", "", place)  # without a password
        raise AudioLMError(
            f"search: cannot open the storage {shown}: {str(error).partition(chr(10))[0]}; give a file in a "
            "folder that is there, or the URL of a database whose driver is installed"
        ) from error
