"""The lab itself, without agents: hosts that believe they are alone, faults, power, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from netlab import cgroups, fabric, host, programs
from netlab.errors import LabError
from netlab.host import keepers
from netlab.lab import Lab
from netlab.process import ProcessId, wait_until
from netlab.state import Faults, chosen_dir
from netlab.topology import from_file, of_hosts

pytestmark = pytest.mark.lab

LAB = str(programs.REPOSITORY / "netns-lab" / "lab")


def lab_command(lab: Lab, *arguments: str) -> programs.Finished:
    """As typed in a shell."""
    return programs.run([sys.executable, LAB, *arguments], env={**os.environ, "NETLAB_DIR": str(lab.folder)})


def reaches(lab: Lab, host: str, address: str, *options: str) -> bool:
    """By the one ping that is sent."""
    return lab.host(host).run(["ping", "-c", "1", "-W", "1", *options, address]).status == 0


def await_reached(lab: Lab, host: str, address: str, *options: str) -> None:
    # The kernel asks for a MAC three times, a second apart. When a cut swallowed all three, a packet sent after the
    # cut is refused with the ones that waited, and only the next asks anew.
    wait_until(lambda: reaches(lab, host, address, *options), 10.0, f"{host} does not reach {address}")


def listening(lab: Lab, host: str, port: int) -> bool:
    return bool(lab.host(host).must(["ss", "-Hltn", f"sport = :{port}"]))


def test_hosts_reach_each_other_and_share_nothing_else(bare_lab: Lab) -> None:
    await_reached(bare_lab, "h1", "192.0.2.2")
    await_reached(bare_lab, "h3", "192.0.2.1")
    h1, h2 = bare_lab.host("h1"), bare_lab.host("h2")
    for folder in ("/etc", "/var/lib", "/run"):
        h1.must(["touch", f"{folder}/only-h1"])
        assert h2.run(["test", "-e", f"{folder}/only-h1"]).status == 1
        assert not Path(folder, "only-h1").exists()
    assert h1.must(["hostname"]) == "h1\n"
    for file in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        assert h1.must(["cat", file]) != h2.must(["cat", file])
    assert sorted(h1.must(["ls", "/sys/class/net"]).split()) == ["eth0", "lo"]


def test_what_cannot_be_done_is_said_in_a_sentence(bare_lab: Lab) -> None:
    itself = lab_command(bare_lab, "cut", "h1", "h1")
    assert (itself.status, itself.stderr) == (2, "lab: cannot cut h1 from itself: name two hosts\n")
    nowhere = programs.run([sys.executable, LAB, "up"], env={**os.environ, "NETLAB_DIR": "/proc/nowhere"})
    assert nowhere.status == 5
    assert re.fullmatch(r"lab: .*No such file or directory: '/proc/nowhere'\n", nowhere.stderr)
    reads, writes = os.pipe()
    os.close(reads)
    unread = subprocess.Popen(
        [sys.executable, LAB, "status"],
        stdout=writes,
        stderr=subprocess.PIPE,
        env={**os.environ, "NETLAB_DIR": str(bare_lab.folder)},
    )
    os.close(writes)
    assert unread.stderr is not None
    with unread.stderr as complaints:
        assert (complaints.read(), unread.wait(10)) == (b"", 141)


def test_nothing_is_added_to_the_machine(new_lab: Callable[[], Lab]) -> None:
    def machine() -> tuple[str, str, str]:
        return (
            programs.must(["ip", "-br", "address"]),
            programs.must(["ip", "route"]),
            programs.must(["nft", "list", "tables"]),
        )

    before = machine()
    lab = new_lab()
    lab.up(of_hosts(2), agents=False)
    assert machine() == before
    lab.down()
    assert lab.remains() == []
    assert machine() == before


LISTEN = """
import os, socket, time
os.makedirs("/run/netagent")
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/netagent/netagent.sock")
listener.listen()
open("/run/listener.pid", "w").write(str(os.getpid()))
time.sleep(1000)
"""


def test_an_agent_has_not_started_while_another_process_answers(
    bare_lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "AGENT_S", 0.5)
    h1 = bare_lab.host("h1")
    h1.start(["python3", "-c", LISTEN], tmp_path / "listener.log")
    h1.start(["sh", "-c", "echo $$ >/run/lab-agent.pid; exec sleep 1000"], tmp_path / "agent.log")
    listener, agent = h1.path("/run/listener.pid"), h1.path("/run/lab-agent.pid")
    wait_until(lambda: all(f.exists() and f.read_text() for f in (listener, agent)), 5.0, "not begun")
    assert h1.agent_running
    with pytest.raises(LabError, match="does not answer"):
        h1.wait_agent()
    agent.write_text(listener.read_text())
    h1.wait_agent()


def test_a_host_dies_at_once_and_keeps_its_disk(bare_lab: Lab) -> None:
    bare_lab.add_container("c1", "h1", [], ["sleep", "1000"])
    host = bare_lab.host("h1")
    boot_id = host.must(["cat", "/proc/sys/kernel/random/boot_id"])
    machine_id = host.must(["cat", "/etc/machine-id"])
    host.must(["sh", "-c", "echo kept >/var/lib/kept; echo lost >/run/lost"])
    bare_lab.power_off("h1")
    assert not reaches(bare_lab, "h2", "192.0.2.1")
    with pytest.raises(LabError, match="h1 has no power"):
        bare_lab.host("h1").must(["true"])
    assert not bare_lab.container("c1").exists

    assert bare_lab.power_on("h1") == []
    host = bare_lab.host("h1")
    assert host.must(["cat", "/var/lib/kept"]) == "kept\n"
    assert host.run(["test", "-e", "/run/lost"]).status == 1
    assert host.must(["cat", "/etc/machine-id"]) == machine_id
    assert host.must(["cat", "/proc/sys/kernel/random/boot_id"]) != boot_id
    wait_until(
        lambda: "sleep" in bare_lab.container("c1").run(["ps", "ax"]).stdout, 10.0, "its program is not there"
    )
    await_reached(bare_lab, "h2", "192.0.2.1")


def test_containers_are_namespaces_with_their_own_resolv_conf(bare_lab: Lab) -> None:
    bare_lab.add_container("c1", "h1", [])
    h1 = bare_lab.host("h1")
    h1.must(["sh", "-c", "mkdir -p /etc/netns/c1; echo 'nameserver 127.0.0.11' >/etc/netns/c1/resolv.conf"])
    assert bare_lab.container("c1").run(["cat", "/etc/resolv.conf"]).stdout == "nameserver 127.0.0.11\n"
    assert "127.0.0.11" not in h1.must(["cat", "/etc/resolv.conf"])
    assert bare_lab.container("c1").run(["ls", "/sys/class/net"]).stdout == "lo\n"
    with pytest.raises(LabError, match="there is a container c1 on h1"):
        bare_lab.add_container("c1", "h2", [])
    bare_lab.remove_container("c1", kill=True)
    assert h1.must(["ip", "netns"]) == ""


def test_a_container_that_cannot_be_attached_is_not_there(bare_lab: Lab) -> None:
    with pytest.raises(LabError) as refused:
        bare_lab.add_container("c1", "h1", ["--network", "app"])
    assert refused.value.exit_status != 0
    assert bare_lab.host("h1").must(["ip", "netns"]) == ""
    assert bare_lab.overview().containers == []


def test_cuts_are_one_way_or_both_and_heal(bare_lab: Lab) -> None:
    bare_lab.cut("h1", "h2", one_way=True)
    assert not reaches(bare_lab, "h1", "192.0.2.2")
    await_reached(bare_lab, "h1", "192.0.2.3")
    bare_lab.heal()
    await_reached(bare_lab, "h1", "192.0.2.2")
    bare_lab.cut("h3", "h2")
    assert not reaches(bare_lab, "h2", "192.0.2.3")
    await_reached(bare_lab, "h2", "192.0.2.1")


def test_a_blocked_port_is_silent_and_others_are_not(bare_lab: Lab) -> None:
    for port in (7956, 7957):
        bare_lab.host("h2").start(["python3", "-m", "http.server", str(port)], Path(os.devnull))
        wait_until(lambda: listening(bare_lab, "h2", port), 10.0, "no server")
    bare_lab.block("h2", 7956)

    def fetch(port: int) -> int:
        return (
            bare_lab.host("h1").run(["curl", "-s", "-m", "1", "-o", "/dev/null", f"192.0.2.2:{port}"]).status
        )

    assert fetch(7957) == 0
    assert fetch(7956) == 28  # curl's time-out: dropped, not refused
    bare_lab.heal()
    assert fetch(7956) == 0


def test_loss_and_small_cables(bare_lab: Lab) -> None:
    bare_lab.shrink("h2", 1280)
    big = ("-s", "1300", "-M", "do")
    assert not reaches(bare_lab, "h1", "192.0.2.2", *big)
    await_reached(bare_lab, "h1", "192.0.2.2")
    await_reached(bare_lab, "h1", "192.0.2.3", *big)
    bare_lab.lose("h3", 100)
    assert not reaches(bare_lab, "h1", "192.0.2.3")
    bare_lab.heal()
    await_reached(bare_lab, "h1", "192.0.2.2", *big)
    await_reached(bare_lab, "h1", "192.0.2.3")


def test_faults_survive_a_power_cut(bare_lab: Lab) -> None:
    bare_lab.shrink("h1", 1280)
    bare_lab.cut("h1", "h3")
    bare_lab.power_off("h1")
    bare_lab.power_on("h1")
    await_reached(bare_lab, "h2", "192.0.2.1")
    assert not reaches(bare_lab, "h2", "192.0.2.1", "-s", "1300", "-M", "do")
    assert not reaches(bare_lab, "h3", "192.0.2.1")


def test_the_rules_are_exactly_the_faults() -> None:
    assert "drop" not in fabric.render_rules(Faults())
    rules = fabric.render_rules(Faults([("h1", "h2")], [("h3", 53)], {"h1": 2.5, "h2": 100}, {"h3": 1400}))
    assert rules.splitlines()[5:-2] == [
        '    iifname "h1" oifname "h2" drop',
        '    iifname "h3" meta l4proto { tcp, udp } th dport 53 drop',
        '    oifname "h3" meta l4proto { tcp, udp } th dport 53 drop',
        '    iifname "h1" numgen random mod 10000 < 250 drop',
        '    oifname "h1" numgen random mod 10000 < 250 drop',
        '    iifname "h2" drop',
        '    oifname "h2" drop',
        '    iifname "h3" meta length > 1400 drop',
        '    oifname "h3" meta length > 1400 drop',
    ]


def test_a_crashed_host_can_be_booted_again(bare_lab: Lab) -> None:
    next(keeper for keeper in keepers(bare_lab._fabric) if keeper.host == "h2").process.kill()
    assert not bare_lab.host("h2").has_power
    assert bare_lab.power_on("h2") == []
    await_reached(bare_lab, "h1", "192.0.2.2")


@pytest.mark.parametrize("damage", ["file lost", "file damaged", "killed while going up"])
def test_a_lab_that_crashed_is_removed_whole(new_lab: Callable[[], Lab], damage: str) -> None:
    lab = new_lab()
    if damage == "killed while going up":
        process = subprocess.Popen(
            [sys.executable, LAB, "up", "--no-agent", "--hosts", "8"],
            env={**os.environ, "NETLAB_DIR": str(lab.folder)},
        )
        with process:
            wait_until(lambda: len(keepers(lab._fabric)) >= 2, 10.0, "no host came up", every_s=0.001)
            process.kill()
    else:
        lab.up(of_hosts(2), agents=False)
        file = lab.folder / "state.json"
        file.unlink() if damage == "file lost" else file.write_text("{")
    processes = [keeper.process for keeper in keepers(lab._fabric)]
    assert processes
    lab.down()
    assert lab.remains() == []
    assert not any(process.alive for process in processes)


def test_control_groups_of_a_host_end_with_it(bare_lab: Lab) -> None:
    h1 = bare_lab.host("h1")
    h1.must(
        ["sh", "-c", 'for file in $(cat /run/.cgroups); do mkdir -p "${file%/*}/runtime/container"; done']
    )
    groups = cgroups.named(re.compile(f"{bare_lab.folder.name}-h1"))
    assert groups
    assert {str(group) for group in groups} <= set(bare_lab.remains())
    bare_lab.power_off("h1")
    assert not any(group.exists() for group in groups)


def test_two_labs_side_by_side(new_lab: Callable[[], Lab]) -> None:
    one, other = new_lab(), new_lab()
    one.up(of_hosts(1), agents=False)
    other.up(of_hosts(1), agents=False)
    one.down()
    assert other.host("h1").must(["hostname"]) == "h1\n"


def test_the_command_line(new_lab: Callable[[], Lab]) -> None:
    lab = new_lab()
    nothing = lab_command(lab, "status")
    assert (nothing.status, nothing.stdout) == (4, "")
    assert "lab up" in nothing.stderr
    up = lab_command(lab, "up", "--no-agent", "--hosts", "2")
    assert (up.status, up.stdout) == (0, "2 hosts are up: h1 192.0.2.1, h2 192.0.2.2\n")
    assert lab_command(lab, "up", "--no-agent").status == 4
    assert lab_command(lab, "host", "h2", "--", "sh", "-c", "hostname; exit 7").status == 7
    assert lab_command(lab, "host", "h9", "--", "true").status == 2
    assert lab_command(lab, "host", "h1").status == 2
    assert lab_command(lab, "container", "h1", "c1", "--", "sleep", "100").status == 0
    assert lab_command(lab, "exec", "c1", "--", "cat", "/etc/hostname").stdout == "h1\n"
    assert lab_command(lab, "exec", "c2", "--", "true").status == 2
    assert lab_command(lab, "cut", "h1", "h2", "--one-way").status == 0
    assert lab_command(lab, "loss", "h1", "101").status == 2
    assert lab_command(lab, "power", "h2", "off").status == 0
    assert lab_command(lab, "power", "h2", "off").status == 4
    assert lab_command(lab, "status").stdout == (
        "h1    192.0.2.1    power on   agent not running\n"
        "h2    192.0.2.2    power off\n"
        "container c1 on h1\n"
        "cut: h1 -> h2\n"
    )
    assert lab_command(lab, "rm", "c1", "--kill").status == 0
    assert lab_command(lab, "down").status == 0
    assert lab_command(lab, "down").status == 0


def test_the_lab_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The capability lets no user read a checkout below a home folder, which Debian closes to others.
    reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    refused = programs.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", *reading, "/usr/bin/python3", LAB, "status"]
    )
    assert refused.status == 4
    assert "sudo" in refused.stderr
    monkeypatch.setattr(programs, "environment", lambda: {"PATH": str(tmp_path)})
    with pytest.raises(LabError, match=r"missing nft, no-such: .*apt-get install nftables no-such"):
        programs.require(["nft", "no-such"])


@pytest.mark.parametrize("name", ["relative/natlab", "/run/Upper", "/run/1st", "/run/" + "x" * 41])
def test_a_folder_that_cannot_name_namespaces_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NETLAB_DIR", name)
    with pytest.raises(LabError) as refused:
        chosen_dir()
    assert refused.value.exit_status == 2


def test_a_program_that_hangs_is_ended_with_its_children(bare_lab: Lab) -> None:
    with pytest.raises(LabError, match="did not end within"):
        bare_lab.host("h1").run(["sh", "-c", "sleep 333 & wait"], timeout_s=0.5)
    wait_until(lambda: "sleep 333" not in bare_lab.host("h1").must(["ps", "ax"]), 5.0, "sleep lives on")


def test_topology_files(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(
        'hosts = 2\nnetworks = [["app"]]\n[container.db]\nhost = "h2"\nattach = ["--network", "app"]\n'
        'command = ["sleep", "9"]\n'
    )
    plan = from_file(file)
    assert plan.hosts == {"h1": "192.0.2.1", "h2": "192.0.2.2"}
    assert plan.networks == [["app"]]
    assert (plan.containers["db"].host, plan.containers["db"].command) == ("h2", ["sleep", "9"])
    assert not plan.nat
    file.write_text("hosts = 2\nnat = ['h2']\n")
    assert from_file(file).nat == {"h2"}
    file.write_text("hosts = 17\nipv6 = true\n")
    assert from_file(file).hosts["h17"] == "2001:db8::11"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hosts = 0", "1 to 60"),
        ("hosts = 'three'", "1 to 60"),
        ("hosts = [", "not valid TOML"),
        ("host = 3", "unknown key host"),
        ("ipv6 = 1", "true or false"),
        ("nat = ['h9']", "h9"),
        ("ipv6 = true\nnat = ['h1']", "IPv4"),
        ("networks = ['app']", "list of texts"),
        ("[container.a]\nhost = 'h9'", "h9"),
        ("[container.a]\nhost = 'h1'\nimage = 'x'", "unknown key image"),
        ("container = 3", "topology"),
    ],
)
def test_bad_topology_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(text)
    with pytest.raises(LabError, match=complaint) as refused:
        from_file(file)
    assert refused.value.exit_status == 2


def test_a_process_number_given_to_another_process_is_not_ours() -> None:
    ours = ProcessId.of(os.getpid())
    assert ours.alive
    assert not ProcessId(ours.pid, ours.started + 1).alive
    with contextlib.suppress(LabError):
        ProcessId.of(2**22 + 1)
        pytest.fail("there is no such process")


def test_a_host_gets_another_address_and_a_second_uplink(bare_lab: Lab) -> None:
    assert lab_command(bare_lab, "address", "h2", "192.0.2.22").status == 0
    await_reached(bare_lab, "h1", "192.0.2.22")
    for refused in ("192.0.2.3", "192.0.2.254", "198.51.100.2", "h2"):
        assert lab_command(bare_lab, "address", "h2", refused).status == 2
    bare_lab.power_off("h2")
    assert lab_command(bare_lab, "uplink", "h2").status == 4
    bare_lab.power_on("h2")
    assert "192.0.2.22/24" in bare_lab.host("h2").must(["ip", "-br", "address"]), "it keeps it"
    assert lab_command(bare_lab, "uplink", "h1").stdout == "198.51.100.1\n"
    assert lab_command(bare_lab, "uplink", "h2").stdout == "198.51.100.22\n"
    await_reached(bare_lab, "h1", "198.51.100.22")


def test_hosts_behind_nat_reach_others_and_are_not_reached(new_lab: Callable[[], Lab]) -> None:
    lab = new_lab()
    up = lab_command(lab, "up", "--no-agent", "--nat", "h2", "--nat", "h3")
    assert up.stdout == "3 hosts are up: h1 192.0.2.1, h2 192.0.2.2, h3 192.0.2.3\n", up.stderr
    addresses = {lab.host(name).must(["hostname", "-I"]) for name in ("h2", "h3")}
    assert len(addresses) == 1, "each has its own network behind its router, with the same addresses"
    for name in ("h2", "h3"):
        await_reached(lab, name, "192.0.2.1")
    h1 = lab.host("h1")
    h1.must(["ip", "route", "add", "192.168.1.0/24", "via", "192.0.2.3"])
    assert not reaches(lab, "h1", "192.168.1.2")
    assert lab_command(lab, "address", "h3", "192.0.2.33").status == 0
    await_reached(lab, "h3", "192.0.2.1")
    await_reached(lab, "h1", "192.0.2.33")
    lab.power_off("h3")
    lab.power_on("h3")
    await_reached(lab, "h3", "192.0.2.1")
    assert not reaches(lab, "h1", "192.0.2.3")
    assert lab_command(lab, "down").status == 0
