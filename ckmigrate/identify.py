"""Which revision is this checkpoint at?

The tag says it. Without a tag a release number in the file may say it, then the names and shapes
of its tensors, compared with what the committed base snapshot becomes under the scripts. A guess is
used only where exactly one revision fits, and every answer tells what it rests on. `--from`
overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckmigrate.compile import State, TracedScript, start, trace
from ckmigrate.errors import CkmigrateError, IdentifyError
from ckmigrate.lookalikes import lookalikes, same_shapes
from ckmigrate.meta import Meta, is_unknown_metadata
from ckmigrate.revisions.former import differing, fork_of_former
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.squashed import pruned_away
from ckmigrate.revisions.targets import resolve
from ckmigrate.signature import signature, signature_text
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema
from ckmigrate.strict import compare, describe
from ckmigrate.tagging import Tag, parse_tag
from ckmigrate.ties import Ties

if TYPE_CHECKING:
    from packaging.version import Version

    from ckmigrate.revisions.lock import Lock

__all__ = ["Identity", "Replay", "candidates", "identify"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A revision (None is base), how it was found, and the tag if the file has one."""

    revision: str | None
    evidence: str
    tag: Tag | None = None

    @property
    def is_tagged(self) -> bool:
        return self.tag is not None and self.evidence == "tag"

    @property
    def contradicts_tag(self) -> bool:
        """Whether `--from` says another revision than the tag."""
        return (
            self.tag is not None
            and self.evidence == "--from"
            and self.tag.revision != self.revision
        )


@dataclass(frozen=True)
class Replay:
    """A snapshot of the base schema, led through every script of the history."""

    history: History
    base: Snapshot
    params: Mapping[str, object]

    @cached_property
    def _traced(self) -> dict[str, TracedScript]:
        """By revision, as far as scripts can be replayed without metadata."""
        done: dict[str, TracedScript] = {}
        origin = start(self.base.schema, ties=self.base.ties)
        for script in self.history.order:
            parents = script.parents
            if any(parent not in done for parent in parents):
                continue
            state = done[parents[0]].after if parents else origin
            chain: tuple[Script, ...] = (script,)
            if len(parents) > 1:
                state, chain = origin, self.history.path_up(None, script.id, originals=True)
            try:
                done[script.id] = trace(chain, state, self.params).scripts[-1]
            except CkmigrateError as error:
                self.failures[script.id] = error
        return done

    @cached_property
    def failures(self) -> dict[str, CkmigrateError]:
        """Scripts that could not be replayed, and why; complete once a schema was asked for."""
        return {}

    @cached_property
    def unknown(self) -> frozenset[str]:
        """Revisions that cannot be replayed because a script on the way reads metadata."""
        known = self._traced
        readers = {rev for rev, error in self.failures.items() if is_unknown_metadata(error)}
        others = [script.id for script in self.history.order if script.id not in known]
        ancestors = self.history.ancestors
        return frozenset(rev for rev in others if rev in readers or readers & ancestors(rev))

    def traced(self, revision: str) -> TracedScript | None:
        """What one script does on the snapshot; None where it cannot be replayed."""
        return self._traced.get(revision)

    def schema(self, revision: str | None) -> Schema | None:
        """Names and specs at a revision; None where it cannot be replayed."""
        if revision is None:
            return self.base.schema
        traced = self._traced.get(revision)
        return None if traced is None else traced.after.schema

    def schemas(self) -> dict[str | None, Schema]:
        """Every revision that can be replayed, base first."""
        found: dict[str | None, Schema] = {None: self.base.schema}
        found.update((rev, traced.after.schema) for rev, traced in self._traced.items())
        return found


def identify(
    history: History,
    *,
    project: str,
    tag_text: str | None,
    schema: Schema,
    meta: Meta,
    release_keys: Sequence[str],
    replays: Mapping[str, Replay],
    ties: Ties = (),
    override: str | None = None,
    find_lock: Callable[[], Lock | None] = lambda: None,
) -> Identity:
    """The revision of a checkpoint; IdentifyError CKM41x with the candidates and the way out.

    `find_lock` is asked only where the scripts that can be replayed lead to nothing alike.
    """
    if override is not None:
        tag = _readable(tag_text)
        return Identity(resolve(history, override), "--from", tag)
    if tag_text is not None:
        return _from_tag(history, project, parse_tag(tag_text))
    release = _release(meta, release_keys)
    alike, evidence = candidates(schema, replays), "names and shapes of its tensors"
    if not alike and replays:
        # Without a base snapshot a file at the base could pass for one behind the first script.
        alike = _recorded(history, schema, replays, find_lock())
        evidence = "names of its tensors, as history.lock records them"
    if len(alike) == 1:
        more = _lookalikes(history, alike[0], start(schema, ties=ties, meta=meta), replays)
        alike = tuple(dict.fromkeys((*alike, *more)))
    if release is not None:
        return _from_release(history, *release, alike)
    return _from_signature(history, schema, alike, replays, evidence)


