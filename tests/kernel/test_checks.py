"""Checks asked in a real namespace, of servers that behave as badly as servers can."""

from __future__ import annotations

import _thread
import datetime as dt
import errno
import functools
import select
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness.namespaces import Namespace, NamespaceFactory

from netagent.checks.ask import MAX_TLS_PIECES, NetworkCheck, Question, ask_all
from netagent.checks.spec import parse_check_untrusted
from netagent.checks.state import Answer, Outcome, Unasked
from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.model.check import ExecCheck
from netagent.model.sandbox import Netns

pytestmark = pytest.mark.kernel

V4, V6, ELSEWHERE = "10.160.0.2", "fd00::2", "10.160.0.9"

Serve: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        trio.run(functools.partial(test, **fixtures))

    return run


@pytest.fixture
def container(namespaces: NamespaceFactory) -> Namespace:
    """A namespace with the endpoint's two addresses and a third one that is not the endpoint's."""
    made = namespaces("container")
    made.run("ip link set lo up")
    for address in (f"{V4}/32", f"{ELSEWHERE}/32", f"{V6}/128"):
        made.run(f"ip addr add {address} dev lo{' nodad' if ':' in address else ''}")
    return made


@asynccontextmanager
async def serving(
    container: Namespace, serve: Serve | None, port: int = 8080, address: str = V4, backlog: int = 16
) -> AsyncIterator[None]:
    """A server in the container; None: it listens and never accepts."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(backlog)
        return sock

    with opened_netns(container.path) as fd:
        plain = await run_in_netns(fd, listen)
    with trio.socket.from_stdlib_socket(plain) as sock:
        async with trio.open_nursery() as nursery:
            if serve is not None:
                nursery.start_soon(trio.serve_listeners, _bearing(serve), [trio.SocketListener(sock)])
            yield
            nursery.cancel_scope.cancel()


def _bearing(serve: Serve) -> Serve:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # the client has hung up, as it should
                await serve(stream)

    return handle


def answering(text: bytes) -> Serve:
    """A server that reads the request and sends this."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(text)

    return serve


async def ask(container: Namespace, *texts: str, addresses: tuple[str, ...] = (V4, V6)) -> list[Answer]:
    """Ask all checks at once."""
    netns = Netns(container.path, container.identity, "b" * 32)
    questions = []
    for text in texts:
        check = parse_check_untrusted(text)
        assert not isinstance(check.subject, ExecCheck)
        subject: NetworkCheck = check.subject
        questions.append(Question(subject, netns, addresses, check.timeout_s))
    found: dict[int, Answer] = {}
    await ask_all(questions, found.__setitem__)
    return [found[number] for number in range(len(questions))]


async def ask_one(container: Namespace, text: str) -> tuple[bool, str]:
    """Ask one check; return whether it succeeded, and the text."""
    (outcome,) = await ask(container, text)
    assert isinstance(outcome, Outcome)
    return outcome.is_success, outcome.text


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


@in_trio
async def test_a_server_that_answers(container: Namespace) -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        seen.append(bytes(await stream.receive_some()))
        await stream.send_all(OK)

    async with serving(container, serve):
        (outcome,) = await ask(container, "http:8080/healthz?a=1")
        assert outcome == Outcome(is_success=True, text="http 200 from 8080/healthz?a=1", shown="ok")
        assert await ask_one(container, "tcp:8080") == (True, "connected to 8080")
    request = seen[0].decode()
    assert request.startswith("GET /healthz?a=1 HTTP/1.1\r\nHost: 10.160.0.2:8080\r\n")
    assert "\r\nConnection: close\r\n" in request


@in_trio
async def test_a_server_of_ipv6_only(container: Namespace) -> None:
    async with serving(container, answering(OK), address=V6):
        assert await ask_one(container, "http:8080/") == (True, "http 200 from 8080/")
        assert await ask_one(container, "tcp:8080") == (True, "connected to 8080")


