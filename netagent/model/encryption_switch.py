"""How a living cluster begins to encrypt, and ends it, without a lost packet. Pure.

A decision is on or off. Each host repeats it in a record of its own, with the stage that it has reached, and goes to
its target one stage at a time:

    CLEAR    sends in the clear     takes VXLAN in the clear           no tunnel
    READY    sends in the clear     takes both                         a session to every live host
    SENDING  sends by the tunnel    takes both
    FENCED   sends by the tunnel    takes VXLAN from the tunnel alone

A host takes the next step when all other live hosts have heard of the decision and are as far as it is. So two live
hosts are never more than one stage apart, in either direction, and what neighbouring stages send each other is taken
by both. Nothing coordinates this but the records: any host may stop and return at any moment, and a decision that is
revoked half way leads back by the same steps.

A host whose agent is away is not waited for. If it finds the others two stages or more ahead on the way on, it
follows at once: what it sent meanwhile was dropped, or had no way. On the way off it goes by every stage, or a host
that lies about its own could lead others past those that still encrypt.

A host that keeps encryption stays behind its fence whatever is decided. So the others, which wait for it, go on to
send by the tunnel alone as long as its agent answers.

**Who is believed.** That the cluster encrypts, any host may say. That it does not encrypt any more counts only in the
signed records of the host that decided it, or of more than half of the hosts; so a host cannot pretend that another
one has decided it, and each host knows which one it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from netagent.model.ids import HostId
from netagent.model.records import EncryptionRecord, EncryptionStage


def decision_of(
    said: Mapping[HostId, EncryptionRecord], local: HostId, host_count: int
) -> EncryptionRecord | None:
    """Return a record with the decision that counts; None: there is none. `host_count`: hosts of the cluster."""
    repeated = Counter(one.decision for one in said.values() if not one.is_on)
    believed = [
        one
        for owner, one in said.items()
        if one.is_on or owner in {local, one.decided_on} or 2 * repeated[one.decision] > host_count
    ]
    # Of equal ones any would do, but each host takes the same one.
    return max(believed, key=lambda one: (one.decision, one.decided_on or ""), default=None)


def next_record(
    own: EncryptionRecord | None,
    decision: EncryptionRecord,
    others: Mapping[HostId, EncryptionRecord | None],
    *,
    keeps: bool = False,
) -> EncryptionRecord | None:
    """Return what this host's record becomes; None: it stays, because the host is where it should be, is about to be
    there, or waits for others. `others`: live hosts. `keeps`: this host never leaves the fence again."""
    if own is None:
        return replace(decision, stage=EncryptionStage.CLEAR, is_reached=True)
    if own.decision != decision.decision:
        return replace(decision, stage=own.stage, is_reached=own.is_reached)
    if keeps and own.stage is EncryptionStage.FENCED:
        return None
    step = 1 if own.stage < decision.target else -1
    reached = [
        one.stage
        for one in others.values()
        if one is not None and one.decision == decision.decision and one.is_reached
    ]
    farthest = max(reached, key=lambda stage: step * stage, default=own.stage)
    if own.is_on and own.stage != decision.target and step * (farthest - own.stage) > 1:
        return replace(own, stage=farthest, is_reached=False)
    if own.is_reached and own.stage != decision.target and not waited_for(own, others):
        return replace(own, stage=EncryptionStage(own.stage + step), is_reached=False)
    return None


def waited_for(
    own: EncryptionRecord, others: Mapping[HostId, EncryptionRecord | None]
) -> dict[HostId, EncryptionRecord | None]:
    """Return the hosts that are not as far as this one, on the way that its decision says."""
    step = 1 if own.is_on else -1
    return {
        host_id: one
        for host_id, one in others.items()
        if one is None
        or one.decision != own.decision
        or step * one.stage < step * own.stage
        or (one.stage == own.stage and not one.is_reached)
    }
