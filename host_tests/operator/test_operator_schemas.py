"""What the tool writes is what the schemas say, and the schemas refuse what lacks a member."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from taproot.trust import cloud_roots, package, roots
from taproot.trust.keys import b64u_decode
from test_operator_refusals import G2, probe, twin

SCHEMAS = Path(__file__).resolve().parents[1] / "vectors" / "schemas"


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def wire_documents(fleet: Any) -> dict[str, Any]:
    """One document of each kind that travels or lies on disk."""
    distrust = [roots.catalogue().roots["digicert-global-root-ca"].sha256]
    signed = fleet.bundle_jws(
        version=2,
        roots=cloud_roots("public"),
        distrust=distrust,
        recovery=["http://recovery.example/trust.json"],
    )
    envelope = json.loads(signed)
    data = fleet.package(signed, [fleet.keyset_jws()])
    return {
        "trust_envelope": envelope,
        "trust_header": json.loads(b64u_decode(envelope["signatures"][0]["protected"])),
        "trust_bundle": json.loads(b64u_decode(envelope["payload"])),
        "trust_keyset": json.loads(fleet.keyset.payload()),
        "trust_package": json.loads(data),
        "twin_desired": {"trust": package.desired_twin(2, data)},
        "trust_roots": json.loads(roots.cloud_list("china", roots.catalogue())),
    }


WIRE = [
    "trust_envelope", "trust_header", "trust_bundle", "trust_keyset", "trust_package",
    "twin_desired", "trust_roots",
]  # fmt: skip
OPTIONAL = {"distrust", "recovery", "note", "c1", "c2", "c3", "c4"}


def without_one_member(document: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield copies that lack one member each, of every object in the document."""
    if isinstance(document, dict):
        for name in document:
            less = copy.deepcopy(document)
            del less[name]
            yield (*path, name), less
            for inner, changed in without_one_member(document[name], (*path, name)):
                yield inner, {**document, name: changed}
    elif isinstance(document, list) and document:
        for inner, changed in without_one_member(document[0], (*path, 0)):
            yield inner, [changed, *document[1:]]


@pytest.mark.parametrize("name", WIRE)
def test_wire_document_fits_its_schema_and_not_without_a_member(name: str, fleet: Any) -> None:
    document = wire_documents(fleet)[name]
    judge = jsonschema.Draft202012Validator(schema(name))
    judge.validate(document)
    count = 0
    for path, less in without_one_member(document):
        if path[-1] not in OPTIONAL and path != ("trust",):
            assert not judge.is_valid(less), f"{name} without {path}"
            count += 1
    assert count >= 3


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("trust_bundle", ["version"], 0),
        ("trust_bundle", ["version"], True),
        ("trust_bundle", ["min_version"], 1 << 30),
        ("trust_bundle", ["spec"], 2),
        ("trust_bundle", ["roots"], []),
        ("trust_bundle", ["roots", 0, "use"], ["mqtt"]),
        ("trust_bundle", ["roots", 0, "sha256"], "AB" * 32),
        ("trust_bundle", ["distrust"], ["00"]),
        ("trust_bundle", ["recovery"], ["ftp://x"]),
        ("trust_keyset", ["roles", "root", "threshold"], 0),
        ("trust_keyset", ["keys", 0, "e"], "Aw"),
        ("trust_keyset", ["keys", 0, "alg"], "none"),
        ("trust_header", ["alg"], "HS256"),
        ("trust_header", ["crit"], ["b64"]),
        ("trust_header", ["jwk"], {}),
        ("trust_envelope", ["header"], {}),
        ("trust_envelope", ["signatures"], []),
        ("trust_package", ["extra"], 1),
    ],
)
def test_hostile_value_does_not_fit(name: str, path: list, value: object, fleet: Any) -> None:
    document = copy.deepcopy(wire_documents(fleet)[name])
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not jsonschema.Draft202012Validator(schema(name)).is_valid(document)


def test_json_of_the_commands_fits_its_schemas(managed) -> None:
    twins = [twin("a", via=G2, probes=[probe(G2)]), {"deviceId": "b"}]
    twins[0]["properties"]["reported"]["trust"]["last_error"] = {"code": "FLEET", "text": "x"}
    (managed.folder / "twins.json").write_text(json.dumps(twins))
    managed.ok("factory --out f.py")
    managed.ok("factory --out u.py --unmanaged")
    for line, name in (
        ("status --from twins.json", "trust_status"),
        ("inspect packages/1.json", "trust_inspect"),
        ("inspect keysets/1.jws", "trust_inspect"),
        ("inspect bundles/1.jws", "trust_inspect"),
        ("inspect f.py", "trust_inspect"),
        ("inspect u.py", "trust_inspect"),
        ("verify packages/1.json", "trust_verify"),
        ("report", "trust_report"),
    ):
        jsonschema.validate(managed.ok(line), schema(name))
    refused = managed.run("verify packages/1.json --seen 9", json_too=True)
    jsonschema.validate(refused.body, schema("trust_verify"))
    for line in (managed.home / "ledger.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schema("trust_ledger"))