@in_trio
async def test_nothing_but_the_endpoint_s_own_addresses_is_asked(container: Namespace) -> None:
    asked: list[str] = []

    async def elsewhere(stream: trio.SocketStream) -> None:
        asked.append("asked")
        await stream.send_all(OK)

    redirect = f"HTTP/1.1 302 Found\r\nLocation: http://{ELSEWHERE}:8080/\r\n\r\n".encode()
    async with (
        serving(container, elsewhere, address=ELSEWHERE),
        serving(container, elsewhere, address="127.0.0.1"),
    ):
        assert await ask_one(container, "http:8080/") == (False, "connection refused at 8080/")
        async with serving(container, answering(redirect)):
            text = f"http 302 from 8080/, which redirects to http://{ELSEWHERE}:8080/"
            assert await ask_one(container, "http:8080/") == (False, text)
    assert asked == []


async def endless_headers(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Padding: " + b"x" * 1000 + b"\r\n")


async def one_byte_at_a_time(stream: trio.SocketStream) -> None:
    for byte in OK:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.05)


async def say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def close_at_once(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def endless_body(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b"x" * 65536)


@pytest.mark.parametrize(
    ("serve", "is_success", "text"),
    [
        (answering(b"HTTP/1.1 503 Busy\r\n\r\n"), False, "http 503 from 8080/"),
        (answering(b"SSH-2.0-OpenSSH_9.9\r\n"), False, "8080/ does not speak HTTP"),
        (answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK), True, "http 200 from 8080/"),
        (endless_headers, False, "8080/ sent more than 16 KiB of headers"),
        (one_byte_at_a_time, False, "no answer from 8080/ within 500ms"),
        (say_nothing, False, "no answer from 8080/ within 500ms"),
        (None, False, "no answer from 8080/ within 500ms"),
        (endless_body, True, "http 200 from 8080/"),
    ],
)
@in_trio
async def test_how_servers_answer(
    container: Namespace, serve: Serve | None, is_success: bool, text: str
) -> None:
    async with serving(container, serve):
        began = time.monotonic()
        assert await ask_one(container, "http:8080/ timeout=500ms") == (is_success, text)
        assert time.monotonic() - began < 5.0


@in_trio
async def test_a_server_that_closes_at_once(container: Namespace) -> None:
    async with serving(container, close_at_once):
        is_success, text = await ask_one(container, "http:8080/")
    assert not is_success
    # Whether the kernel reports an end or a reset depends on which packet comes first.
    assert text in {"8080/ closed the connection without an answer", "connection reset by 8080/"}


@in_trio
async def test_a_server_that_hangs_before_it_accepts(container: Namespace) -> None:
    """Its kernel accepts for it, until the queue is full."""
    async with serving(container, None, backlog=1):
        assert await ask_one(container, "tcp:8080 timeout=500ms") == (True, "connected to 8080")
        answers = await ask(container, *["http:8080/ timeout=500ms"] * 8)
        assert {one and one.text for one in answers} == {"no answer from 8080/ within 500ms"}
        text = "no connection to 8080 within 500ms"
        assert await ask_one(container, "tcp:8080 timeout=500ms") == (False, text)


@in_trio
async def test_a_connection_of_a_port_with_itself_is_none(container: Namespace) -> None:
    """As happens by chance, if the port that is asked is one of those that the kernel chooses for clients."""
    container.run_code("open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('40000 40001')")
    for kind, end in (("tcp", ""), ("http", "/")):
        found = await ask(container, *[f"{kind}:{port}{end}" for port in (40000, 40001) for _ in range(20)])
        assert {isinstance(one, Outcome) and (one.is_success, one.text) for one in found} == {
            (False, f"connection refused at {port}{end}") for port in (40000, 40001)
        }


@in_trio
async def test_a_namespace_that_is_gone_says_nothing_about_the_container(container: Namespace) -> None:
    netns = Netns(container.path, (1, 1), "b" * 32)
    gone = Netns("/run/netns/nt4-gone", (1, 1), "b" * 32)
    check = parse_check_untrusted("tcp:8080").subject
    assert not isinstance(check, ExecCheck)
    found: dict[int, Answer] = {}
    await ask_all([Question(check, one, (V4,), 1.0) for one in (netns, gone)], found.__setitem__)
    assert found == {0: None, 1: None}


