"""Compose projects with the same names in one network, by their real labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runtimes.harness import PROGRAMS_OF_THE_MACHINE, SPREAD_S, Fleet

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

SERVICE = {"image": "lab", "volumes": [PROGRAMS_OF_THE_MACHINE[1]], "networks": ["app"]}
FILE = {"services": {"web": SERVICE, "db": SERVICE}, "networks": {"app": {"external": True}}}
LOOKUPS = 20


class Compose:
    """The file, for any project on any host with Docker."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.file = folder / "compose.json"
        self.file.write_text(json.dumps(FILE))
        self.used: set[tuple[str, str]] = set()

    def run(self, host: str, project: str, *words: str) -> None:
        self.used.add((host, project))
        self.fleet.runtime(host, "compose", "-f", str(self.file), "-p", project, *words)

    def down(self) -> None:
        for host, project in sorted(self.used):
            self.fleet.try_runtime(
                host, "compose", "-f", str(self.file), "-p", project, "down", "--remove-orphans", "-t", "0"
            )


@contextmanager
def composing(fleet: Fleet, folder: Path) -> Iterator[Compose]:
    compose = Compose(fleet, folder)
    try:
        yield compose
    finally:
        compose.down()


def test_scenario_54_each_project_finds_its_own_database_and_no_other_while_that_is_stopped(
    docker_hosts: Fleet, tmp_path: Path
) -> None:
    """blog's db is in the Docker network of shop's web on the same host: Docker's own resolver knows it as `db`."""
    fleet = docker_hosts
    with composing(fleet, tmp_path) as compose:
        compose.run("h1", "blog", "up", "-d", "db")
        compose.run("h2", "blog", "up", "-d", "web")
        compose.run("h2", "shop", "up", "-d", "db")
        compose.run("h1", "shop", "up", "-d", "web")
        fleet.start("h1", "plain")
        askers = {"shop": "h1", "blog": "h2"}
        for project, host in askers.items():
            own = fleet.addresses(f"{project}-db-1", seen_from=host)
            fleet.wait(
                lambda: fleet.resolve(host, f"{project}-web-1", "db") == own, SPREAD_S, f"not {project}'s db"
            )
            endpoint = fleet.find_endpoint(f"{project}-db-1", seen_from=host)
            assert endpoint is not None
            assert (endpoint["group"], f"db.{project}.app.mesh.internal" in endpoint["names"]) == (
                project,
                True,
            )
        both = [fleet.addresses(f"{project}-db-1") for project in askers]
        fleet.wait(lambda: len(fleet.replicas("h1", "plain", "db")) == 2, SPREAD_S, "plain does not get both")
        compose.run("h2", "shop", "stop", "-t", "0", "db")
        fleet.start("h1", "db")  # takes nothing
        fleet.wait(lambda: not fleet.resolve("h1", "shop-web-1", "db"), SPREAD_S, "its db is still found")
        for name in ("db", "db.app", "db.app.mesh.internal"):
            for _ in range(LOOKUPS):
                assert fleet.resolve("h1", "shop-web-1", name) == []
        assert fleet.resolve("h1", "shop-web-1", "db.blog") == fleet.addresses("blog-db-1")
        assert fleet.resolve("h2", "blog-web-1", "db") == fleet.addresses("blog-db-1")
        compose.run("h2", "shop", "start", "db")
        fleet.wait(
            lambda: fleet.resolve("h1", "shop-web-1", "db") == fleet.addresses("shop-db-1") != [],
            SPREAD_S,
            "its db does not come back",
        )
        assert all(both)


def test_labels_of_an_image_put_no_container_into_a_project(docker_hosts: Fleet, tmp_path: Path) -> None:
    """An image that was made from a container of a project has compose's labels; its maker may add netagent's."""
    fleet = docker_hosts
    with composing(fleet, tmp_path) as compose:
        compose.run("h1", "shop", "up", "-d", "db")
        fleet.wait(lambda: fleet.find_endpoint("shop-db-1") is not None, SPREAD_S, "no db")
        changes = ("--change", "LABEL netagent.group=shop", "--change", "LABEL netagent.service=db")
        fleet.runtime("h1", "commit", *changes, "shop-db-1", "made-of-it")
        try:
            options = ("--network", "app", "--volume", PROGRAMS_OF_THE_MACHINE[1])
            fleet.runtime("h1", "run", "-d", *options, "--name", "stray", "made-of-it")
            fleet.wait(lambda: fleet.find_endpoint("stray") is not None, SPREAD_S, "no stray")
            stray = fleet.find_endpoint("stray")
            assert stray is not None
            assert (stray["group"], stray["service"]) == ("", "stray")
            chosen = ("--label", "netagent.group=blog")
            fleet.runtime("h1", "run", "-d", *options, *chosen, "--name", "chosen", "made-of-it")
            fleet.wait(lambda: fleet.find_endpoint("chosen") is not None, SPREAD_S, "no chosen")
            chosen_one = fleet.find_endpoint("chosen")
            assert chosen_one is not None
            assert chosen_one["group"] == "blog", "what the operator says counts"
        finally:
            fleet.try_runtime("h1", "rm", "-f", "stray", "chosen")
            fleet.try_runtime("h1", "rmi", "-f", "made-of-it")