def _recorded(
    history: History, schema: Schema, replays: Mapping[str, Replay], lock: Lock | None
) -> tuple[str | None, ...]:
    """Revisions that no replay reaches, and whose recorded signature is that of the file."""
    wanted, reached = signature_text(schema), {rev for rev, _ in _known(replays)}
    return tuple(
        line.revision
        for line in (lock.lines if lock else ())
        if line.revision in history and line.revision not in reached and wanted in line.signatures
    )


def _lookalikes(
    history: History, revision: str | None, state: State, replays: Mapping[str, Replay]
) -> tuple[str, ...]:
    """Where the file may be as well, for all that its names and shapes tell."""
    unknown = {rev for replay in replays.values() for rev in replay.unknown}
    params = next((replay.params for replay in replays.values()), {})
    return lookalikes(history, revision, state, params, unknown) if unknown else ()


def _readable(tag_text: str | None) -> Tag | None:
    try:
        return None if tag_text is None else parse_tag(tag_text)
    except IdentifyError:
        return None


def _from_tag(history: History, project: str, tag: Tag) -> Identity:
    who = f"{tag.name} ({tag.revision})" if tag.revision else "base"
    written = f"It was written by {tag.writer} for project '{tag.project}'"
    if tag.release:
        written += f", release {tag.release}"
    if tag.project != project:
        raise IdentifyError(
            "CKM410",
            f"the checkpoint belongs to project '{tag.project}', not '{project}'",
            why=f"{written}, at revision {who}.",
            fix="Run ckmigrate in that project, or say --from REV if its history was taken over.",
        )
    if tag.revision in history.pruned:
        raise pruned_away(tag.revision or "", history.pruned[tag.revision or ""])
    if tag.revision is not None and (now := history.rebased(tag.revision)) is not None:
        raise _rebased(history, tag.revision, now, who, written)
    if tag.revision is not None and tag.revision not in history:
        raise IdentifyError(
            "CKM411",
            f"the checkpoint is at revision {who}, which this history does not have",
            why=f"{written}. The newest revision here is {_newest(history)}.",
            fix="Update the project to a version that has this revision; --from REV overrides.",
        )
    return Identity(tag.revision, "tag", tag)


def _rebased(history: History, old: str, now: Script, who: str, written: str) -> IdentifyError:
    """A checkpoint that went through a script before a rebase put others in front of it."""
    lacks, extra = differing(history, old, now)
    details = [f"it did not go through {script.label}" for script in lacks]
    details += [f"it went through {script.label}, which is not before it now" for script in extra]
    there = history.label(fork_of_former(history, old))
    return IdentifyError(
        "CKM416",
        f"the checkpoint is at revision {who}, which was rebased: it is {now.label} now",
        details=tuple(details),
        why=f"{written}. The scripts ran on it in another order than they do now, so that it is at "
        "no revision of this history.",
        fix=f"Upgrade a copy that is still at {there}. Or undo the branch on this one: check out "
        "the version of the project before the rebase, there run `ckmigrate downgrade --to "
        f"{there.split()[0]}`, and upgrade the result here. Where more such checkpoints are out, "
        "undo the rebase and join the branches instead: ckmigrate merge.",
    )


def _newest(history: History) -> str:
    heads = [history.label(head) for head in history.heads]
    return " and ".join(heads) if heads else "base: there are no scripts"


def _release(meta: Meta, keys: Sequence[str]) -> tuple[str, str] | None:
    for key in keys:
        if meta.is_known and key in meta:
            return key, str(meta.get(key))
    return None


