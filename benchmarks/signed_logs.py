"""What it costs that hosts sign their records: each step, a change, and a join.

    python benchmarks/signed_logs.py [--logs 300] [--records 20000] [--rounds 5]

Each figure is measured with proofs and without, one after the other in each round, and is the median of the rounds.
The join is of a host that takes `--records` records in `--logs` logs, as bytes from the wire, in slices: the event
loop stands still for each. All is processor time, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

from netgossip.join.identity import Identity
from netgossip.records.merge import Merge
from netgossip.records.proofs import LogProofs
from netgossip.records.set_hash import element
from netgossip.records.table import Table
from netgossip.records.wire import NO_VERSION, Delta, decode_untrusted, encode
from netgossip.slices import Slices, at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged

LABEL = bytes(16)
VALUE_BYTES = 300
"""Of an endpoint's record."""
OFTEN = 200
COLUMNS = ("without", "with proofs")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", type=int, default=300)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    show(medians(options))


def medians(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return each figure by its name, without proofs and with them."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds):
        for signs, column in enumerate(COLUMNS):
            for name, value in measured(options, signs=bool(signs), seed=number):
                found.setdefault(name, {}).setdefault(column, []).append(value)
    return {
        name: {column: statistics.median(values) for column, values in columns.items()}
        for name, columns in found.items()
    }


def show(figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print them."""
    print(f"{'':52} {COLUMNS[0]:>10} {COLUMNS[1]:>12}")
    for name, columns in figures.items():
        cells = [f"{columns[column]:.1f}" if column in columns else "" for column in COLUMNS]
        print(f"{name:52} {cells[0]:>10} {cells[1]:>12}")


def measured(options: argparse.Namespace, *, signs: bool, seed: int) -> Iterator[tuple[str, float]]:
    """Yield each figure of one round by its name."""
    rng = random.Random(seed)
    if signs:
        yield from steps(rng)
    yield from change(rng, signs=signs)
    yield from join(options.logs, options.records, rng, signs=signs)


def a_table(identity: Identity, *, signs: bool) -> Table:
    """A node's table."""
    proofs = LogProofs(identity, LABEL) if signs else None
    return Table(node_id=identity.node_id, label=LABEL, tombstone_s=3600.0, now=0.0, proofs=proofs)


def an_owner(rng: random.Random, records: int, *, signs: bool) -> Table:
    """A table with a log of its own."""
    owner = a_table(Identity(rng.randbytes(32)), signs=signs)
    changes = [(CLUSTER_SCOPE, rng.randbytes(17), rng.randbytes(VALUE_BYTES)) for _ in range(records)]
    owner.commit(owner.prepare(changes), 0.0)
    return owner


def microseconds(run: Callable[[], object], often: int = OFTEN) -> float:
    """The mean of many runs."""
    start = time.thread_time()
    for _ in range(often):
        run()
    return (time.thread_time() - start) / often * 1e6


def steps(rng: random.Random) -> Iterator[tuple[str, float]]:
    """The parts of a proof."""
    owner, identity = an_owner(rng, 1, signs=True), Identity(rng.randbytes(32))
    delta = own_delta(owner)
    proofs = LogProofs(identity, LABEL)
    scope, version = delta.scope, delta.version
    proof = proofs.sign(scope, version, 7)
    yield "hash one record, us", microseconds(lambda: element(delta.entries[0]))
    yield "sign a log, us", microseconds(lambda: proofs.sign(scope, version, 7))
    yield (
        "verify a log, us",
        microseconds(lambda: proofs.is_valid(proof, scope, identity.node_id, version, 7)),
    )


def change(rng: random.Random, *, signs: bool) -> Iterator[tuple[str, float]]:
    """One record of a log of 1,000 is written: at its owner with the first push, for each further peer, and at each
    receiver."""
    owner, reader = an_owner(rng, 1000, signs=signs), a_table(Identity(rng.randbytes(32)), signs=signs)
    first = own_delta(owner)
    at_once(reader.merge(first, from_owner=True))
    node_id, keys = first.owner, [entry.key for entry in first.entries]
    spent = {"owner": 0.0, "peer": 0.0, "receiver": 0.0}
    for number in range(OFTEN):
        held = owner.own_version(CLUSTER_SCOPE)
        entries = owner.prepare([(CLUSTER_SCOPE, keys[number], rng.randbytes(VALUE_BYTES))])
        times = [time.thread_time()]
        owner.commit(entries, 0.0)
        for _ in range(2):
            delta = owner.delta(CLUSTER_SCOPE, node_id, held)
            assert delta is not None
            body = at_once(encode(delta))
            times.append(time.thread_time())
        (read,) = at_once(decode_untrusted(body))
        assert isinstance(read, Delta)
        outcome, _ = at_once(reader.merge(read, from_owner=True))
        times.append(time.thread_time())
        assert outcome is Merge.APPLIED
        for name, start, end in zip(spent, times, times[1:], strict=False):
            spent[name] += (end - start) / OFTEN * 1e6
    yield "a change, at its owner with the first push, us", spent["owner"]
    yield "a change, for each further peer, us", spent["peer"]
    yield "a change, at each receiver, us", spent["receiver"]


def own_delta(owner: Table) -> Delta:
    """The owner's whole log."""
    (node_id,) = owner.owners(CLUSTER_SCOPE)
    delta = owner.delta(CLUSTER_SCOPE, node_id, NO_VERSION)
    assert delta is not None
    return delta


def join(logs: int, records: int, rng: random.Random, *, signs: bool) -> Iterator[tuple[str, float]]:
    """A host takes all logs of a cluster."""
    # As evenly as it goes; the last log is the rest, and the longest.
    counts = [records // logs] * (logs - 1)
    counts.append(records - sum(counts))
    bodies = [at_once(encode(own_delta(an_owner(rng, count, signs=signs)))) for count in counts]
    reader = a_table(Identity(rng.randbytes(32)), signs=signs)
    lengths = []
    for body in bodies:
        work = taking(reader, body)
        while True:
            start = time.thread_time()
            try:
                next(work)
            except StopIteration:
                break
            finally:
                lengths.append(time.thread_time() - start)
    assert reader.size(CLUSTER_SCOPE)[0] == records
    lengths.sort()
    what = f"a join, {records} records in {logs} logs"
    yield f"{what}, in all, ms", sum(lengths) * 1e3
    yield f"{what}, p99 of slices, ms", lengths[len(lengths) * 99 // 100] * 1e3
    yield f"{what}, longest slice, ms", lengths[-1] * 1e3


def taking(reader: Table, body: bytes) -> Slices[EntriesChanged | None]:
    """As MessageHandlers takes a message of a stream."""
    (delta,) = yield from decode_untrusted(body)
    yield
    assert isinstance(delta, Delta)
    outcome, event = yield from reader.merge(delta, from_owner=False)
    assert outcome is Merge.APPLIED
    return event


if __name__ == "__main__":
    main()
