"""The kinds of files of a trial in the ledger: what is in them, and which file has the long fields of which.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from orchestrator.storage.records import (
    FAILURE,
    FINDING,
    LONG,
    RESULT,
    SEALS,
    STOPPED,
    check_long,
    check_seal,
    digest_of,
)
from trainers.stored import DamagedError, JsonFile

T = TypeVar("T", bound=Mapping[str, object])


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of file of a trial, such as `trials/<key>/result.json`: how its name begins, its reader, its
    long fields, and how the name of the file with these begins. Files of earlier versions contain their
    long fields."""

    prefix: str
    file: JsonFile[T]
    long: tuple[str, ...] = ()
    long_prefix: str = ""

    def name(self, key: str) -> str:
        """The name of the file of a trial."""
        return f"trials/{key}/{self.prefix}.json"

    def head(self, name: str, data: bytes) -> T:
        """The content of a file, whose long fields are not checked. Raises DamagedError, also for another
        trial's record, or one that was changed after it was published."""
        record = self.file.read(data)
        if record.get("key") != (wanted := key_of(name)):
            raise DamagedError(f"it is of {record.get('key')}, not of {wanted}")
        if "digest" in record or "digests" in record:
            check_seal(record, long=self.long)
        elif self.file is RESULT:
            _check_spec(record)
        return record

    def long_file(self, name: str, head: Mapping[str, object]) -> str | None:
        """The name of the file with the long fields of a head; None if it has none, or contains them."""
        digests = cast(Mapping[str, str], head.get("digests", {}))
        if digests.keys() <= head.keys():
            return None
        folder, _, last = name.rpartition("/")
        stem = last.removesuffix(".json").removeprefix(self.prefix)
        return f"{folder}/{self.long_prefix}{stem}-{digest_of(digests)[:16]}.json"

    def owner(self, name: str) -> str | None:
        """The name of the file whose long fields are in the file `name`; None if it is no such file."""
        found = re.fullmatch(f"(.+)/{self.long_prefix}(-[^/]+)?-[0-9a-f]{{16}}\\.json", name)
        return found and f"{found[1]}/{self.prefix}{found[2] or ''}.json"

    def whole(self, head: T, long_file: str | None, data: bytes | None) -> T:
        """A head with its long fields, given the content of the file that has them. Raises DamagedError."""
        digests = cast(Mapping[str, str] | None, head.get("digests"))
        if long_file is None:
            if digests is not None:
                check_long(digests, {name: head[name] for name in self.long if name in head})
            return unsealed(head)
        last = long_file.rpartition("/")[2]
        if data is None:
            raise DamagedError(f"its {last} is missing")
        try:
            long = LONG.read(data)
            check_long(digests or {}, long)
        except DamagedError as error:
            raise DamagedError(f"its {last}: {error}") from None
        return unsealed(cast(T, {**head, **long}))


RESULTS = Kind("result", RESULT, ("history",), "history")
FINDINGS = Kind("look", FINDING, ("curves", "fields"), "curves")
FAILURES = Kind("failure", FAILURE)
STOPS = Kind("stopped", STOPPED)


def key_of(name: str) -> str:
    """The key of the trial or the probe whose record is in a file."""
    _, key, last = name.split("/")
    return last.removeprefix("look-").removesuffix(".json") if last.startswith("look-") else key


def unsealed(record: T, *but: str) -> T:
    """A record without its digests, and without these fields."""
    return cast(T, {name: value for name, value in record.items() if name not in SEALS and name not in but})


def _check_spec(record: Mapping[str, Any]) -> None:
    """Raises DamagedError unless the settings in a result of an earlier version, which has no digest, have
    its key."""
    from orchestrator.storage.trial_spec import (
        TrialSpec,  # here, since it imports torch and only such results need it
    )

    try:
        key = TrialSpec.parse(record["spec"], "spec").key
    except (KeyError, ValueError) as error:
        raise DamagedError(f"its settings are none of a trial: {error}") from None
    if key != record["key"]:
        raise DamagedError(f"its settings are those of trial {key}")