@in_trio
async def test_a_container_that_refuses_the_question_is_named_as_such(container: Namespace) -> None:
    for family in ("-4", "-6"):
        container.run(f"ip {family} rule add pref 0 prohibit")
        container.run(f"ip {family} rule del pref 0 table local")
    async with serving(container, answering(OK)):
        (found,) = await ask(container, "http:8080/")
    assert found == Unasked("8080/ cannot be asked: Permission denied")


def refuse(error: Exception) -> Callable[..., None]:
    """A call that this host has no room for."""

    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        ((select, "epoll"), OSError(errno.EMFILE, "Too many open files")),
        ((_thread, "start_new_thread"), RuntimeError("can't start new thread")),
    ],
)
@in_trio
async def test_a_host_that_has_no_room_left_says_nothing_about_the_container(
    container: Namespace, monkeypatch: pytest.MonkeyPatch, thing: tuple[object, str], error: Exception
) -> None:
    async with serving(container, say_nothing):
        monkeypatch.setattr(*thing, refuse(error))
        assert await ask(container, "http:8080/", "http:8080/") == [None, None]


@in_trio
async def test_tls_takes_no_second_descriptor(
    container: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as inner:
            await answering(OK)(inner)  # type: ignore[arg-type] # a stream all the same

    async with serving(container, serve):
        monkeypatch.setattr(socket.socket, "dup", refuse(OSError(errno.EMFILE, "Too many open files")))
        assert await ask_one(container, "https:8080/") == (True, "http 200 from 8080/")


@in_trio
async def test_a_server_that_speaks_tls(container: Namespace, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as inner:
            await answering(OK)(inner)  # type: ignore[arg-type] # a stream all the same

    async with serving(container, serve), serving(container, answering(OK), port=8081):
        assert await ask_one(container, "https:8080/") == (True, "http 200 from 8080/")
        assert await ask_one(container, "https:8081/") == (False, "8081/ does not speak TLS")


@pytest.fixture
def large_groups(container: Namespace, tmp_path: Path) -> Iterator[tuple[int, ...]]:
    """Ports of servers that exchange keys of 8192 bits only."""
    group, pem = str(tmp_path / "group.pem"), str(tmp_path / "rsa.pem")
    make = f"openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe8192 -out {group}"
    sign = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=web -keyout {pem}.key -out {pem}"
    for command in (make, sign):
        subprocess.run(command.split(), check=True, capture_output=True)
    by_port = {
        8080: f"-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256 -dhparam {group}",
        8081: "-tls1_3 -groups ffdhe8192",
    }
    with ExitStack() as running:
        for port, options in by_port.items():
            server = f"openssl s_server -www -accept {V4}:{port} -cert {pem} -key {pem}.key {options}"
            words = ["ip", "netns", "exec", container.name, *server.split()]
            process = running.enter_context(subprocess.Popen(words, stdout=subprocess.DEVNULL))
            running.callback(process.kill)
        yield tuple(by_port)


@in_trio
async def test_keys_of_many_thousand_bits_are_not_exchanged(
    container: Namespace, large_groups: tuple[int, ...]
) -> None:
    """The exchange would hold up the whole agent, and the container's program chooses the group."""
    for port in large_groups:
        with trio.fail_after(10.0):
            while not (await ask_one(container, f"tcp:{port}"))[0]:
                await trio.sleep(0.05)
        said = await ask_one(container, f"https:{port}/ timeout=10s")
        assert said == (False, f"{port}/ does not speak TLS")


@in_trio
async def test_a_handshake_without_end_fails(container: Namespace) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        # The first byte of a message in each record: a ServerHello of 16 KiB.
        for byte in b"\x02\x00\x40\x00" + bytes(1000):
            await stream.send_all(b"\x16\x03\x03\x00\x01" + bytes([byte]))
            await trio.sleep(0.002)

    async with serving(container, serve):
        is_success, text = await ask_one(container, "https:8080/ timeout=20s")
        assert (is_success, text) == (
            False,
            f"8080/ sent its part of TLS in more than {MAX_TLS_PIECES} pieces",
        )


def self_signed(folder: Path) -> Path:
    """A certificate that no authority vouches for, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "web")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, form, plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, form, plain))
    return path
