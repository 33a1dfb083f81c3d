"""Vectors of single modules, made by `cryptography` and by hand, for tests and third parties."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from support import trust_maker as tm
from support.trust_cases import _CA, _MAY_SIGN, _certificate, _children, _element, _version_1

DIGEST = hashlib.sha256(b"signed").digest()
INFO = bytes.fromhex("3031300d060960864801650304020105000420")
# RFC 7638 section 3.1
RFC7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
    "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
    "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
    "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


class Vectors:
    """The list, grown by one method per module."""

    def __init__(self) -> None:
        self.vectors: list[dict] = []
        self._signatures()
        self._keys()
        self._scan()
        self._base64()
        self._certificates()
        self._headers()

    def add(self, kind: str, name: str, ids: str, expect: object, **members: object) -> None:
        self.vectors.append(
            {
                "kind": kind,
                "name": f"{kind}_{name}",
                "ids": ids.split(),
                "expect": expect,
                **members,
            }
        )

    # Signatures

    def _signature(
        self, name: str, key: tm.Signer, raw: bytes, expect: str = "BAD_SIGNATURE"
    ) -> None:
        self.add(
            "signature",
            name,
            "R-05 H8",
            expect,
            alg=key.alg,
            n=key.jwk["n"],
            digest=DIGEST.hex(),
            signature=raw.hex(),
        )

    def _signatures(self) -> None:
        for bits in (2048, 3072, 4096):
            for alg in ("PS256", "RS256"):
                key = tm.signer("vector0", bits, alg)
                good = key.sign(b"signed")
                self._signature(f"{alg}_{bits}", key, good, "OK")
                self._signature(f"{alg}_{bits}_other_text", key, key.sign(b"other"))
        key = tm.signer("vector0", 2048, "RS256")
        numbers = key.private.private_numbers()
        n = key.n

        def raw(em: bytes, k: tm.Signer = key) -> bytes:
            private = k.private.private_numbers()
            return pow(int.from_bytes(em, "big"), private.d, k.n).to_bytes(len(em), "big")

        size = 256
        pad = size - 3 - len(INFO) - 32
        whole = b"\0\1" + b"\xff" * pad + b"\0" + INFO + DIGEST
        assert raw(whole) == key.sign(b"signed") and numbers.d
        short = b"\0\1" + b"\xff" * 8 + b"\0" + INFO + DIGEST
        self._signature("garbage_after_the_digest", key, raw(short + bytes(size - len(short))))
        self._signature("garbage_random", key, raw(short + b"\x5a" * (size - len(short))))
        no_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + DIGEST
        self._signature(
            "without_null",
            key,
            raw(b"\0\1" + b"\xff" * (size - 3 - len(no_null)) + b"\0" + no_null),
        )
        sha1 = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(b"signed").digest()
        self._signature(
            "sha1", key, raw(b"\0\1" + b"\xff" * (size - 3 - len(sha1)) + b"\0" + sha1)
        )
        self._signature("block_type_2", key, raw(b"\0\2" + whole[2:]))
        self._signature("first_byte", key, raw(b"\1\1" + whole[2:]))
        self._signature(
            "separator_missing", key, raw(b"\0\1" + b"\xff" * (pad + 1) + INFO + DIGEST)
        )
        self._signature("padding_with_a_hole", key, raw(whole[:9] + b"\xfe" + whole[10:]))
        self._signature(
            "no_digest_info", key, raw(b"\0\1" + b"\xff" * (size - 35) + b"\0" + DIGEST)
        )
        for at in range(0, size, 17):
            em = bytearray(whole)
            em[at] ^= 1
            self._signature(f"pkcs1_flip_{at}", key, raw(bytes(em)))
        self._pss(raw)
        for alg in ("PS256", "RS256"):
            key = tm.signer("vector0", 2048, alg)
            good = key.sign(b"signed")
            value = int.from_bytes(good, "big")
            for name, number in (
                ("0", 0),
                ("1", 1),
                ("n_minus_1", n - 1),
                ("n", n),
                ("n_plus_1", n + 1),
            ):
                self._signature(f"{alg}_s_{name}", key, tm_bytes(key, number))
            if value + key.n < 1 << 2048:
                self._signature(f"{alg}_s_plus_n", key, (value + key.n).to_bytes(256, "big"))
            self._signature(f"{alg}_short", key, good[1:])
            self._signature(f"{alg}_long", key, b"\0" + good)
            self._signature(f"{alg}_trailing", key, good + b"\0")
            self._signature(f"{alg}_empty", key, b"")
            other = tm.signer("vector0", 3072, alg)
            self._signature(f"{alg}_of_another_key", other, good)
        ps = tm.signer("vector0", 2048, "PS256")
        rs = tm.signer("vector0", 2048, "RS256")
        self._signature("rs256_by_ps256", rs, ps.sign(b"signed"))
        self._signature("ps256_by_rs256", ps, ps.sign(b"signed", "RS256"))

    def _pss(self, raw) -> None:
        key = tm.signer("vector0", 2048, "PS256")

        def em(salt: bytes = b"s" * 32, one: int = 1, zeros: int | None = None, trailer: int = 0xBC,
               top: int = 0, stamp: bytes | None = None, hole: int | None = None) -> bytes:  # fmt: skip
            h = hashlib.sha256(bytes(8) + DIGEST + salt).digest() if stamp is None else stamp
            length = 256 - 33
            zeros = length - 1 - len(salt) if zeros is None else zeros
            db = bytearray(bytes(zeros) + bytes([one]) + salt)
            db = db[:length].ljust(length, b"\0")
            if hole is not None:
                db[hole] ^= 1
            mask = b"".join(hashlib.sha256(h + i.to_bytes(4, "big")).digest() for i in range(8))
            masked = bytearray(a ^ b for a, b in zip(db, mask, strict=False))
            masked[0] = (masked[0] & 0x7F) | top
            return bytes(masked) + h + bytes([trailer])

        def add(name: str, block: bytes, expect: str = "BAD_SIGNATURE") -> None:
            for salt in range(256):
                if int.from_bytes(block, "big") < key.n:
                    break
                block = bytes([block[0] & 0x7F]) + block[1:]
                _ = salt
            self._signature(f"pss_{name}", key, raw(block, key), expect)

        add("whole", em(), "OK")
        for length in (0, 20, 31, 33, 64):
            add(f"salt_{length}", em(b"s" * length))
        add("trailer", em(trailer=0xCC))
        add("no_one", em(one=0))
        add("two_for_one", em(one=2))
        add("other_stamp", em(stamp=b"h" * 32))
        for at in (0, 1, 100, 189):
            add(f"zeros_with_a_hole_{at}", em(hole=at))
        add("salt_changed", em(hole=200))
        block = em()
        if int.from_bytes(bytes([block[0] | 0x80]) + block[1:], "big") < key.n:
            self._signature("pss_top_bit", key, raw(bytes([block[0] | 0x80]) + block[1:], key))

    def _keys(self) -> None:
        self.add(
            "thumbprint",
            "rfc7638",
            "R-09",
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
            n=RFC7638_N,
        )
        key = tm.signer("vector0")
        raw = key.n.to_bytes(256, "big")

        def one(
            name: str, expect: str, n: bytes | str = raw, e: str = "AQAB", alg: str = "PS256"
        ) -> None:
            text = n if isinstance(n, str) else tm.b64u(n)
            self.add("key", name, "R-05 R-09", expect, alg=alg, n=text, e=e)

        one("good", key.kid)
        one(
            "of_4096",
            tm.signer("vector0", 4096, "RS256").kid,
            tm.signer("vector0", 4096, "RS256").jwk["n"],
        )
        one("of_the_lowest_first_byte", _kid(b"\x80" + raw[1:]), b"\x80" + raw[1:])
        one("even", "MALFORMED", raw[:-1] + b"\x02")
        one("of_2040_bits", "MALFORMED", raw[:254] + b"\1")
        one("of_2056_bits", _kid(raw + b"\1"), raw + b"\1")
        one("of_4104_bits", "MALFORMED", raw * 2 + b"\1")
        one("of_2047_bits", "MALFORMED", b"\x7f" + raw[1:])
        one("of_nothing", "MALFORMED", b"")
        one("of_exponent_3", "MALFORMED", e="Aw")
        one("of_exponent_0", "MALFORMED", e="")
        one("of_alg_none", "MALFORMED", alg="none")
        one("of_alg_es256", "MALFORMED", alg="ES256")
        one("padded", "MALFORMED", tm.b64u(raw) + "==")

    # JSON

    def _scan(self) -> None:
        def ok(name: str, text: bytes | str, tokens: list | None = None, **members) -> None:
            data = text if isinstance(text, bytes) else text.encode()
            if tokens is None:
                self.add("scan", name, "H13", "OK", hex=data.hex(), **members)
            else:
                self.add("scan", name, "H13", tokens, hex=data.hex(), tokens=True, **members)

        def no(name: str, text: bytes | str, expect: str = "MALFORMED", **members) -> None:
            data = text if isinstance(text, bytes) else text.encode()
            self.add("scan", name, "H13", expect, hex=data.hex(), **members)

        ok("object", '{"a":1,"b":"x"}', ["{", "a", 1, "b", "x", 1, "}"])
        ok(
            "nested",
            '{"a":[{"b":[]},{}]}',
            ["{", "a", "[", "{", "b", "[", "]", "}", "{", "}", "]", "}"],
        )
        ok("words", "[true,false,null]", ["[", "t", "f", "n", "]"])
        ok("numbers", "[0,7,10,9999999999]", ["[", 0, 7, 10, 9999999999, "]"])
        ok("spaces", ' \t\r\n{ "a" : 1 , "b" : [ ] } \n', ["{", "a", 1, "b", "[", "]", "}"])
        ok("text", '"abc"', ["abc", 3])
        ok("number", "7", [7])
        ok("word", "true", ["t"])
        ok("escapes", r'"\"\\\/\b\f\n\r\té\u20AC"', ['"\\/\b\f\n\r\té€', 24])
        ok(
            "utf8",
            '"é€𝄞\u07ff\u0800\uffff\U00010000\U0010ffff"',
            ["é€𝄞\u07ff\u0800\uffff\U00010000\U0010ffff", 25],
        )
        ok("not_kept", '["%s","%s"]' % ("a" * 64, "a" * 65), ["[", "a" * 64, 64, None, 65, "]"])
        ok("not_kept_with_escape", '["%s\\n"]' % ("a" * 64), ["[", None, 66, "]"])
        ok("keep_exactly", '["%s\\n"]' % ("a" * 63), ["[", "a" * 63 + "\n", 65, "]"])
        for size in (254, 255, 256, 257, 511, 512, 513):
            ok(
                f"buffer_{size}",
                '["' + "a" * size + '",1]',
                ["[", "a" * size, size, 1, "]"],
                keep=600,
            )
            ok(f"spaces_{size}", "[" + " " * size + "1]", ["[", 1, "]"])
            ok(
                f"escape_at_{size}",
                '["' + "a" * size + '\\n"]',
                ["[", "a" * size + "\n", size + 2, "]"],
                keep=600,
            )
        ok("key_of_64", '{"%s":1}' % ("k" * 64))
        no("key_of_65", '{"%s":1}' % ("k" * 65), "TOO_LARGE")
        ok("members_32", "{%s}" % ",".join('"m%d":1' % i for i in range(32)))
        no("members_33", "{%s}" % ",".join('"m%d":1' % i for i in range(33)), "TOO_LARGE")
        ok("elements_100", "[%s]" % ",".join("1" for _ in range(100)))
        ok("depth_8", "[" * 8 + "]" * 8)
        no("depth_9", "[" * 9 + "]" * 9, "TOO_LARGE")
        ok("brackets_255", "[%s]" % ",".join(["{}"] * 254))
        no("brackets_256", "[%s]" % ",".join(["{}"] * 255), "TOO_LARGE")
        ok("limit", "[1]", limit=3)
        no("over_limit", "[1] ", "TOO_LARGE", limit=3)
        for value in (" ", "\ud7ff", "\ue000"):
            code = f"{ord(value):04x}"
            ok(f"escape_{code}", f'"\\u{code}"', [value, 6])
        ok("utf8_lowest_of_2", b'"\xc2\x80"', ["\x80", 2])
        for text in (
            "", " ", "{", "[", '{"a"', '{"a":', '{"a":1', "[1", "[1,", '"a', '"a\\', '"\\u00', "tru",
            "}", "]", ",", ":", "{]", "[}", '{"a":1]', "[1}", "[1 2]", "[1,,2]", "[,1]", "[1,]", '{"a" 1}',
            '{"a":1 "b":2}', '{"a":1,}', "{,}", '{,"a":1}', '{"a"}', '{"a":}', "{1:2}", "{a:1}", "{'a':1}", '{xa":1}',
            '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', "01", "00", "-1", "-0", "+1", "1.", "1.0", ".5", "1e3", "1E3",
            "0x1", "12345678901", "1" * 400, "NaN", "Infinity", "-Infinity", "True", "nul", "nulll", "truex",
            "1 1", "[]]", "{}{}", "[] x", "{}\0", "\0", '"a"b', '"\n"', '"\t"', '"\0"', '"\x1f"', '"\\x"',
            '"\\u12"', '"\\u12g4"', '"\\uD800"', '"\\udfff"', '"\\ud834\\udd1e"', '"\\u0000"', '"\\u001f"', '"\\U0041"',
            "\ufeff{}", "/**/1", "[1]//", "[1;2]", "(1)", "<a>", "[1,2", "'a'", "\x0b1", "\xa01",
        ):  # fmt: skip
            no(f"refused_{len(self.vectors)}", text)
        for name, data in (
            ("byte_ff", b'"\xff"'), ("lone_continuation", b'"\x80"'), ("overlong_2", b'"\xc1\xbf"'), ("lead_c1", b'"\xc1\xbf\xbf\xbf"'),
            ("overlong_3", b'"\xe0\x9f\xbf"'), ("overlong_4", b'"\xf0\x8f\xbf\xbf"'), ("surrogate", b'"\xed\xa0\x80"'),
            ("above", b'"\xf4\x90\x80\x80"'), ("lead_f5", b'"\xf5\x80\x80\x80"'), ("cut_2", b'"\xc3"'),
            ("cut_3", b'"\xe2\x82"'), ("cut_4", b'"\xf0\x9d\x84"'), ("end_in_utf8", b'"\xe2\x82'),
            ("second_bad", b'"\xe2\x28\xa1"'), ("third_bad", b'"\xe2\x82\x28"'), ("in_name", b'{"\xff":1}'),
        ):  # fmt: skip
            no(f"utf8_{name}", data)
        ok("utf8_highest_before_surrogates", b'"\xed\x9f\xbf"')
        ok("utf8_lowest_after_surrogates", b'"\xee\x80\x80"')

    # base64

    def _base64(self) -> None:
        import base64

        for n in (0, 1, 2, 3, 4, 5, 6, 100, 191, 192, 193):
            raw = bytes((i * 37 + 251) & 0xFF for i in range(n))
            self.add("decode", f"url_{n}", "H14", raw.hex(), alphabet="url", text=tm.b64u(raw))
            self.add(
                "decode",
                f"std_{n}",
                "H14",
                raw.hex(),
                alphabet="std",
                text=base64.b64encode(raw).decode(),
            )
        for text in (
            "A",
            "AAAAA",
            "AB",
            "ABD",
            "QUI=",
            "QUI",
            "QUJDRA==",
            "QU!D",
            "QU JD",
            "QUJD\n",
            "QU+D",
            "QU/D",
            "\0AAA",
            "QUJ\x7f",
        ):
            expect = "4142" if text == "QUI" else "MALFORMED"
            self.add(
                "decode",
                f"url_wrong_{len(self.vectors)}",
                "H14",
                expect,
                alphabet="url",
                text=text,
            )
        for text in (
            "A",
            "AB",
            "ABC",
            "AB==",
            "ABD=",
            "====",
            "QUI",
            "QUJ=",
            "QUJD====",
            "Q=JD",
            "=QUJ",
            "QU-D",
            "QU_D",
            "QUJD\n",
            "QU JD",
            "A===",
        ):
            self.add(
                "decode",
                f"std_wrong_{len(self.vectors)}",
                "H14",
                "MALFORMED",
                alphabet="std",
                text=text,
            )
        for n in (1, 191, 192, 193, 194, 600, 1000):
            raw = bytes((i * 53 + 7) & 0xFF for i in range(n))
            self.add(
                "stream", f"{n}", "R-03 R-31", "OK", text=tm.b64u(raw), step=1 if n < 200 else 37
            )
        for text, expect in (
            ("0" * 64, True),
            ("f" * 64, True),
            ("F" * 64, False),
            ("0" * 63, False),
            ("0" * 65, False),
            ("g" * 64, False),
            ("", False),
        ):
            self.add("digest", f"{len(self.vectors)}", "R-26", expect, text=text)

    # Certificates

    def _certificates(self) -> None:
        folder = Path(__file__).resolve().parents[2] / "certs" / "roots"
        for path in sorted(folder.glob("*.pem")):
            cert = x509.load_pem_x509_certificate(path.read_bytes())
            if cert.extensions is not None:
                self._facts(f"azure_{path.stem}", cert.public_bytes(Encoding.DER))
        plain = _certificate([_CA, _MAY_SIGN])
        self._facts("plain", plain)
        self._facts("version_1", _version_1())
        for name, day in (("1950", dt.datetime(1950, 1, 1)), ("1999", dt.datetime(1999, 12, 31, 23, 59, 59)),
                          ("2000_leap", dt.datetime(2000, 2, 29)), ("2049", dt.datetime(2049, 12, 31)),
                          ("2050", dt.datetime(2050, 1, 1)), ("2099", dt.datetime(2099, 3, 1, 1, 2, 3)),
                          ("2100", dt.datetime(2100, 3, 1))):  # fmt: skip
            seconds = day.hour * 3600 + day.minute * 60 + day.second
            stamp = int(day.replace(tzinfo=dt.timezone.utc).timestamp())
            self.add("date", name, "R-27", stamp, date=[day.year, day.month, day.day, seconds])
        body = plain
        wrong = {
            "trailing": body + b"\0",
            "two": body + body,
            "cut": body[:-1],
            "indefinite": b"\x30\x80" + body[4:] + b"\0\0",
            "length_in_3_bytes": b"\x30\x83\0" + body[2:],
            "length_not_minimal": _element(0x30, b"\x30\x81\x05" + bytes(5)),
            "length_not_minimal_2": _element(0x30, b"\x30\x82\x00\xc8" + bytes(200)),
            "not_a_sequence": b"\x31" + body[1:],
            "empty_sequence": b"\x30\x00",
            "four_parts": _element(0x30, body[4:] + b"\x05\x00"),
            "two_parts": _element(0x30, b"\x30\x00\x30\x00"),
            "nothing": b"",
            "one_byte": b"\x30",
            "one_length_byte": b"\x30\x82\x01",
        }
        for name, data in wrong.items():
            self.add("root", name, "R-26 H12", "MALFORMED", der=data.hex())
        date = body.index(b"\x17\x0d")
        for name, text in (
            ("month_letters", b"26x101000000Z"),
            ("no_zone", b"260101000000+"),
            ("offset", b"2601010000+00"),
        ):
            changed = body[: date + 2] + text + body[date + 15 :]
            self.add("root", f"date_{name}", "R-26", "MALFORMED", der=changed.hex())
        changed = body[:date] + b"\x18" + body[date + 1 :]
        self.add("root", "date_of_another_kind", "R-26", "MALFORMED", der=changed.hex())
        both = _certificate([_CA, _MAY_SIGN])
        inner = both.index(b"\x06\x03\x55\x1d\x0f")
        doubled = both[:inner] + b"\x06\x03\x55\x1d\x13" + both[inner + 5 :]
        self.add("root", "extension_twice", "R-26", "MALFORMED", der=doubled.hex())
        self._lengths()
        two = [
            (
                x509.UnrecognizedExtension(
                    x509.ObjectIdentifier("1.3.6.1.4.1.99999.%d" % i), b"\x05\0"
                ),
                False,
            )
            for i in (1, 2)
        ]
        strange = _certificate([_CA, _MAY_SIGN, *two])
        self.add("root", "unknown_extensions", "R-27", "OK", der=strange.hex())
        valueless = strange.replace(b"\x04\x02\x05\0", b"\x05\x02\x05\0", 1)
        self.add("root", "extension_without_value", "R-26", "MALFORMED", der=valueless.hex())
        oid = strange.index(b"\x86\x8d\x1f\x02")
        strange = strange[: oid + 3] + b"\x01" + strange[oid + 4 :]
        self.add("root", "unknown_extension_twice", "R-26", "MALFORMED", der=strange.hex())
        version = both.index(b"\xa0\x03\x02\x01\x02")
        second = both[: version + 4] + b"\x01" + both[version + 5 :]
        self.add("root", "version_2", "R-27", "NOT_CA", der=second.hex())
        usage = both.index(b"\x03\x02", inner)
        unset = both[: usage + 3] + b"\x02" + both[usage + 4 :]
        self.add("root", "key_usage_without_signing", "R-27", "NOT_CA", der=unset.hex())
        false = both.replace(
            b"\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff",
            b"\x01\x01\xff\x04\x05\x30\x03\x01\x01\x00",
        )
        self.add("root", "ca_false_spelled_out", "R-27", "NOT_CA", der=false.hex())
        one = both.replace(
            b"\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff",
            b"\x01\x01\xff\x04\x05\x30\x03\x02\x01\xff",
        )
        self.add("root", "ca_a_number", "R-27", "NOT_CA", der=one.hex())
        self._names()

    def _lengths(self) -> None:
        """Roots whose last part, the signature, has a length written in one way or another."""
        body, algorithm, _ = _children(_certificate([_CA, _MAY_SIGN]))

        def one(name: str, expect: str, head: bytes, size: int) -> None:
            der = _element(0x30, body + algorithm + b"\x03" + head + bytes(size))
            self.add("root", f"length_{name}", "R-26 H12", expect, der=der.hex())

        one("127", "OK", b"\x7f", 127)
        one("127_in_2", "MALFORMED", b"\x81\x7f", 127)
        one("128_in_2", "OK", b"\x81\x80", 128)
        one("255_in_3", "MALFORMED", b"\x82\x00\xff", 255)
        one("256_in_3", "OK", b"\x82\x01\x00", 256)
        one("256_in_4", "MALFORMED", b"\x83\x00\x01\x00", 256)
        one("indefinite", "MALFORMED", b"\x80", 128)
        one("of_one_byte_more", "MALFORMED", b"\x11", 16)
        serial = body.index(b"\x02\x01\x07")
        other = body[:serial] + b"\x04" + body[serial + 1 :]
        der = _element(0x30, other + algorithm + b"\x03\x01\x00")
        self.add("root", "without_serial", "R-26", "MALFORMED", der=der.hex())

    def _facts(self, name: str, der: bytes) -> None:
        cert = x509.load_der_x509_certificate(der) if name != "version_1" else None
        if cert is None:
            base = x509.load_der_x509_certificate(_certificate([]))
            expect = [
                1,
                int(base.not_valid_before_utc.timestamp()),
                int(base.not_valid_after_utc.timestamp()),
                False,
                True,
            ]
        else:
            try:
                ca = cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            except x509.ExtensionNotFound:
                ca = False
            try:
                sign = cert.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
            except x509.ExtensionNotFound:
                sign = True
            expect = [
                3,
                int(cert.not_valid_before_utc.timestamp()),
                int(cert.not_valid_after_utc.timestamp()),
                ca,
                sign,
            ]
        self.add("certificate", name, "R-27", expect, der=der.hex())

    def _names(self) -> None:
        def name(*parts: tuple) -> str:
            attributes = [
                x509.NameAttribute(oid, text, _ASN1Type.__members__[kind])
                for oid, text, kind in parts
            ]
            return x509.Name(attributes).public_bytes().hex()

        cn, o = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME
        base = name((cn, "Root One", "UTF8String"), (o, "Taproot", "UTF8String"))
        for label, other, equal in (
            ("same", base, True),
            (
                "printable",
                name((cn, "Root One", "PrintableString"), (o, "Taproot", "UTF8String")),
                True,
            ),
            ("case", name((cn, "ROOT one", "UTF8String"), (o, "tapRoot", "UTF8String")), True),
            (
                "spaces",
                name((cn, " Root  One ", "UTF8String"), (o, "Taproot", "UTF8String")),
                True,
            ),
            ("text", name((cn, "Root Two", "UTF8String"), (o, "Taproot", "UTF8String")), False),
            ("order", name((o, "Taproot", "UTF8String"), (cn, "Root One", "UTF8String")), False),
            ("one_part_less", name((cn, "Root One", "UTF8String")), False),
            (
                "other_kind",
                name((o, "Root One", "UTF8String"), (o, "Taproot", "UTF8String")),
                False,
            ),
            (
                "moved_letters",
                name((cn, "Root OneT", "UTF8String"), (o, "aproot", "UTF8String")),
                False,
            ),
        ):
            self.add("names", label, "R-28", equal, names=[base, other])

    def _headers(self) -> None:
        kid = tm.signer("vector0").kid
        good = {"alg": "PS256", "kid": kid, "typ": "trust-bundle+jws"}

        def one(name: str, header: dict | bytes, expect: object = "MALFORMED") -> None:
            data = header if isinstance(header, bytes) else tm.compact(header)
            self.add("header", name, "R-04 R-10 H7", expect, text=tm.b64u(data))

        one("good", good, ["PS256", kid, "trust-bundle+jws"])
        one(
            "rs256_of_keys",
            good | {"alg": "RS256", "typ": "trust-keys+jws"},
            ["RS256", kid, "trust-keys+jws"],
        )
        for alg in ("none", "HS256", "ES256", "PS384", "ps256", ""):
            one(f"alg_{alg}", good | {"alg": alg})
        one("typ_other", good | {"typ": "jwt"})
        one("kid_of_42", good | {"kid": kid[:-1]})
        one("kid_of_44", good | {"kid": kid + "A"})
        one("kid_of_other_letters", good | {"kid": "=" + kid[1:]})
        one("extra", good | {"crit": "b64"})
        one("alg_a_number", good | {"alg": 7})
        one("array", b"[]")
        one("tail", tm.compact(good) + b"1")
        one("spaces", json.dumps(good).encode(), ["PS256", kid, "trust-bundle+jws"])
        for missing in good:
            one(f"{missing}_missing", {k: v for k, v in good.items() if k != missing})


def tm_bytes(key: tm.Signer, number: int) -> bytes:
    return number.to_bytes((key.n.bit_length() + 7) // 8, "big")


def _kid(raw: bytes) -> str:
    text = '{"e":"AQAB","kty":"RSA","n":"%s"}' % tm.b64u(raw)
    return tm.b64u(hashlib.sha256(text.encode()).digest())


def write(path: Path) -> list[dict]:
    """Write the vectors."""
    vectors = Vectors().vectors
    path.write_text(json.dumps({"vectors": vectors}, ensure_ascii=False))
    return vectors


_ = os
