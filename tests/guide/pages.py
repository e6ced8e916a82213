"""The pages whose commands a test types, and what each takes for granted.

Each document that shows a command has a row here, or stands in `ELSEWHERE`; each command of a page is typed, or
stands in its row under `left_out` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from guide.reader import ROOT, Action, Page, Reader, Typed
from guide.shown import blocks, commands

HOW_TO = "docs/how-to"


def network(name: str, *options: str) -> Action:
    """A network."""
    return shell("h1", " ".join(("netagent network create", name, *options)))


def namespaces(*names: str) -> Action:
    """Containers of h1 that are in no network."""
    return shell("h1", "; ".join(f"ip netns add {name}" for name in names))


def all_of(*actions: Action) -> Action:
    """One after the other."""

    def act(reader: Reader) -> None:
        for action in actions:
            action(reader)

    return act


def docker_has(name: str) -> Action:
    """Docker of h1 has this network of ours."""
    return lambda reader: reader.await_docker_network("h1", name)


def podman_has(name: str) -> Action:
    """Podman of h1 has this network of ours."""
    command = f"podman network exists {name}"
    return lambda reader: reader.wait(lambda: reader.shell("h1", command).status == 0, 15.0, command)


def is_up(service: str, host: str) -> Action:
    """Names lead to the service on that host: a moment after its container has started."""
    command = f"netagent services --local --service {service} | grep -q ' 1/1 '"
    return lambda reader: reader.wait(lambda: reader.shell(host, command).status == 0, 15.0, command)


def docker_network(name: str, *options: str) -> Action:
    """A network that Docker has on all hosts."""

    def act(reader: Reader) -> None:
        network(name, *options)(reader)
        for host in reader.hosts:
            reader.await_docker_network(host, name)

    return act


def docker(host: str, options: str) -> Action:
    """A container of Docker in the network app."""

    def act(reader: Reader) -> None:
        reader.await_docker_network(host, "app")
        reader.must(host, f"docker run -d --network app {options}")

    return act


def block_of(page: str, language: str) -> str:
    """The first block of that language on a how-to page."""
    text = (ROOT / HOW_TO / page).read_text(encoding="utf-8")
    return next("\n".join(lines) + "\n" for _, found, lines in blocks(text) if found == language)


def hosts(*names: str) -> Action:
    """The page's names of hosts are in their /etc/hosts."""

    def act(reader: Reader) -> None:
        lines = "".join(f"{host.address} {host.name}\n" for host in reader.lab.hosts)
        for name in names:
            reader.must(name, "grep -q ' h1$' /etc/hosts || cat >>/etc/hosts", stdin=lines)

    return act


def shell(host: str, line: str) -> Action:
    """A line of a shell that the page takes for granted."""

    def act(reader: Reader) -> None:
        reader.must(host, line)

    return act


def inside(host: str, container: str, line: str) -> Action:
    """A line of a shell in a container."""

    def act(reader: Reader) -> None:
        assert reader.shell(host, line, inside=container).status == 0

    return act


def serves(host: str, name: str, port: int, *options: str) -> Action:
    """A container with a web server."""
    return lambda reader: reader.serves(host, name, port, *options)


def attached(host: str, name: str, *options: str) -> Action:
    """A container without a program."""

    def act(reader: Reader) -> None:
        reader.attach(host, name, *options)

    return act


