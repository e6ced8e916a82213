"""Two projects with the same names in one network: each finds its own, whatever happens to it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

QUESTIONS = str(Path(__file__).with_name("questions.py"))
PROJECTS = ("shop", "blog")
NAMES = ("db", "db.app", "db.app.mesh.internal")
LOOKUPS_EACH = 1000


class Projects:
    """Two projects, each with web, api and db, over three hosts; and a container of none."""

    def __init__(self, app: Cluster) -> None:
        self.app = app
        self.addresses: dict[str, set[str]] = {name: set() for name in PROJECTS}
        """All that a project's `db` has ever had."""
        self.now: dict[str, str] = {}
        """Container -> its present IPv4 address."""
        for project, hosts in (("shop", ("h1", "h2", "h3")), ("blog", ("h3", "h1", "h2"))):
            for service, host in zip(("web", "api", "db"), hosts, strict=True):
                self.start(project, service, host)
        app.attach("h3", "plain")

    def start(self, project: str, service: str, host: str, number: int = 1) -> None:
        name = f"{project}-{service}-{number}"
        row = self.app.attach(host, name, "--group", project, "--service", service)
        self.now[name] = next(one for one in row["addresses"] if "." in one)
        if service == "db":
            self.addresses[project].add(self.now[name])

    def restart(self, project: str, service: str, host: str, number: int = 1) -> None:
        self.app.lab.remove_container(f"{project}-{service}-{number}")
        self.start(project, service, host, number)

    def own(self, project: str) -> list[str]:
        """The addresses that the project's `db` has now."""
        return sorted(one for name, one in self.now.items() if name.startswith(f"{project}-db-"))

    def wait_found(self, project: str, asker: str) -> None:
        expected = self.own(project)
        self.app.wait(
            lambda: self.app.ask(asker, "db").data == expected,
            15.0,
            lambda: f"{asker} finds {self.app.ask(asker, 'db')}, and not {expected}",
        )

    @contextmanager
    def looking_up(self, *askers: str, least: int = 0) -> Iterator[dict[str, dict[str, int]]]:
        """Each of these asks for each form of the name while the block takes, and until it has asked `least` times;
        afterwards the dict says how often it got which answer."""
        found: dict[str, dict[str, int]] = {}
        with ExitStack() as stack:
            asking: dict[str, subprocess.Popen[str]] = {}
            for one in askers:
                argv = self.app.lab.container(one).entering(["python3", QUESTIONS, str(least), *NAMES])
                asking[one] = stack.enter_context(
                    subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
                )
            try:
                yield found
            finally:
                for one, process in asking.items():
                    found[one] = json.loads(process.communicate(timeout=90)[0])
        print(found)

    def is_own(self, project: str, answer: str) -> bool:
        return {*answer.split(",")} <= self.addresses[project]


@pytest.fixture
def projects(cluster: Cluster) -> Projects:
    cluster.netagent("h1", "network", "create", "app")
    projects = Projects(cluster)
    for project in PROJECTS:
        projects.wait_found(project, f"{project}-web-1")
    return projects


def kill_agent(app: Cluster, host: str) -> None:
    with app.agent_of(host) as one:
        one.kill_agent()


def start_agent(app: Cluster, host: str) -> None:
    with app.agent_of(host) as one:
        one.start_agent()


@pytest.mark.timeout(300)
def test_scenario_54_each_project_finds_its_own_through_restarts_scale_and_agent_kills(
    projects: Projects,
) -> None:
    """1,000 of 1,000 look-ups, where one replica of two is there all the time."""
    app = projects.app
    projects.start("shop", "db", "h2", number=2)
    projects.start("blog", "db", "h3", number=2)
    webs = {f"{project}-web-1": project for project in PROJECTS}
    for web, project in webs.items():
        projects.wait_found(project, web)
    with projects.looking_up(*webs, least=LOOKUPS_EACH) as found:
        projects.restart("shop", "db", "h3")
        projects.wait_found("shop", "shop-web-1")
        for number, host in ((3, "h1"), (4, "h3")):
            projects.start("blog", "db", host, number)
        kill_agent(app, "h1")  # of shop's web
        projects.restart("blog", "db", "h3", number=2)
        start_agent(app, "h1")
        kill_agent(app, "h2")
        kill_agent(app, "h3")
        start_agent(app, "h3")
        start_agent(app, "h2")
        projects.restart("shop", "db", "h2", number=2)
        for web, project in webs.items():
            projects.wait_found(project, web)
    for web, project in webs.items():
        assert sum(found[web].values()) >= LOOKUPS_EACH
        assert {answer for answer in found[web] if not projects.is_own(project, answer)} == set()