def _from_release(history: History, key: str, text: str, alike: Sequence[str | None]) -> Identity:
    """`alike` are the revisions that the tensors fit; they decide where the release leaves it
    open."""
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(text)
    except InvalidVersion:
        raise IdentifyError(
            "CKM412",
            f"the release '{text}' at '{key}' is not a version number",
            why="Releases are compared by the rules of PEP 440.",
            fix="Say the revision with --from REV.",
        ) from None
    released = [(s.id, Version(s.release)) for s in history.order if s.release]
    gone = [(rev, release) for rev, release in _gone_releases(history) if release <= version]
    if gone and not any(gone[-1][1] <= release <= version for _, release in released):
        raise pruned_away(gone[-1][0], history.pruned[gone[-1][0]])
    reached = [revision for revision, release in released if release <= version]
    last = [r for r in reached if not any(r in history.ancestors(other) for other in reached)]
    # A development version of 1.3 may or may not have what 1.3 will have.
    coming = [r for r, release in released if version < release <= Version(version.base_version)]
    possible: list[str | None] = [*last, *coming] if last else [None, *coming]
    evidence = f"release {text} ({key})"
    if len(possible) == 1:
        return Identity(possible[0], evidence)
    fitting = [revision for revision in possible if revision in alike]
    if len(fitting) == 1:
        return Identity(fitting[0], f"{evidence}, and names and shapes of its tensors")
    why = "was made before a release was complete" if coming else "was made on branches"
    raise _ambiguous(fitting or possible, history, f"release {text} {why}")


def _gone_releases(history: History) -> list[tuple[str, Version]]:
    """Releases of revisions whose scripts were pruned, oldest first."""
    from packaging.version import Version

    squashes = [script for script in history.order if script.pruned]
    found = [item for s in squashes for item in s.pruned.get("releases", {}).items()]
    known = [(rev, Version(text)) for text, rev in found if rev in history.pruned]
    return sorted(known, key=lambda item: item[1])


def _from_signature(
    history: History,
    schema: Schema,
    matching: Sequence[str | None],
    replays: Mapping[str, Replay],
    evidence: str,
) -> Identity:
    if len(matching) == 1:
        return Identity(matching[0], evidence)
    if matching:
        raise _ambiguous(matching, history, "their schemas are alike")
    raise _nothing_fits(history, schema, _known(replays))


def candidates(schema: Schema, replays: Mapping[str, Replay]) -> tuple[str | None, ...]:
    """The revisions whose names and shapes fit; where there are none, those that fit but for the
    number of layers and their sizes."""
    known = _known(replays)
    for fits in (same_shapes, _same_signature):
        matching = tuple(dict.fromkeys(rev for rev, found in known if fits(schema, found)))
        if matching:
            return matching
    return ()


def _known(replays: Mapping[str, Replay]) -> list[tuple[str | None, Schema]]:
    return [(rev, found) for replay in replays.values() for rev, found in replay.schemas().items()]


def _same_signature(schema: Schema, other: Schema) -> bool:
    return signature(schema) == signature(other)


def _ambiguous(revisions: Sequence[str | None], history: History, why: str) -> IdentifyError:
    return IdentifyError(
        "CKM413",
        f"the checkpoint has no tag and {len(revisions)} revisions fit",
        details=tuple(history.label(revision) for revision in revisions),
        why=f"Nothing in the file tells them apart: {why}.",
        fix="Say which one it is: --from REV; or tag it once: ckmigrate stamp PATH REV.",
    )


def _nothing_fits(
    history: History, schema: Schema, known: Sequence[tuple[str | None, Schema]]
) -> IdentifyError:
    if not known:
        return IdentifyError(
            "CKM414",
            "the checkpoint has no tag, and there is no base snapshot to compare it with",
            why="Without either, a revision could only be guessed.",
            fix="Say it with --from REV (or --from base), or commit a snapshot: ckmigrate init.",
        )
    ranked = sorted(known, key=lambda item: -_likeness(schema, item[1]))
    nearest, expected = ranked[0]
    lines = describe(compare(schema, expected), found="file", wanted="revision")
    shown = tuple(lines[:8]) + ((f"… {len(lines) - 8} more",) if len(lines) > 8 else ())
    return IdentifyError(
        "CKM414",
        "the checkpoint has no tag, and its tensors fit no revision of this history",
        details=shown,
        why=f"The nearest is {history.label(nearest)}; the lines above are what differs from it.",
        fix="If you know the revision say --from REV; otherwise it is not a checkpoint of this "
        "project, or older than its base snapshot.",
    )


def _likeness(schema: Schema, other: Schema) -> float:
    ours, theirs = signature(schema), signature(other)
    return len(ours & theirs) / max(1, len(ours | theirs))
