"""The author of what a task does: inherited by the tasks that it starts, and by no other."""

from __future__ import annotations

import trio

from netagent.model.author import AGENT, Author, AuthorKind, act_as, acting_as, current_author

ALICE = Author(AuthorKind.USER, "alice", 1000, "netagent")
DOCKER = Author(AuthorKind.RUNTIME, "docker")


def test_a_task_acts_for_whom_its_starter_acted_when_it_was_started() -> None:
    seen: list[Author] = []

    async def run() -> None:
        async def note(author: Author | None = None) -> None:
            if author is not None:
                act_as(author)
            seen.append(current_author())

        async def request(nursery: trio.Nursery) -> None:
            act_as(ALICE)
            nursery.start_soon(note)
            nursery.start_soon(note, AGENT)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, nursery)
            with acting_as(DOCKER):
                nursery.start_soon(note)
            nursery.start_soon(note)
        assert current_author() == AGENT

    trio.run(run)
    assert sorted(map(str, seen)) == ["alice by netagent", "docker", "netagent", "netagent"]


def test_an_author_is_one_short_text() -> None:
    texts = {
        Author(AuthorKind.USER, "alice", 1000): ("alice", "alice"),
        Author(AuthorKind.TOKEN, "grafana"): ("token grafana", "token grafana"),
        Author(AuthorKind.GOSSIP, "h2"): ("host h2", "h2"),
        Author(AuthorKind.KERNEL, "kernel"): ("kernel", "kernel"),
    }
    for author, expected in texts.items():
        assert (str(author), author.account) == expected
