"""`taproot dps-key`: a device's key from the key of its DPS enrolment group, operator side only.

The group key opens every device of the group. It is read from a file or stdin, never from the
command line, and only the derived key is printed.
"""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path

import click
from azure_iot import sas
from azure_iot.dps import check_registration_id
from azure_iot.errors import CredentialError

from taproot.console import UsageFailed


@click.command()
@click.option("--registration-id", required=True, help="registration id of the device")
@click.option(
    "--group-key-file", type=click.Path(dir_okay=False, path_type=Path),
    help="file with the group's base64 key; without it the key is read from stdin",
)  # fmt: skip
def command(registration_id: str, group_key_file: Path | None) -> None:
    """Derive a device key from a DPS group key.

    Example: taproot dps-key --registration-id sn-007 --group-key-file group.key
    """
    try:
        check_registration_id(registration_id)
    except CredentialError as error:
        raise UsageFailed(str(error)) from None
    text = group_key_file.read_text() if group_key_file else sys.stdin.read()
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise UsageFailed("the group key is not base64: copy it whole, with its =") from None
    if not 16 <= len(key) <= 64:
        raise UsageFailed(f"the group key has {len(key)} bytes, 16 to 64 are possible")
    click.echo(base64.b64encode(sas.derive_device_key(key, registration_id)).decode())
