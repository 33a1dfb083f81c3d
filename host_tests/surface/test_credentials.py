"""Every way to prove who the device is, against the emulator, and what is refused beforehand."""

import base64

import pytest
from support.surface import Device
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority

X509 = """
from azure_iot import IoTHubDeviceClient, X509Certificate
async def main():
    read = lambda name: open(name, "rb").read()
    cert = X509Certificate(read(F["cert"]), read(F["key"]), [read(n) for n in F.get("more", ())])
    client = IoTHubDeviceClient.from_x509(cert, "localhost", F["device_id"], roots=roots,
        port=F["port"])
    async with client:
        await client.send_message("x")
    out(repr(cert))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def ca():
    return Authority.root("device root", key="p256")


@pytest.fixture(scope="module")
def x509_emu(hub_leaf, ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(ca.pem)
    with running(EmulatorConfig(chain=hub_leaf, client_roots=[str(path)])) as emu:
        yield emu


@pytest.mark.parametrize("key", ["rsa2048", "p256", "p384"])
@pytest.mark.parametrize("form", ["pem", "der"])
def test_x509_with_intermediate(tmp_path, x509_emu, hub_root, ca, key, form):
    name = f"x-{key}-{form}"
    leaf = ca.intermediate("device ca", key="p256").leaf(name, key=key, client=True)
    facts = {"cert": "leaf", "key": "key"}
    if form == "pem":
        (tmp_path / "leaf").write_text(leaf.chain_pem)
        (tmp_path / "key").write_text(leaf.key_pem)
    else:
        (tmp_path / "leaf").write_bytes(leaf.der)
        (tmp_path / "key").write_bytes(leaf.key_der)
        (tmp_path / "more").write_bytes(leaf.chain[1].der)
        facts["more"] = ["more"]
    x509_emu.add_device(name, auth="x509_ca")
    out = Device(tmp_path, x509_emu, hub_root).run(X509, name, cs="", **facts)
    assert out[0][0].startswith(f"<X509Certificate of {name} until")
    assert [m.body for m in x509_emu.messages(name)] == [b"x"]


SAS = """
from azure_iot import IoTHubDeviceClient, SasProvider, StaticToken, SignerKey
from azure_iot import sas, credentials
key = credentials.SymmetricKey(F["key"])
class Chip:
    async def sign(self, message):
        await asyncio.sleep(0)
        return key.sign(message)
calls = []
async def provide(resource, expiry):
    calls.append(resource)
    if len(calls) == 1:
        raise OSError(5)
    return sas.token(resource, expiry, key.sign)
async def main():
    from azure_iot.clock import unix_time
    static = sas.token("localhost%2Fdevices%2F" + F["device_id"], unix_time() + 600, key.sign)
    for credential in (SignerKey(Chip()), SasProvider(provide), StaticToken(static)):
        client = IoTHubDeviceClient.from_credential(
            credential, "localhost", F["device_id"], roots=roots, port=F["port"])
        async with client:
            await client.send_message(repr(credential))
    out(len(calls), calls[0])
asyncio.run(main())
"""


def test_signer_provider_and_static_token(device, emu):
    key = base64.b64encode(bytes(range(32))).decode()
    emu.add_device("tokens", primary_key=key)
    out = device.run(SAS, "tokens", cs="", key=key)
    assert out[-1] == [2, "localhost%2Fdevices%2Ftokens"]
    bodies = [m.body.decode() for m in emu.messages("tokens")]
    assert [b.split()[0] for b in bodies] == ["<SignerKey>", "<SasProvider,", "<StaticToken"]


LATE = """
from azure_iot import IoTHubDeviceClient, SasProvider, ConnectionFailedError
async def provide(resource, expiry):
    await asyncio.sleep(60)
async def main():
    client = IoTHubDeviceClient.from_credential(SasProvider(provide, deadline_s=1), "localhost",
        F["device_id"], roots=roots, port=F["port"], fleet_size_hint=1)
    failed = []
    client.on_event = lambda name, fact: failed.append((name, fact))
    try:
        await client.connect(5)
    except ConnectionFailedError:
        pass
    await client.disconnect()
    out(len(failed) > 1, failed[0][0], failed[0][1].reason, str(failed[0][1]))
