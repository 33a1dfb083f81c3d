"""Fixtures of the operator's tests: a fleet, a folder, and the program itself in-process."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from taproot.cli import command as program
from taproot.pki import Authority
from taproot.trust import BundleRoot, Fleet, keys
from taproot.trust.signing import Envelope
from taproot.trust.workspace import Workspace

ISSUED = 1_790_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch):
    """The operator's clock stands still; `clock(t)` moves it."""

    def move(at: int) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(at))

    move(ISSUED)
    return move


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """A fleet with short keys: what is tested here does not depend on their length."""
    return Fleet.create("demo-tests", bits=2048, issued=ISSUED)


@pytest.fixture(scope="session")
def spare() -> keys.SigningKey:
    """A key of nobody yet."""
    return keys.generate("spare", bits=2048)


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A root of the operator's own."""
    return Authority.root("Contoso Root 2026", key="rsa2048")


@pytest.fixture(scope="session")
def own_root(authority: Authority) -> BundleRoot:
    """That root as a bundle lists it."""
    return BundleRoot(authority.der)


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def body(self) -> dict:
        """The one JSON object on stdout."""
        return json.loads(self.out)


@dataclass
class Operator:
    """Runs `taproot trust` in one folder, as somebody at a desk would."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "trust"

    @property
    def space(self) -> Workspace:
        return Workspace(self.home)

    def run(self, line: str, *, json_too: bool = False) -> Answer:
        arguments = ["trust", "--home", str(self.home), *line.split()]
        result = CliRunner().invoke(program, [*arguments, "--json"] if json_too else arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            f"traceback out of: {line}\n{result.exception!r}"
        )
        return Answer(result.exit_code, result.stdout, result.stderr)

    def ok(self, line: str) -> dict:
        """Run a command that must hold; return its JSON object."""
        answer = self.run(line, json_too=True)
        assert answer.code == 0, f"{line}\n{answer.out}\n{answer.err}"
        return answer.body

    def fails(self, line: str, code: int) -> str:
        """Run a command that must end with this exit status; return its message."""
        answer = self.run(line)
        assert answer.code == code, f"{line}: exit {answer.code}\n{answer.out}\n{answer.err}"
        assert "Traceback" not in answer.err
        return answer.err + answer.out

    def found(self, name: str = "contoso-esp32") -> None:
        """Found a fleet with short keys."""
        self.ok(f"init --fleet {name} --unencrypted --bits 2048")

    def sign_bundle(self, version: int, *labels: str) -> None:
        for label in labels or ("bundle-1", "bundle-2"):
            self.ok(f"sign bundles/{version}.jws --key {self.home}/keys/{label}.pem")

    def release(self, version: int, more: str = "") -> dict:
        """Build, sign and pack."""
        self.ok(f"build --version {version} {more}")
        self.sign_bundle(version)
        return self.ok("package")

    def envelope(self, name: str) -> Envelope:
        return self.space.envelope(self.home / name)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Somebody at a desk with an empty folder, standing in it."""
    monkeypatch.chdir(tmp_path)
    return Operator(tmp_path)


@pytest.fixture(scope="session")
def _founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet and its first package, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(ISSUED))
        founder = Operator(tmp_path_factory.mktemp("founded"))
        founder.found()
        founder.release(1)
    return founder.home


@pytest.fixture
def managed(operator: Operator, _founded: Path) -> Operator:
    """Somebody at a desk with a fleet and its first package."""
    shutil.copytree(_founded, operator.home)
    return operator
