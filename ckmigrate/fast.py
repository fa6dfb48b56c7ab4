"""Carrying out a migration in place, in a time that does not depend on the size of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ckmigrate.execute.apply import apply
from ckmigrate.execute.failures import explained
from ckmigrate.execute.fill import check_claims
from ckmigrate.execute.lock import Lock
from ckmigrate.execute.patch import Patch
from ckmigrate.execute.source import open_source
from ckmigrate.migrate import Outcome
from ckmigrate.output import held_tensors
from ckmigrate.patch import make_patch
from ckmigrate.prepare import Prepared
from ckmigrate.verify import verify_file

__all__ = ["carry_out_in_place"]


def carry_out_in_place(
    prepared: Prepared,
    *,
    keep: bool = True,
    phase: Callable[[str, int], None] = lambda name, total: None,
    lock: Lock,
) -> Outcome:
    """Change the checkpoint of the lock itself: check the claims, patch, verify; what fails then
    is rolled back.

    keep  keep the undo record, with which `ckmigrate undo` gives the old version back

    Raises MigrationError CKM580 where the plan needs more than that, and whatever
    `ckmigrate.execute.apply` raises. Claims about values are checked by reading those tensors.
    """
    stored = prepared.opened.stored
    patch = make_patch(prepared)
    phase("check", 0)
    held = held_tensors(prepared.plan, prepared.opened.layout)
    with explained(stored.path), open_source(stored, held) as source:
        check_claims(prepared.plan.checks, source)
    index = stored.folder.index if stored.folder else None
    path = lock.path / index if index else lock.path

    def verify() -> None:
        phase("verify", 0)
        verify_file(path, _moved(prepared, patch))

    phase("write", 0)
    committed = apply(
        patch,
        path=stored.path,
        revision=prepared.identity.revision or "base",
        keep=keep,
        verify=verify,
        lock=lock,
    )
    return Outcome(prepared, committed, patch.written, fast=True, spare=patch.spare)


def _moved(prepared: Prepared, patch: Patch) -> Prepared:
    """The decision with the old tensors where the patch has moved them to: `verify(old, new)` of a
    script reads both from the one file that there is."""
    opened = prepared.opened
    stored = opened.stored
    names = ["" if stored.folder is None else file.path.name for file in stored.files]
    inserts = {file.name: file.insert for file in patch.files if file.insert}
    records = {
        key: replace(record, offset=record.offset + inserts.get(names[record.file], 0))
        for key, record in stored.records.items()
    }
    return replace(prepared, opened=replace(opened, stored=replace(stored, records=records)))