@pytest.mark.timeout(300)
def test_scenario_54_no_other_project_stands_in_for_the_only_database_while_it_is_away(
    projects: Projects,
) -> None:
    app = projects.app
    with projects.looking_up("shop-web-1", least=LOOKUPS_EACH) as found:
        app.remove("shop-db-1")
        app.wait(lambda: app.ask("shop-web-1", "db").status == "NXDOMAIN", 5.0, "shop still has a db")
        why = json.loads(app.try_netagent("h1", "lookup", "db", "--from", "shop-web-1", "--json").stdout)[
            "reason"
        ]
        app.attach("h2", "db")  # `docker run --name db`
        app.attach("h2", "chosen", "--service", "db")
        kill_agent(app, "h1")
        time.sleep(0.3)  # it answers from what the resolver process has
        start_agent(app, "h1")
        app.wait(lambda: "chosen" in app.endpoint_names("h1"), 15.0, "h1 does not catch up")
        projects.start("shop", "db", "h3")
        projects.wait_found("shop", "shop-web-1")
        kill_agent(app, "h1")
        app.lab.remove_container("shop-db-1")  # h1 learns of it only after its start
        start_agent(app, "h1")
        app.wait(lambda: app.ask("shop-web-1", "db").status == "NXDOMAIN", 15.0, "h1 does not catch up")
        projects.start("shop", "db", "h3")
        projects.wait_found("shop", "shop-web-1")
    answers = found["shop-web-1"]
    assert sum(answers.values()) >= LOOKUPS_EACH
    assert answers["NXDOMAIN"] > 0
    assert {one for one in answers if one != "NXDOMAIN" and not projects.is_own("shop", one)} == set()
    assert "db is a name of group shop, which has had no endpoint for it since 20" in why, why
    assert "not led to blog-db-1 on h2 instead: ask for db.blog" in why, why


@pytest.mark.timeout(300)
def test_a_whole_project_may_restart_and_its_web_come_before_its_database(projects: Projects) -> None:
    app = projects.app
    app.remove("shop-web-1", "shop-api-1", "shop-db-1")
    kill_agent(app, "h1")
    start_agent(app, "h1")
    projects.start("shop", "web", "h1")
    assert app.ask("shop-web-1", "db").status == "NXDOMAIN"
    projects.start("shop", "db", "h3")
    projects.wait_found("shop", "shop-web-1")


def test_a_plain_container_is_answered_as_documented_and_takes_no_name(projects: Projects) -> None:
    app = projects.app
    both = sorted(projects.own("shop") + projects.own("blog"))
    app.wait(lambda: app.ask("plain", "db").data == both, 5.0, "not both")
    listed = json.loads(app.try_netagent("h1", "services", "--json").stdout)["warnings"]
    assert any("group blog on h2 and group shop on h3" in one["message"] for one in listed), listed
    app.attach("h1", "db")
    app.wait(lambda: "db" in app.endpoint_names("h3"), 5.0, "h3 does not know it")
    assert app.ask("plain", "db").data == both
    assert [app.ask("plain", f"db.{one}").data for one in PROJECTS] == [projects.own(one) for one in PROJECTS]
    found = app.netagent("h3", "lookup", "db", "--from", "plain")
    assert "db is shared by 2 groups: blog (" in found["reason"], found
    notices = [one["message"] for one in app.netagent("h2", "status")["warnings"]]
    assert any("group blog on h2 and group shop on h3" in one for one in notices), notices
    for number, host in ((2, "h2"), (3, "h3")):
        projects.start("shop", "web", host, number)
    app.wait(lambda: up_of(app, "web", "shop") == (3, 3), 5.0, "not one service of three")


def test_a_network_that_refuses_shared_names_answers_them_inside_the_projects_only(cluster: Cluster) -> None:
    made = cluster.netagent("h1", "network", "create", "app", "--shared-names", "refuse")
    assert made["shared_names"] == "refuse"
    assert cluster.try_netagent("h1", "network", "create", "app").status == 4
    projects = Projects(cluster)
    for project in PROJECTS:
        projects.wait_found(project, f"{project}-web-1")
    cluster.wait(lambda: cluster.ask("plain", "db.blog").data == projects.own("blog"), 5.0, "no db.blog")
    assert cluster.ask("plain", "db").status == "NXDOMAIN"
    found = json.loads(cluster.try_netagent("h3", "lookup", "db", "--from", "plain", "--json").stdout)
    assert "network app refuses shared names: db is shared by 2 groups: blog (" in found["reason"], found


def up_of(app: Cluster, name: str, group: str) -> tuple[int, int] | None:
    services: list[dict[str, Any]] = app.netagent("h1", "services")
    found = [one for one in services if (one["name"], one["group"]) == (name, group)]
    return (found[0]["answering"], found[0]["endpoint_count"]) if len(found) == 1 else None
