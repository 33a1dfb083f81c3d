"""The commands of firmware/examples/README.md, taken from the page, with free ports."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from taproot import interpreters

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "firmware" / "examples" / "README.md"
TEXT = README.read_text()
FIRST, SECOND = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
WAITING = re.findall(r"^\| `(\w+\.py)` \| `(.*)` \|$", TEXT, re.MULTILINE)


class Checkout:
    """A folder with what the commands name, and a hub that the first terminal started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".build").mkdir()
        (folder / ".build" / "bin").symlink_to(interpreters.build_folder() / "bin")
        for name in (".venv", "firmware"):
            (folder / name).symlink_to(ROOT / name)
        # Where the emulator leaves its address for its user.
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        self.env.pop("MICROPYPATH", None)

    def start(self, lines: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            ["/bin/sh", "-ec", "\n".join(lines)], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, lines: list[str]) -> str:
        process = self.start(lines)
        try:
            text, _ = process.communicate(timeout=60)
        finally:
            stop(process)
        assert process.returncode == 0, text
        return text


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(10)
    process.stdout.close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The first terminal, and the second one up to the example."""
    here = Checkout(tmp_path_factory.mktemp("checkout"))
    assert FIRST[0] == "make setup"
    lines = [
        line.replace("--port 8883 --port-https 8443", "--port 0 --port-https 0 --port-control 0")
        for line in FIRST[1:]
    ]
    assert lines != FIRST[1:]
    hub = here.start(lines)
    said = ""
    while "ready" not in said:
        line = hub.stdout.readline()
        assert line, said
        said += line
    here.ports = [
        f'echo "PORT = {re.search("MQTT .*?:([0-9]+)", said)[1]}" >> .build/try/secrets.py'
    ]
    yield here
    stop(hub)


def example(checkout: Checkout, name: str) -> list[str]:
    """The lines of the second terminal, for another example."""
    at = SECOND.index("cd .build/try")
    return [
        *SECOND[:at], *checkout.ports, *[line.replace("telemetry.py", name) for line in SECOND[at:]]
    ]  # fmt: skip


def test_an_example_runs_by_the_commands_of_the_page(checkout):
    assert "connection: TLSv1.2" in checkout.run(example(checkout, "telemetry.py"))


@pytest.mark.parametrize(("name", "command"), WAITING)
def test_an_example_that_waits_gets_what_it_waits_for(checkout, name, command):
    process = checkout.start(example(checkout, name))
    try:
        said = ""
        while not re.search("waiting|desired ", said):
            line = process.stdout.readline()
            assert line, said
            said += line
        checkout.run([f"for n in 1 2 3 4 5; do {command} && exit 0; sleep 1; done; exit 1"])
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0, said + rest
    finally:
        stop(process)


def test_the_page_names_an_interpreter_that_set_up_makes():
    found = re.findall(r"\.\./bin/([\w-]+)", TEXT)
    assert found == [interpreters.path("unix64").name]
    assert len(WAITING) == 3
