"""The query language subset: rows, undefined values, groups, errors."""

from __future__ import annotations

import pytest
from taproot.emulator.query import QueryError, condition, parse

pytestmark = pytest.mark.requirement("H23")


def twin(name, version=None, **more):
    reported = {} if version is None else {"trust": {"version": version, "state": "good"}}
    return {
        "deviceId": name,
        "status": "enabled",
        "connectionState": "Connected",
        "tags": {"site": {"floor": 3}, "ring": "blue"},
        "properties": {"desired": {"$version": 1}, "reported": reported},
        **more,
    }


TWINS = [twin("a", 7), twin("b", 6), twin("c"), twin("d", 6, status="disabled", x=None)]


def ids(where):
    return "".join(row["deviceId"] for row in parse(f"SELECT * FROM devices {where}").run(TWINS))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", "abcd"),
        ("WHERE deviceId = 'a'", "a"),
        ("where properties.reported.trust.version < 7", "bd"),
        ("WHERE properties.reported.trust.version != 7", "bd"),
        ("WHERE NOT IS_DEFINED(properties.reported.trust)", "c"),
        ("WHERE is_null(x)", "d"),
        ("WHERE deviceId IN ['a', 'c']", "ac"),
        ("WHERE deviceId IN ('a', \"c\")", "ac"),
        ("WHERE deviceId NIN ['a', 'c']", "bd"),
        ("WHERE status = 'enabled' AND (deviceId = 'a' OR properties.reported.trust.version = 6)", "ab"),
        ("WHERE tags.site.floor + 1 = 4 AND tags['ring'] = 'blue'", "abcd"),
        ("WHERE tags.site.floor * 2 > 5.5 AND -tags.site.floor < 0", "abcd"),
        ("WHERE STARTSWITH(tags.ring, 'bl') AND ENDSWITH(deviceId, 'b')", "b"),
        ("WHERE contains(upper(deviceId), 'C')", "c"),
        ("WHERE properties.reported.trust.version = '6'", ""),
        ("WHERE tags.ring > 5", ""),
        ("WHERE tags.site.floor / 0 = 1", ""),
        ("AS t WHERE t.deviceId = 'b'", "b"),
        ("c WHERE c.properties.desired.$version = 1", "abcd"),
        ("WHERE [[deviceId]] = 'a'", "a"),
    ],
)  # fmt: skip
def test_where(where, expected):
    assert ids(where) == expected


def test_columns_leave_out_what_is_undefined():
    query = parse(
        "SELECT deviceId, properties.reported.trust.version AS v, status FROM devices "
        "WHERE deviceId IN ['a','c']"
    )
    assert query.kind == "Raw"
    assert query.run(TWINS) == [
        {"deviceId": "a", "v": 7, "status": "enabled"},
        {"deviceId": "c", "status": "enabled"},
    ]


def test_top_and_aggregates_and_groups():
    assert len(parse("SELECT TOP 2 * FROM devices").run(TWINS)) == 2
    assert parse("SELECT COUNT() AS n FROM devices").run(TWINS) == [{"n": 4}]
    assert parse("SELECT COUNT(*) AS n FROM devices").run([]) == [{"n": 0}]
    version = "properties.reported.trust.version"
    assert parse(f"SELECT {version} AS v, COUNT() AS n FROM devices GROUP BY {version} AS v").run(
        TWINS
    ) == [{"v": 7, "n": 1}, {"v": 6, "n": 2}, {"n": 1}]
    [row] = parse(f"SELECT MIN({version}) AS lo, AVG({version}) AS mean FROM devices").run(TWINS)
    assert row["lo"] == 6 and row["mean"] == pytest.approx(19 / 3)


def test_item_type_of_whole_twins_is_twin():
    assert parse("SELECT * FROM devices.modules").kind == "Twin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (None, "empty"),
        ("DELETE FROM devices", "select"),
        ("SELECT * FROM jobs", "jobs"),
        ("SELECT * FROM devices WHERE", "end of query"),
        ("SELECT * FROM devices WHERE a = ", "end of query"),
        ("SELECT * FROM devices WHERE nope(a)", "nope"),
        ("SELECT * FROM devices WHERE is_defined(a, b)", "1 arguments"),
        ("SELECT * FROM devices WHERE a ? b", "position"),
        ("SELECT * FROM devices x y", "'y'"),
        ("SELECT * FROM devices WHERE " + "(" * 60 + "a" + ")" * 60, "deeply"),
        ("SELECT * FROM devices WHERE a = '" + "x" * 9000 + "'", "longer"),
    ],
)
def test_errors_say_what_was_not_understood(text, said):
    with pytest.raises(QueryError, match=said):
        parse(text)


def test_target_condition_of_a_configuration():
    assert condition("*")(TWINS[0]) is True
    assert condition("tags.ring='blue' AND status='disabled'")(TWINS[3]) is True
    with pytest.raises(QueryError):
        condition("tags.ring='blue' tags")
