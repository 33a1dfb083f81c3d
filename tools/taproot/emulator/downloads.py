"""Files that devices fetch, with every deviation a careful client must survive.

Responsible for: answering GET and HEAD of a stored body: Range with If-Match and If-Range, ETag,
Date, and on demand ranges ignored, a wrong or changing ETag, a wrong Date, a wrong length,
another status. Pure: request in, answer out. Not for: sockets (`https.py`, `recovery.py`).
HTTP semantics: RFC 9110 sections 8.8.3, 13.1, 14.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class Answer:
    """What goes back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Download:
    """One stored body and how it is served.

    `ranges`: False answers a Range request with the whole body and status 200.
    `etag`: None computes it; "" sends none. `etag_changes`: another one for each answer.
    `date_offset`: seconds added to the Date header; `date` False sends none.
    `status`: answer with this status and no body (fails `count` times, or always at None).
    """

    body: bytes
    ranges: bool = True
    etag: str | None = None
    etag_changes: bool = False
    ignore_if_match: bool = False
    wrong_range: bool = False  # answers 206 with the bytes after the ones asked for
    date: bool = True
    date_offset: float = 0.0
    content_type: str = "application/octet-stream"
    status: int | None = None
    count: int | None = None
    served: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """The entity tag of this answer, quoted; empty for none."""
        if self.etag is not None:
            text = self.etag
        else:
            text = hashlib.sha256(self.body).hexdigest()[:16]
        if not text:
            return ""
        return f'"{text}-{self.served}"' if self.etag_changes else f'"{text}"'

    def answer(self, method: str, headers: Mapping[str, str], now: float) -> Answer:
        """Answer one request; header names are compared without case."""
        asked = {name.lower(): value for name, value in headers.items()}
        self.served += 1
        if len(self.requests) < 1000:
            self.requests.append(asked)
        out: dict[str, str] = {}
        if self.date:
            out["Date"] = formatdate(now + self.date_offset, usegmt=True)
        if method not in ("GET", "HEAD"):
            return Answer(405, {**out, "Allow": "GET, HEAD"})
        if self.status is not None and self.count != 0:
            if self.count is not None:
                self.count -= 1
            return Answer(self.status, out)
        tag = self.tag
        if tag:
            out["ETag"] = tag
        wanted = [part.strip() for part in asked.get("if-match", "*").split(",")]
        if "*" not in wanted and tag not in wanted and not self.ignore_if_match:
            return Answer(412, out)
        out["Content-Type"] = self.content_type
        if self.ranges:
            out["Accept-Ranges"] = "bytes"
            part = asked.get("range")
            condition = asked.get("if-range")
            if part and method == "GET" and (condition is None or condition == tag):
                return self._part(part, out)
        return Answer(200, out, self.body)

    def _part(self, text: str, out: dict[str, str]) -> Answer:
        size = len(self.body)
        match = _RANGE.fullmatch(text.strip())
        if match is None or match.groups() == ("", ""):
            return Answer(200, out, self.body)  # RFC 9110 14.2: not understood is ignored
        first, last = match.groups()
        if first == "":
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(int(last) + 1 if last else size, size)
        if start >= size or start >= end:
            return Answer(416, {**out, "Content-Range": f"bytes */{size}"})
        if self.wrong_range:
            shift = min(end - start, size - end)
            start, end = start + shift, end + shift
        out["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Answer(206, out, self.body[start:end])
