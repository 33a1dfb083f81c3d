"""HTTP peers that never come to an end, or lead elsewhere: bounded, and held to the first address's rule."""

import contextlib
import socket
import threading
import time

import pytest
from taproot.emulator.downloads import Answer
from taproot.trust.fleet import Fleet

FETCH = """
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError
from azure_iot.https import BytesSink, Fetcher
async def main():
    sink = BytesSink()
    fetcher = Fetcher(Deadlines(answer_ms=700, read_ms=400))
    try:
        answer = await fetcher.request(
            "PUT" if "size" in F else "GET", F["url"], sink, 16000, chunked=True,
            body=bytes(F["size"]) if "size" in F else None)
        out("answer", answer.status, len(sink.data))
    except AzureIoTError as error:
        out(type(error).__name__, str(error))
asyncio.run(main())
"""
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def peer(serve):
    """A listener that gives each connection to `serve(socket)` and closes it."""

    def run():
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                serve(sock)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=run, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def drip(*, head: bytes, piece: bytes, pause: float = 0.05):
    """A server that goes on with one piece at a time for as long as it is listened to."""

    def serve(sock):
        sock.recv(4096)
        sock.sendall(head)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            sock.sendall(piece)
            time.sleep(pause)

    return serve


ENDLESS = {
    "body": drip(head=OK + b"Content-Length: 10000\r\n\r\n", piece=b"x"),
    "head": drip(head=OK, piece=b"a"),
    "interim": drip(head=b"", piece=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
    "trailer": drip(
        head=OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", piece=b"t: x\r\n", pause=0.001
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_without_end_is_given_up(device, what):
    began = time.monotonic()
    with peer(ENDLESS[what]) as port:
        out = device.run(FETCH, "endless", cs="", url=f"http://127.0.0.1:{port}/x", limit=15)
    text = "127.0.0.1 gave no whole answer within 700 ms"
    assert out == [["ConnectionDroppedError", text]]
    assert time.monotonic() - began < 10


def test_a_server_that_takes_a_request_byte_by_byte_is_given_up(device):
    def sip(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        end = time.monotonic() + 20
        while time.monotonic() < end and sock.recv(1024):
            time.sleep(0.02)

    size = 6_000_000  # more than the buffers between
    with peer(sip) as port:
        program = FETCH.replace("answer_ms=700", "answer_ms=2")
        url = f"http://127.0.0.1:{port}/x"
        out = device.run(program, "sipped", cs="", url=url, size=size, heap="16m", limit=15)
    assert out[0][0] == "ConnectionDroppedError" and "no whole answer" in out[0][1]


def test_the_time_for_an_answer_grows_with_what_may_come(device):
    """40,000 bytes at a pace that a request for few bytes would not be allowed."""

    def slow(sock):
        sock.recv(4096)
        sock.sendall(OK + b"Content-Length: 40000\r\n\r\n")
        for _ in range(8):
            time.sleep(0.15)
            sock.sendall(b"x" * 5000)

    with peer(slow) as port:
        program = FETCH.replace("16000", "50000")
        out = device.run(program, "grows", cs="", url=f"http://127.0.0.1:{port}/x", limit=15)
    assert out == [["answer", 200, 40000]]


RANGES = """
from azure_iot import https
from azure_iot.errors import AzureIoTError
https._part = lambda context, host: 2048
async def plain(host, port, context, *, deadlines=None):
    return await https.open_tcp(host, port, deadlines=deadlines)
https.open_tls = plain  # the ranges are what counts here
async def main():
    sink = https.BytesSink()
    try:
        answer = await https.Fetcher().fetch(F["url"], sink, 8000, context=1)
        out("answer", answer.size, len(sink.data))
    except AzureIoTError as error:
        out(error.rule, str(error))
asyncio.run(main())
"""


@pytest.mark.parametrize(("most", "expected"), [(2048, "answer"), (1, "RANGE")])
def test_a_server_that_gives_shorter_ranges_than_asked_for_is_refused(device, most, expected):
    asked = []

    def serve(sock):
        request = sock.recv(4096).decode()
        first, last = (int(n) for n in request.split("bytes=")[1].split("\r")[0].split("-"))
        asked.append(first)
        last = min(last, first + most - 1, 4999)
        head = f'HTTP/1.1 206 Partial\r\nETag: "t"\r\nContent-Range: bytes {first}-{last}/5000\r\n'
        size = last - first + 1
        sock.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + b"x" * size)

    with peer(serve) as port:
        out = device.run(
            RANGES, "short-ranges", cs="", url=f"https://127.0.0.1:{port}/x", limit=15
        )
    assert out[0][0] == expected
    assert asked == ([0, 2048, 4096] if most > 1 else [0])


DOWNLOAD = """
from azure_iot.bringup import open_trust
from azure_iot.clock import default
from azure_iot.errors import AzureIoTError
from azure_iot.trust.files import PackageFile
from azure_iot.updater import Updater
async def main():
    trust = open_trust({"factory_folder": "factory", "trust_folder": "trust"}, default())
    trust.store.make_folder()
    updater = Updater(trust, lambda n: 0, ({}, None, None))
    sink = PackageFile("trust/package.new")
    try:
        await updater._download(F["url"], sink)
        out("fetched", sink.size)
    except AzureIoTError as error:
        out(getattr(error, "code", "") or error.rule, str(error))
asyncio.run(main())
"""


def answering(answers):
    """Plain HTTP: a path is answered with its body, or led to its address."""

    def serve(sock):
        path = sock.recv(4096).decode().split(" ")[1]
        found = answers[path]
        answer = (
            Answer(200, {}, found)
            if isinstance(found, bytes)
            else Answer(302, {"Location": found}, b"")
        )
        lines = [f"{name}: {value}" for name, value in answer.headers.items()]
        lines = [f"HTTP/1.1 {answer.status} x", f"Content-Length: {len(answer.body)}", *lines]
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + answer.body)

    return serve


@pytest.mark.requirement("R-50")
def test_a_redirect_is_held_to_the_rule_of_the_first_address(device, hub_root):
    """A demo fleet stays home wherever a server leads it, and the scheme stays."""
    fleet = Fleet.create("demo-redirect", bundle=(1, 1), root=(1, 1))
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    bundle = fleet.bundle_jws(version=1, roots=roots)
    fleet.write_factory(device.folder / "factory", bundle)
    with peer(answering({"/p": b"package"})) as end:
        answers = {
            "/home": f"http://127.0.0.1:{end}/p",
            "/away": "http://198.51.100.7/p",
            "/name": "http://packages.example/p",
            "/tls": f"https://127.0.0.1:{end}/p",
        }
        with peer(answering(answers)) as port:
            said = {
                path: device.run(
                    DOWNLOAD, "led", cs="", url=f"http://127.0.0.1:{port}{path}", limit=20
                )[0]
                for path in answers
            }
    assert said["/home"] == ["fetched", 7]
    for path in ("/away", "/name"):
        assert said[path][0] == "DEMO_HOST", said[path]
    assert said["/tls"][0] == "HTTP" and "another scheme" in said["/tls"][1]


LED = """
from azure_iot.errors import AzureIoTError
from azure_iot.https import BytesSink, Fetcher
class Source:
    size = 3
    def readinto(self, view):
        view[:3] = b"abc"
        return 3
async def main():
    for method, path, body in F["asks"]:
        try:
            answer = await Fetcher().request(
                method, F["url"] + path, BytesSink(), redirects=1,
                headers=[("Authorization", "secret"), ("Content-Type", "text/plain")],
                body=Source() if body == "source" else body and body.encode())
            out(answer.status)
        except AzureIoTError as error:
            out(str(error))
asyncio.run(main())
"""


def noting(seen, answers):
    """Note (method, path, authorized, typed, body) of each request; answer 200, or lead elsewhere."""

    def serve(sock):
        head, _, body = sock.recv(4096).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        names = {line.partition(":")[0]: line.partition(": ")[2] for line in lines[1:]}
        while len(body) < int(names.get("Content-Length", 0)):
            body += sock.recv(4096)
        method, path, _ = lines[0].split(" ")
        typed = "Content-Type" in names
        seen.append((method, path, "Authorization" in names, typed, body.decode()))
        status, location = answers.get(path, (200, "/"))
        sock.sendall(f"HTTP/1.1 {status} x\r\nLocation: {location}\r\n".encode())
        sock.sendall(b"Content-Length: 0\r\n\r\n")

    return serve


def test_a_redirect_takes_along_what_rfc_9110_lets_it(device):
    first, second = [], []
    with peer(noting(second, {})) as other:
        answers = {
            "/away": (307, f"//127.0.0.1:{other}/there"),
            "/302": (302, "/here"),
            "/303": (303, "/here"),
            "/308": (308, "/here"),
            "/relative": (302, "here"),
        }
        asks = [
            ("POST", "/away", "abc"), ("POST", "/302", "abc"), ("PUT", "/302", "abc"),
            ("PUT", "/303", "source"), ("HEAD", "/303", None), ("POST", "/308", "abc"),
            ("POST", "/308", "source"), ("GET", "/relative", None),
        ]  # fmt: skip
        with peer(noting(first, answers)) as port:
            url = f"http://127.0.0.1:{port}"
            out = device.run(LED, "led", cs="", url=url, asks=asks, limit=20)
    text = "the server redirects to a relative path: give that address"
    assert out == [[200]] * 6 + [[308], [text]]
    assert second == [("POST", "/there", False, False, "abc")], "another host learns no secret"
    assert [request for request in first if request[1] == "/here"] == [
        ("GET", "/here", True, False, ""),
        ("PUT", "/here", True, True, "abc"),
        ("GET", "/here", True, False, ""),
        ("HEAD", "/here", True, False, ""),
        ("POST", "/here", True, True, "abc"),
    ]


UPGRADE = """
from azure_iot import websocket
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError
from azure_iot.transport import open_tcp
async def main():
    link = await open_tcp("127.0.0.1", F["to"], deadlines=Deadlines(answer_ms=500))
    try:
        await websocket.upgrade(link, "127.0.0.1", lambda: 1)
    except AzureIoTError as error:
        out(type(error).__name__, str(error))
asyncio.run(main())
"""


def test_an_answer_to_the_upgrade_that_never_ends_is_given_up(device):
    with peer(drip(head=b"HTTP/1.1 101 x\r\n", piece=b"a")) as port:
        out = device.run(UPGRADE, "upgrade", cs="", to=port, limit=15)
    assert out == [["ConnectionDroppedError", "no whole answer to the upgrade"]]
