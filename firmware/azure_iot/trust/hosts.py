"""Which host names stand for a loopback or private address (R-50). Pure."""


def is_private(host: str) -> bool:
    """Tell whether `host` is loopback, private or link-local; other names are public."""
    if host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    if ":" in host and host[:2].lower() in ("fc", "fd"):
        return True
    parts = host.split(".")
    if len(parts) != 4:
        return False
    for part in parts:
        # 010 is 8 to inet_aton.
        if not part.isdigit() or str(int(part)) != part or int(part) > 255:
            return False
    first, second = int(parts[0]), int(parts[1])
    if first == 172:
        return 16 <= second <= 31
    return first == 127 or first == 10 or (first, second) in ((192, 168), (169, 254))
