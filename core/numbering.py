"""The place of every mailbox entry after what the ledger already knows: redeliveries, replays, renumbering, gaps. Pure.

`core/decide.py` applies the commands in the order that `number` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from core.model import REPLAY, Command, replay_id


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says of a job it already holds."""

    job_id: str
    session_id: int
    seq: int
    accepted_seq: int | None


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that only lost data can cause; recorded, counted and shown, never hidden."""

    kind: str  # seq_gap | renumbered | redis_emptied | redis_went_back
    session_id: int | None
    detail: dict[str, int | str]


@dataclass(slots=True)
class Numbered:
    """The entries of a batch after comparison with the ledger."""

    commands: list[Command] = field(default_factory=list)  # to be decided, under their final seq
    redelivered: list[str] = field(default_factory=list)  # job ids to publish again, not to apply again
    incidents: list[Incident] = field(default_factory=list)
    lifts: dict[int, int] = field(default_factory=dict)  # session id: by how much Redis's numbering lags behind


def number(
    entries: Iterable[Command],
    known: Mapping[str, Known],
    known_replays: frozenset[str] | set[str],
    last_seqs: Mapping[int, int],
) -> Numbered:
    """Place each entry after its session's last seq.

    A known job under its own seq is a redelivery; under another it becomes a `replay`, which only holds the place. An
    unknown job whose seq has passed is renumbered; one that jumps ahead leaves a gap. Nothing new is ever skipped.
    """
    result = Numbered()
    seqs = dict(last_seqs)
    first = dict(known)
    for entry in entries:
        seen = first.get(entry.job_id)
        if seen is not None:
            repeated = replay_id(entry.job_id, entry.session_id, entry.seq)
            if entry.seq in (seen.seq, seen.accepted_seq) or repeated in known_replays:
                result.redelivered.append(entry.job_id)
                if entry.seq == seen.accepted_seq:  # whoever renumbered it may have died before Redis was told
                    result.lifts[entry.session_id] = seen.seq - entry.seq
                continue
            entry = msgspec.structs.replace(
                entry, job_id=repeated, kind=REPLAY, arguments=None, replay_of=seen.job_id, quarantined=False
            )
        command = _place(entry, seqs[entry.session_id], result)
        seqs[entry.session_id] = command.seq
        if seen is None:
            first[command.job_id] = Known(command.job_id, command.session_id, command.seq, command.accepted_seq)
        else:
            result.redelivered.append(seen.job_id)
        result.commands.append(command)
    return result


def _place(entry: Command, last: int, result: Numbered) -> Command:
    if entry.seq == last + 1:
        return entry
    if entry.seq > last + 1:
        detail: dict[str, int | str] = {"first": last + 1, "last": entry.seq - 1}
        result.incidents.append(Incident("seq_gap", entry.session_id, detail))
        return entry
    detail = {"job": entry.job_id, "accepted_seq": entry.seq, "seq": last + 1}
    result.incidents.append(Incident("renumbered", entry.session_id, detail))
    result.lifts[entry.session_id] = last + 1 - entry.seq
    return msgspec.structs.replace(entry, seq=last + 1, accepted_seq=entry.seq)
