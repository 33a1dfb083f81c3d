"""Plug and Play: components, writable properties, command names.

Responsible for: the shapes that the convention gives to twin sections and method names. Not for:
the model id (an option of the client), sending. Source: azure-docs "IoT Plug and Play conventions".

    await client.patch_twin_reported_properties(pnp.component("thermo", {"max": 30}))
    for name, value, component in pnp.writable(change):
        answer = pnp.response(name, value, 200, change.version, component=component)
        await client.patch_twin_reported_properties(answer)
"""

_MARK = "__t"


def component(name: str, properties: dict) -> dict:
    """Shape: `{"thermo": {"__t": "c", "max": 30}}`."""
    body = dict(properties)
    body[_MARK] = "c"
    return {name: body}


def response(
    name: str,
    value: object,
    status: int,
    version: int,
    description: str = "",
    *,
    component: "str | None" = None,
) -> dict:
    """Acknowledge a writable property.

    Shape: `{"target": {"value": 20, "ac": 200, "av": 7, "ad": "…"}}`, inside its component if any.
    """
    answer = {"value": value, "ac": status, "av": version}
    if description:
        answer["ad"] = description
    if component is None:
        return {name: answer}
    return {component: {_MARK: "c", name: answer}}


def writable(change: object) -> list:
    """List the writable properties of a desired change: (name, value, component or None)."""
    found = []
    for name, value in change.patch.items():
        if isinstance(value, dict) and value.get(_MARK) == "c":
            for inner, wanted in value.items():
                if inner != _MARK:
                    found.append((inner, wanted, name))
        else:
            found.append((name, value, None))
    return found


def command(name: str) -> "tuple[str | None, str]":
    """Split a method name into (component or None, command): `thermo*reboot`."""
    part, star, rest = name.partition("*")
    return (part, rest) if star else (None, name)
