"""The remote's part of a collection: artifacts that no run needs, and uploads that never became one."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Literal

from whet.run.store_remote import Damaged, Pointer, Remote
from whet.run.store_survey import Survey, Thing
from whet.run.store_tools import UPLOAD


class Sweep:
    """One collection of a remote; ``complete``: the ledgers name every run that uses it."""

    def __init__(self, remote: Remote, survey: Survey, complete: bool) -> None:
        self.remote, self.survey, self.complete = remote, survey, complete
        self.uploads, self.identities = remote.uploads(), set(remote.identities())

    def run(self) -> list[Thing]:
        """What was (or would be) removed."""
        return [*self._artifacts(), *self._leftovers()]

    def _artifacts(self) -> list[Thing]:
        if not self.complete:
            self.survey.kept["on the remote, where only a shared ledger could tell"] += len(self.identities)
            self.survey.notes.append(
                f"{self.remote.shown}: artifacts there are kept, since this ledger is a file of one machine and the runs of others "
                "may need them; WHET_LEDGER names a shared ledger, --only-ledger says that there is no other"
            )
            return []
        found = {identity: entry for identity in sorted(self.identities) if (entry := self._judge(identity))}
        if not self.survey.rules.delete:
            return [thing for thing, _ in found.values()]
        for identity in found:
            self.remote.hide(identity)
        return [thing for identity, (thing, pointer) in found.items() if self._finish(identity, pointer)]

    def _judge(self, identity: str) -> tuple[Thing, Pointer] | None:
        why = self.survey.reason(identity)
        pointer = self._pointer(identity) if why else None
        if not why or not pointer:
            return None
        upload = self.uploads.get((identity, pointer.key))
        if upload is None or self.survey.is_young(upload.newest):
            return None
        return Thing("remote artifact", identity, f"{self.remote.shown}/artifacts/{identity}.json", upload.size, why), pointer

    def _finish(self, identity: str, pointer: Pointer) -> bool:
        """Removes the content of an artifact whose pointer is gone, or puts the pointer back if a run needs it by now."""
        if self.survey.needs(identity):
            self.remote.point(identity, pointer)
            return False
        self.remote.remove(identity, pointer.key)
        self.uploads.pop((identity, pointer.key), None)
        return True

    def _leftovers(self) -> list[Thing]:
        found = []
        several = Counter(identity for identity, _ in self.uploads)
        for (identity, key), upload in self.uploads.items():
            if identity in self.identities and several[identity] == 1:
                continue
            pointer = self._pointer(identity)
            if pointer is False or (pointer and pointer.key == key) or self.survey.is_young(upload.newest):
                continue
            # Whatever the grace period: a run that the ledger names may be at this upload, on any machine.
            if pointer is None and self._is_recent(upload.newest) and self.survey.needs(identity):
                continue
            if self.survey.rules.delete:
                self.remote.remove(identity, key)
            where = f"{self.remote.shown}/content/{identity}/{key}"
            found.append(Thing("remote leftover", identity, where, upload.size, "an upload that never became an artifact"))
        return found

    @staticmethod
    def _is_recent(newest: dt.datetime | None) -> bool:
        return newest is None or newest > dt.datetime.now(dt.UTC) - UPLOAD

    def _pointer(self, identity: str) -> Pointer | Literal[False] | None:
        """The artifact's pointer; ``False`` if there is one that cannot be read."""
        try:
            return self.remote.pointer(identity)
        except Damaged as error:
            note = f"{error} cannot be read and was left alone (whet store verify)"
            self.survey.notes += [note] if note not in self.survey.notes else []
            return False