asyncio.run(main())
"""


def test_a_token_service_that_does_not_answer_is_left_and_asked_again(device, emu):
    ((again, name, reason, words),) = device.run(LATE, "late")
    assert again and (name, reason) == ("connect_failed", "provider")
    assert "no token within 1 s" in words


RENEWAL = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], sas_life_s=F["life"])
    async with client:
        for n in range(F["count"]):
            await client.send_message("%d" % n, wait=False)
            await asyncio.sleep_ms(20)
            while client.stats["pending"] > 50:
                await asyncio.sleep_ms(20)
        while client.stats["pending"]:
            await asyncio.sleep_ms(20)
    out(client.stats)
asyncio.run(main())
"""


def test_tokens_are_renewed_in_time_and_nothing_is_lost(device, emu, count):
    sent = count(500, 3000)
    device.run(RENEWAL, "renew", life=4, count=sent, limit=120)
    numbers = [int(m.body) for m in emu.messages("renew")]
    assert sorted(set(numbers)) == list(range(sent))
    events = emu.events()
    connects = [e for e in events if e["type"] == "connect" and e.get("identity") == "renew"]
    assert len(connects) >= 3, "tokens of 4 s over more than 10 s"
    ends = [e for e in events if e["type"] == "disconnect" and e.get("identity") == "renew"]
    assert not any("expired" in str(e) for e in ends), "the device is earlier than the expiry"


REFUSED = """
from azure_iot import CredentialError
from azure_iot.connection_string import parse
for text in F["texts"]:
    try:
        parse(text)
        out("accepted", text)
    except CredentialError as error:
        out(str(error))
"""


def test_pasted_mistakes_are_refused_in_words_without_secrets(device):
    key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    good = f"HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey={key}"
    texts = {
        good.replace("DeviceId=d", "SharedAccessKeyName=iothubowner"): "opens the whole hub",
        good.replace("h.azure-devices.net", "0ne00A1B2C3"): "id scope",
        good.replace(key, key[:-3]): "not base64",
        good.replace(key, "YWJj"): "3 bytes",
        good.replace("HostName=h.azure-devices.net;", ""): "no HostName",
        good.replace("h.azure", "https://h.azure"): "bare host name",
        good + ";x509=true": "exactly one",
        good + ";EntityPath=x": "unknown field",
        "nonsense": "broken near its field 1",
    }
    out = device.run(REFUSED, "refused", texts=list(texts))
    for (text,), part in zip(out, texts.values(), strict=True):
        assert part in text
        assert key[:20] not in text


PAIRS = """
from azure_iot import X509Certificate, CredentialError
def tell(cert, key, name="x", now=None):
    try:
        c = X509Certificate(cert, key)
        c.check(now or c.not_before + 1, name)
        out("good")
    except CredentialError as error:
        out(str(error))
read = lambda name: open(name, "rb").read()
tell(read("leaf"), read("key"))
tell(read("leaf"), read("other"))
tell(read("leaf")[:-200], read("key"))
tell(read("key"), read("leaf"))
tell(read("leaf"), b"-----BEGIN ENCRYPTED PRIVATE KEY-----\\nYWJj\\n-----END ENCRYPTED PRIVATE KEY-----\\n")
tell(read("leaf"), read("key"), "y")
tell(read("leaf"), read("key"), "x", 4000000000)
tell(read("leaf"), read("key"), "x", 1000000000)
"""


def test_certificate_and_key_are_judged_before_connecting(device, ca):
    leaf = ca.leaf("x", key="p256", client=True)
    (device.folder / "leaf").write_text(leaf.pem)
    (device.folder / "key").write_text(leaf.key_pem)
    (device.folder / "other").write_text(ca.leaf("x", key="p256", client=True).key_pem)
    out = [o[0] for o in device.run(PAIRS, "pairs")]
    assert out[0] == "good"
    for text, part in zip(
        out[1:],
        ["does not belong", "cut", "no certificate", "encrypted", 'the device is "y"', "expired",
         "clock"],
        strict=True,
    ):  # fmt: skip
        assert part in text