def configured(host: str, text: str) -> Action:
    """The agent of a host with further keys; without text, as it was."""

    def act(reader: Reader) -> None:
        with reader.agent_of(host) as changing:
            file = changing.path("/etc/netagent/conf.d/guide.toml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            changing.stop_agent()
            changing.start_agent()
        reader.join_again()

    return act


def answers(host: str) -> Callable[[Reader, str], bool]:
    """Whether the agent that was started answers."""
    return lambda reader, _: (
        reader.shell(host, "netagent version && test -S /run/netagent/netagent.sock").status == 0
    )


def written(path: str) -> Callable[[Reader, str], bool]:
    """Whether the command has written this file of h1."""
    return lambda reader, _: reader.shell("h1", f"test -s {path}").status == 0


def prints(pattern: str, meanwhile: Action | None = None) -> Callable[[Reader, str], bool]:
    """Whether the command has printed this; each look does something before."""

    def look(reader: Reader, printed: str) -> bool:
        if meanwhile:
            meanwhile(reader)
        return re.search(pattern, printed) is not None

    return look


CONTAINER = next(
    one.typed
    for one in commands((ROOT / HOW_TO / "install.md").read_text(encoding="utf-8"))
    if one.typed.startswith("podman run")
)
FIRST_MINUTE = (
    "sudo apt install ./netagent_0.1.0_amd64.deb",
    "sudo netagent init --network app --docker",
    "sudo netagent add root@h2 --docker",
    "sudo docker run -d --network app --name web nginx",
    "sudo docker run --rm --network app alpine wget -qO- http://web",
    "sudo netagent init --network app",
    "sudo netagent add root@h2",
    (
        "sudo systemd-run --unit web --property PrivateNetwork=yes --property Type=exec --property "
        "'ExecStartPost=+netagent attach unit:web --network app' python3 -m http.server 80"
    ),
    "sudo ip netns add client",
    "sudo netagent attach netns:client --network app",
    "sudo ip netns exec client curl http://web",
)
NO_SSHD = "the lab's hosts run no sshd; tests/boot/test_add.py has one"
NO_SYSTEMD = "the lab's hosts run no systemd: tests/boot/test_systemd.py does this"
NEEDS_INTERNET = "fetches packages from the internet; tests/boot/test_package.py installs what is built here"
OF_THE_MACHINE = "is what runs these tests"

# -- README.md -----------------------------------------------------------------------------------------------------


def away(reader: Reader) -> None:
    """Hosts whose agents run and that have never been in a cluster, as the package leaves them."""
    for host in reader.hosts:
        reader.shell(host, "netagent leave --drain 0s")


def second_replica(reader: Reader) -> None:
    """The page says: attach two."""
    reader.must("h1", "docker rm -f shop")
    reader.must("h3", "ip netns add web2; netagent attach netns:web2 --network app --service web")


def third_member_dies(reader: Reader) -> None:
    """The second time that the page shows the members."""
    if "sudo netagent members" in reader.printed:
        with reader.agent_of("h3") as changing:
            changing.kill_agent()


def third_host_dies(reader: Reader) -> None:
    """A power cut."""
    reader.lab.power_off("h3")


def third_host_returns(reader: Reader) -> None:
    """What the page says: without a command."""
    assert reader.lab.power_on("h3") == []
    with reader.agent_of("h3") as changing:
        if not changing.agent_running:  # it starts with the host, unless it was killed before
            changing.start_agent()
    reader.wait(lambda: sorted(reader.alive("h1")) == reader.hosts, 30.0, "h3 has not returned")


# -- events.md -----------------------------------------------------------------------------------------------------


def things_happen(reader: Reader) -> None:
    """One after the other, as h1 sees them."""

    def await_event(text: str) -> None:
        """Wait for it by its own words: the same host has caused other events within the minute."""
        command = f"netagent events --since 1m | grep -q '{text}'"
        reader.wait(lambda: reader.shell("h1", command).status == 0, 20.0, f"no event {text}")

    reader.must("h1", "ip netns add web; netagent attach netns:web --network app")
    reader.must("h1", "ip link set $(ip -o link | grep -o 'nx-[0-9a-f]*' | head -n 1) down")
    await_event("device-down: .*  by kernel")
    with reader.agent_of("h2") as changing:
        changing.kill_agent()
    await_event("does not answer; its kernel does  by host h2")
    reader.must("h3", "netagent network rm db")
    await_event("removed network db  by host h3")


# -- flows.md ------------------------------------------------------------------------------------------------------


def opened(reader: Reader) -> None:
    """A linked client and one without a link have connected to a database of another host."""
    network("app", "--policy", "links")(reader)
    reader.serves("h2", "db1", 5432, "--service", "db")
    for client, options in (("web1", ("--service", "web", "--link", "db")), ("job1", ())):
        reader.attach("h1", client, *options)
    reader.wait(lambda: reader.finds("web1", "db"), 10.0, "no name db")
    connects = "exec 3<>/dev/tcp/$(getent ahostsv4 db1 | sed 's/ .*//;q')/5432"
    for _ in range(2):
        reader.must("h1", connects, inside="web1")
        assert reader.shell("h1", connects, inside="job1").status != 0


# -- troubleshooting-hosts.md --------------------------------------------------------------------------------------


def third_host_is_gone(reader: Reader) -> None:
    """Its kernel is silent, too."""
    reader.lab.power_off("h3")
    gone = "netagent members | grep -q 'dead *silent'"
    reader.wait(lambda: reader.shell("h1", gone).status == 0, 30.0, "h3 is not silent")


def third_agent_stops(reader: Reader) -> None:
    """h3 has power again, was told that it was forgotten, and came back under a new identity, by an invitation."""
    assert reader.lab.power_on("h3") == []
    is_outside = "netagent status | grep -q 'was revoked'"
    reader.wait(
        lambda: reader.shell("h3", is_outside).status == 0, 30.0, "h3 does not know that it was forgotten"
    )
    token = reader.must("h1", "netagent invite").split()[-1]
    reader.must("h3", f"echo {token} | netagent join --token-file -")
    reader.wait(lambda: sorted(reader.alive("h1")) == reader.hosts, 30.0, "h3 has not returned")
    with reader.agent_of("h3") as changing:
        changing.stop_agent()


# -- projects.md ---------------------------------------------------------------------------------------------------

DB = (
    "docker run -d --network app --label netagent.group={0} --label netagent.service=db --name {0}-db-1 nginx"
)


def two_projects(reader: Reader) -> None:
    """Containers with the labels that compose would give them."""
    reader.must("h1", "netagent network create app")
    for host, project in (("h1", "shop"), ("h2", "blog")):
        reader.await_docker_network(host, "app")
        reader.must(host, DB.format(project))
    for name in ("web", "web-2", "web-3"):
        labels = "--label netagent.group=shop --label netagent.service=web"
        reader.must("h1", f"docker run -d --network app {labels} --name {name} nginx")


# -- replicas.md ---------------------------------------------------------------------------------------------------


def nothing_in(name: str) -> Action:
    """The network does not exist yet."""

    def act(reader: Reader) -> None:
        reader.clear()
        reader.must("h1", f"netagent network rm {name} --force")

    return act


def near_and_far(reader: Reader) -> None:
    """A replica on this host and one on another."""
    for host in ("h1", "h2"):
        reader.attach(host, f"web-{host[1:]}", "--service", "web", "--expose", "http=80/tcp")
    reader.attach("h1", "cli")


# -- service-addresses.md ------------------------------------------------------------------------------------------


def two_replicas(reader: Reader) -> None:
    """Web servers on two hosts, and a client."""
    network("app", "--host-access")(reader)
    for host in ("h1", "h2"):
        reader.serves(host, f"web-{host[1:]}", 80, "--service", "web")


CONNECTED = "exec 3<>/dev/tcp/$(getent ahostsv4 web | sed 's/ .*//;q')/80 && { sleep 20 >/dev/null 2>&1 & }"
"""A connection that stays open for a while. Either replica may have it, and the one that is drained for 30 s too."""

# -- service-records.md --------------------------------------------------------------------------------------------


def attached_anew(options: str = "") -> Action:
    """web1 is in no network; with options, it is attached with them."""

    def act(reader: Reader) -> None:
        reader.shell("h1", "netagent detach web1 --drain 0s")
        if options:
            reader.must("h1", f"netagent attach netns:web1 --network app {options}")

    return act


# -- tokens.md -----------------------------------------------------------------------------------------------------


def asks_from_h2(reader: Reader) -> None:
    """Certificate and token are on h2, which knows h1 by name."""
    hosts("h2")(reader)
    configured("h1", 'http = "0.0.0.0:7958"\n')(reader)
    certificate = reader.must("h1", "cat /run/netagent/http-ca.crt")
    token = reader.printed["sudo netagent token create grafana --read --ttl 90d"]
    reader.must("h2", "cat >h1.crt", stdin=certificate)
    reader.must("h2", "cat >grafana.token", stdin=token)


SUBNETS = "--subnet 10.164.0.0/20 --subnet fd5c:ddad:235c:a9a7::/64"
WEB_AGAIN = Typed(before=shell("h1", "podman rm -f -t 0 web"))

PAGES: dict[str, Page] = {
    "README.md": Page(
        before=away,
        typed={
            "sudo netagent join": Typed("h2", answer=lambda reader: reader.printed["sudo netagent invite"]),
            "sudo ip netns add web": Typed("h2"),
            "sudo netagent attach netns:web --network app --link db:database": Typed("h2"),
            "sudo ip netns exec web ping -c 1 database": Typed("h2"),
            "sudo netagent publish web 8080:80": Typed("h2"),
            "docker run -d --network app --name shop nginx": Typed(before=docker_has("app")),
            "sudo netagent services": Typed(before=second_replica),
            "sudo netagent members": Typed(before=third_member_dies),
            "sudo netagent services --service web": Typed(before=third_host_dies),
            "sudo netagent status": Typed(before=third_host_returns),
            "sudo netagent detach web": Typed("h2"),
        },
        left_out={
            "sudo make demo": "tests/lab/test_demo.py runs it",
            "sudo make test": OF_THE_MACHINE,
            "sudo apt install ./dist/netagent_0.1.0_amd64.deb": "tests/boot/test_package.py installs it",
            "sudo netagent add root@h2": "tests/boot/test_add.py adds hosts",
        },
        after=all_of(shell("h2", "netagent leave"), shell("h3", "netagent leave")),
    ),
    f"{HOW_TO}/access-policy.md": Page(before=namespaces("db", "web", "cache")),
    f"{HOW_TO}/change-a-network.md": Page(before=network("shop")),
    f"{HOW_TO}/checks.md": Page(
        before=all_of(
            network("app"),
            namespaces("web1", "web4"),
            shell("h1", "mkdir -p www; touch www/healthz"),
            shell("h1", "(ip netns exec web1 busybox httpd -p 8080 -h www)"),
        ),
        typed={
            "sudo docker run -d --network app --name web2 -l netagent.check=http:8080/healthz shop": Typed(
                "h2"
            ),
            "sudo podman run -d --network app --name web3 -l netagent.check=tcp:8080 shop": Typed("h3"),
            "sudo netagent endpoints": Typed(
                before=lambda reader: (
                    reader.wait(
                        lambda: all(one["state"] == "up" for one in reader.held("h1")), 20.0, "not up"
                    )
                    and shell("h2", "docker exec web2 rm /www/healthz")(reader)
                )
            ),
        },
    ),
    f"{HOW_TO}/cluster-file.md": Page(
        typed={
            "sudo netagent apply cluster.toml --dry-run": Typed(
                before=lambda reader: reader.must(
                    "h1", "cat >cluster.toml", stdin=block_of("cluster-file.md", "toml")
                ),
                status=1,
            ),
            "sudo netagent apply cluster.toml": Typed(answer=lambda _: "y\n"),
        },
        left_out={
            "sudo netagent apply next.toml": "tests/netagent/cli/test_file_commands.py has files with faults",
        },
        after=lambda reader: reader.must("h2", "netagent network inspect shop | grep -q audit"),
    ),
    f"{HOW_TO}/dashboard.md": Page(left_out={"ssh -L 7958:127.0.0.1:7958 root@h1": NO_SSHD}),
    f"{HOW_TO}/diagnostics.md": Page(after=shell("h1", "tar -tzf netagent-report-*.tar.gz >/dev/null")),
    f"{HOW_TO}/drain.md": Page(
        before=all_of(network("app"), docker("h1", "--name web nginx")),
        replaced={"anna": "root"},
        typed={"sudo netagent drain web": Typed(before=shell("h1", "docker start web"))},
    ),
    f"{HOW_TO}/egress.md": Page(),
    f"{HOW_TO}/events.md": Page(
        before=all_of(network("app"), network("db")),
        typed={
            "netagent events --since 1h": Typed(before=things_happen),
            "netagent events -f": Typed(
                lasts_until=prints(
                    r"removed network passing",
                    shell("h1", "netagent network create passing; netagent network rm passing"),
                )
            ),
        },
        left_out=dict.fromkeys(
            (
                "journalctl -u netagent NETAGENT_EVENT=network",
                "journalctl -u netagent NETAGENT_AUTHOR=alice -o json",
            ),
            NO_SYSTEMD,
        ),
    ),
    f"{HOW_TO}/external-services.md": Page(before=network("app")),
    f"{HOW_TO}/feeds.md": Page(
        before=all_of(docker_network("app", "--host-access"), attached("h1", "cli")),
        replaced={"caddy run --config -": "grep apps"},
        typed={
            **{
                line: Typed(inside="cli")
                for line in (
                    "curl http://127.0.0.11:7953/prometheus",
                    "curl 'http://127.0.0.11:7953/caddy?upstream=service'",
                    "curl -s http://127.0.0.11:7953/caddy | caddy run --config -",
                )
            },
            "sudo netagent feed prometheus --watch --file /etc/prometheus/netagent.json": Typed(
                lasts_until=written("/etc/prometheus/netagent.json")
            ),
            "sudo netagent feed traefik --network app --watch --file /etc/traefik/netagent.yaml": Typed(
                before=shell("h1", "mkdir -p /etc/traefik"), lasts_until=written("/etc/traefik/netagent.yaml")
            ),
            "sudo netagent feed caddy --network app --watch --file /etc/caddy/netagent.json": Typed(
                before=shell("h1", "mkdir -p /etc/caddy"), lasts_until=written("/etc/caddy/netagent.json")
            ),
        },
        left_out=dict.fromkeys(
            (
                "sudo netagent feed services --network app --watch --file /run/app.json &",
                "sudo python3 feed-haproxy.py /run/app.json web.app 7080 /run/haproxy.cfg /run/haproxy.pid &",
            ),
            "tests/lab/test_feeds.py runs this program of the page with HAProxy",
        ),
    ),
    f"{HOW_TO}/firewall-ports.md": Page(
        before=lambda reader: reader.must("h3", "nft -f -", stdin=block_of("firewall-ports.md", "nft")),
        typed={"sudo netagent doctor": Typed("h3")},
        after=shell("h3", "nft delete table inet host_firewall"),
    ),
    f"{HOW_TO}/flows.md": Page(
        before=opened,
        replaced={"dot -Tsvg": "grep digraph"},
    ),
    f"{HOW_TO}/install.md": Page(
        left_out={
            **dict.fromkeys(FIRST_MINUTE, "tests/boot/test_first_minute.py types what they say"),
            "sudo apt install ./dist/netagent_0.1.0_amd64.deb": "tests/boot/test_package.py installs it with dpkg",
            "sudo python3 -m venv /opt/netagent": NEEDS_INTERNET,
            "sudo /opt/netagent/bin/pip install --require-hashes --requirement packaging/requirements.txt": (
                NEEDS_INTERNET
            ),
            "sudo /opt/netagent/bin/pip install --no-deps .": NEEDS_INTERNET,
            "sudo ln -s /opt/netagent/bin/netagent /usr/local/bin/netagent": NEEDS_INTERNET,
            "sudo netagent install systemd": NO_SYSTEMD,
            "sudo systemctl enable --now netagent.service": NO_SYSTEMD,
            "netagent add root@h2": NO_SSHD,
            "netagent add root@192.0.2.7 --name db1 --docker": NO_SSHD,
            "netagent add anna@h3 --package dist/netagent_0.1.0_amd64.deb": NO_SSHD,
            "make image": NEEDS_INTERNET,
            CONTAINER: NEEDS_INTERNET,
        },
    ),
    f"{HOW_TO}/keys.md": Page(
        replaced={
            "keys use 5728646ee15d": "keys use $(netagent keys list | awk '$2 == \"standby\" {print $1}')"
        },
    ),
    f"{HOW_TO}/load-balancers.md": Page(
        before=all_of(network("app"), serves("h1", "web", 80)),
        typed={"curl -i http://127.0.0.1:7958/healthz/service/web": Typed(shows="HTTP/1.1 200")},
    ),
    f"{HOW_TO}/maintenance.md": Page(
        is_long=True,
        typed={
            "sudo netagent leave": Typed("h3", before=Reader.join_again),
            **{
                f"sudo netagent uninstall {what}": Typed("h3")
                for what in ("docker", "podman", "cni", "systemd")
            },
        },
        after=all_of(shell("h3", "netagent install docker; netagent install podman"), configured("h3", "")),
    ),
    f"{HOW_TO}/monitoring.md": Page(
        replaced={"alerts.test.yml": str(ROOT / "docs" / "monitoring" / "alerts.test.yml")}
    ),
    f"{HOW_TO}/moving-from-consul.md": Page(before=docker_network("app")),
    f"{HOW_TO}/moving-from-swarm.md": Page(
        typed={"docker run -d --network app --name shop nginx": Typed(before=docker_has("app"))}
    ),
    f"{HOW_TO}/moving-from-weave.md": Page(),
    f"{HOW_TO}/projects.md": Page(
        before=two_projects,
        typed={
            "sudo netagent lookup db --from web": Typed(
                before=shell("h1", "docker rm -f shop-db-1"), status=1
            ),
            "sudo netagent lookup db --from cli": Typed(
                before=all_of(shell("h1", DB.format("shop")), attached("h1", "cli"))
            ),
        },
    ),
    f"{HOW_TO}/published-ports.md": Page(
        before=all_of(network("app"), namespaces("web")),
    ),
    f"{HOW_TO}/replicas.md": Page(
        before=all_of(docker_network("app"), namespaces("web1", "web2")),
        typed={
            "sudo netagent network create app --answer nearest": Typed(before=nothing_in("app")),
            "dig +short SRV _http._tcp.nearest.web.app.mesh.internal": Typed(
                inside="cli", before=near_and_far
            ),
        },
    ),
    f"{HOW_TO}/runtimes/cni.md": Page(
        before=all_of(network("app"), shell("h1", "netagent install cni")),
        after=shell("h1", "netagent uninstall cni"),
    ),
    f"{HOW_TO}/runtimes/docker.md": Page(
        before=network("app", *SUBNETS.split()),
        typed={
            "docker run -d --network app --name web nginx": Typed(before=docker_has("app")),
            "docker run --rm --network app alpine wget -qO- web": Typed("h2"),
        },
        left_out={
            "sudo netagent init --network app --docker": "tests/boot/test_first_minute.py types it",
            "sudo netagent add root@h2 --docker": NO_SSHD,
        },
        after=shell("h1", "docker network rm front"),
    ),
    f"{HOW_TO}/runtimes/plain-hosts.md": Page(
        left_out=dict.fromkeys(
            (
                "sudo netagent attach unit:web --network app",
                "sudo systemd-nspawn --machine m1 --directory /var/lib/machines/m1 --private-network --boot",
                "sudo netagent attach machine:m1 --network app",
            ),
            NO_SYSTEMD,
        )
    ),
    f"{HOW_TO}/runtimes/podman.md": Page(
        typed={
            "sudo podman run -d --network app --name web nginx": Typed(before=podman_has("app")),
            "sudo podman run --rm --network app alpine wget -qO- http://web": Typed(
                "h2", before=is_up("web", "h1")
            ),
            "sudo podman run -d --network app -p 8080:80 --name web nginx": WEB_AGAIN,
            "sudo podman run -d --network app --network podman -p 8080:80 --name web nginx": WEB_AGAIN,
        },
        after=shell("h1", "podman network rm -f front"),
    ),
    f"{HOW_TO}/service-addresses.md": Page(
        before=two_replicas,
        typed={
            "ss -tn": Typed(
                inside="cli", before=all_of(attached("h1", "cli"), inside("h1", "cli", CONNECTED))
            ),
            "curl 'http://127.0.0.11:7953/traefik?upstream=service'": Typed(inside="cli"),
            "docker run -d --network app --name web -l netagent.address=true nginx": Typed(
                before=docker_has("app")
            ),
            "sudo netagent service rm web --network app": Typed(before=shell("h1", "docker rm -f web")),
        },
    ),
    f"{HOW_TO}/service-records.md": Page(
        before=all_of(docker_network("app"), namespaces("web1"), attached("h1", "cli")),
        typed={
            **{
                f"dig +short {what}": Typed(inside="cli")
                for what in (
                    "SRV _http._tcp.web.app.mesh.internal",
                    "TXT web1.app.mesh.internal",
                    "PTR _http._tcp.app.mesh.internal",
                    "SRV 'web1@h1._http._tcp.app.mesh.internal'",
                    "TXT 'web1@h1._http._tcp.app.mesh.internal'",
                    "HTTPS web.app.mesh.internal",
                )
            },
            "sudo netagent attach netns:web1 --network app --label netagent.txt.path=/shop": Typed(
                before=attached_anew()
            ),
            "dig +short PTR _services._dns-sd._udp.app.mesh.internal": Typed(
                inside="cli", before=attached_anew("--expose http=80/tcp --label netagent.txt.path=/shop")
            ),
            "sudo netagent attach netns:web1 --network app --service web --expose https=443/tcp+h2+http/1.1 "
            "--expose h3=443/udp+h3": Typed(before=attached_anew()),
            "sudo docker run -d --network app --name web2 -l netagent.expose=https=8443/tcp+h2 shop": Typed(
                before=shell("h1", "docker rm -f web2")
            ),
        },
    ),
    f"{HOW_TO}/tokens.md": Page(
        before=all_of(
            network("app"),
            shell("h1", "getent group netagent-ro || groupadd netagent-ro; id grafana || useradd grafana"),
        ),
        typed={
            "netagent --socket https://h1:7958 --ca-file h1.crt --token-file grafana.token services": Typed(
                "h2", before=asks_from_h2
            ),
            'curl --cacert h1.crt -H "Authorization: Bearer $(cat grafana.token)" https://h1:7958/v1/services': (
                Typed("h2")
            ),
        },
        left_out={"scp root@h1:/run/netagent/http-ca.crt h1.crt": NO_SSHD},
        after=configured("h1", ""),
    ),
    f"{HOW_TO}/troubleshooting-hosts.md": Page(
        is_long=True,
        typed={
            "sudo netagent forget h3": Typed(before=third_host_is_gone),
            "sudo netagent agent --seeds 192.0.2.1,192.0.2.2": Typed(
                "h3", before=third_agent_stops, lasts_until=answers("h3")
            ),
        },
        left_out={
            "sudo netagent revoke h3": "asks at a terminal; tests/lab/test_revocation.py types it with --yes"
        },
    ),
    f"{HOW_TO}/troubleshooting-paths.md": Page(),
    "docs/reference/configuration.md": Page(),
    "docs/reference/http-api.md": Page(),
}

ELSEWHERE = {
    "CONTRIBUTING.md": "says how these tests are run",
    "dns/README.md": "tests/dns/test_readme.py runs its program, and asks it as shown",
    "docs/how-to/encrypt.md": "begins a cluster, which h1 is in already; tests/lab/test_encryption.py begins one",
    "docs/how-to/language-models.md": "installs from the internet; tests/netagent/mcp talks to `netagent mcp`",
    "docs/reference/command-line.md": "lists what may be typed; `make docs` writes it",
    "netns-lab/README.md": "tests/lab/test_lab.py and tests/runtimes/test_lab_runtimes.py run these commands",
}
"""Documents that no reader follows in the lab, each with the reason."""