PASTED = """
from azure_iot.bringup import read_file
from azure_iot.errors import CredentialError
try:
    read_file(F["key"])
except CredentialError as error:
    out(str(error))
"""


def test_a_key_pasted_where_its_path_belongs_is_not_shown(device, ca):
    pem = ca.leaf("pasted", key="rsa2048", client=True).key_pem
    (said,) = device.run(PASTED, "pasted", cs="", key=pem)[0]
    assert said.startswith("cannot read ") and len(said) < 90
    assert not [line for line in pem.splitlines()[2:] if line in said]


STARTED = """
from azure_iot.agent import Agent
from azure_iot.errors import CredentialError
from azure_iot.unix.platform import Platform
async def main():
    for config in F["configs"]:
        try:
            await Agent(Platform(dict({"roots": ["root.der"]}, **config))).start()
            out("started")
        except CredentialError as error:
            out(str(error))
asyncio.run(main())
"""


def test_a_mistake_in_the_configuration_names_its_field(device):
    key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    text = f"HostName=localhost;DeviceId=d;SharedAccessKey={key}"
    dps = {"id_scope": "0ne00000001", "registration_id": "d", "key": key, "host": "localhost"}
    cases = [
        *[({"dps": {**dps, name: None}}, f'"dps.{name}" as a text; there is none')
          for name in ("id_scope", "registration_id", "key")],
        ({"dps": {**dps, "key": 5}}, '"dps.key" as a text; it is another kind'),
        ({"dps": "0ne00000001"}, '"dps" as an object {…}; it is another kind'),
        ({"dps": {}}, '"dps.id_scope"'),
        ({"dps": {**dps, "host": 5}}, '"client" or "dps"'),
        ({"dps": dps, "certificate": "leaf"}, '"key" as a text; there is none'),
        ({"connection_string": text, "certificate": "leaf"}, '"key" as a text; there is none'),
        ({"connection_string": 5}, '"connection_string" as a text'),
        ({"connection_string": ""}, '"connection_string" as a text'),
        ({"connection_string": text, "client": {"prot": 1}}, "'prot'"),
        ({"connection_string": text, "client": "8883"}, '"client" as an object'),
        ({"connection_string": text, "roots": "root.der"}, '"roots" as a list'),
        ({"connection_string": text, "roots": [1]}, 'cannot read "1"'),
        ({}, "neither connection_string nor dps"),
    ]  # fmt: skip
    out = device.run(STARTED, "fields", cs="", configs=[config for config, _ in cases])
    for (words,), (config, part) in zip(out, cases, strict=True):
        assert part in words, config
        assert key not in words


CUT = """
from azure_iot.errors import CredentialError
from azure_iot.unix.platform import Platform
def config(data):
    with open("device.json", "wb") as file:
        file.write(data)
    try:
        return Platform("device.json").config
    except CredentialError as error:
        return str(error)
text = json.dumps(F["config"]).encode()
out(config(text), config(b"  " + text + b"\\n"))
out([n for n in range(len(text)) if not isinstance(config(text[:n]), str)])
words = {config(text[:n]) for n in range(len(text))}
out([word for word in words if "cut" not in word])
out(config(b"[1]"), config(b"5"), config(text + b"}"), config(text + b","))
out("azure_iot.configuration" in sys.modules)
"""


def test_a_configuration_file_that_was_cut_is_refused_wherever_it_was(device):
    """MicroPython's parser takes `{"a": 1` for whole: a device would start without its options."""
    config = {
        "connection_string": "HostName=h;DeviceId=d;SharedAccessKey=abc=",
        "update_agent": False,
        "channels": ["inbox"],
        "wifi_key": '} ü \\ "{',
        "client": {"port": 8883},
    }
    whole, accepted, other, wrong, loaded = device.run(CUT, "cut", cs="", config=config)
    assert whole == [config, config]
    assert accepted == [[]] and other == [[]]
    assert all("no JSON" in words for words in wrong)
    assert loaded == [False]
