"""The service side by REST: the subset that azure-iot-hub and `taproot trust` use.

Responsible for: service tokens and their rights, registry, modules, twins, configurations,
direct methods, queries with continuation, statistics, the C2D queue and its feedback. Not for:
sockets (`https.py`), what a device sends. C2D is not sent here: the control API does that.
REST reference: learn.microsoft.com/rest/api/iothub/service.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from taproot.emulator import credentials, methods
from taproot.emulator import query as queries
from taproot.emulator.configurations import Configurations, test
from taproot.emulator.credentials import Refused, new_key
from taproot.emulator.hub import Hub
from taproot.emulator.query import QueryError
from taproot.emulator.registry import (
    CA,
    SAS,
    THUMBPRINT,
    Identity,
    RegistryError,
    check_key,
    new_etag,
)
from taproot.emulator.rest import Problem, Request, Response, integer_of, object_of, string_of
from taproot.emulator.twin import TwinError, stamp

_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_KINDS = {SAS: "sas", THUMBPRINT: "selfSigned", CA: "certificateAuthority"}
PAGE = 100
MAX_PAGE = 1000
BULK = 100
MAX_LOCKS = 100

Handler = Callable[[Request, dict[str, str]], "Response | Awaitable[Response]"]


class ServiceAPI:
    """Answers service requests for one hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.configurations = Configurations(
            hub.now, lambda: self._documents("devices"), self._set_desired
        )
        self._locks: dict[str, list[tuple[Identity, dict[str, Any]]]] = {}
        read, write, connect = {"RegistryRead"}, {"RegistryWrite"}, {"ServiceConnect"}
        either = read | connect
        device, module = "/devices/(?P<id>[^/]+)", "/modules/(?P<mid>[^/]+)"
        twin, feedback = "/twins/(?P<id>[^/]+)", "/messages/servicebound/feedback"
        configuration = "/configurations/(?P<cid>[^/]+)"
        table: list[tuple[str, str, set[str], Handler]] = [
            ("POST", "/devices/query", either, self._query),
            ("GET", "/devices", read, self._list_devices),
            ("POST", "/devices", write, self._bulk),
            ("GET", device, read, self._get_identity),
            ("PUT", device, write, self._put_identity),
            ("DELETE", device, write, self._delete_identity),
            ("DELETE", f"{device}/commands", connect, self._purge),
            ("POST", f"{device}/applyConfigurationContent", write, self._apply_content),
            ("GET", f"{device}/modules", read, self._list_modules),
            ("GET", device + module, read, self._get_identity),
            ("PUT", device + module, write, self._put_identity),
            ("DELETE", device + module, write, self._delete_identity),
        ]
        for path in (twin, twin + module):
            table += [
                ("GET", path, connect, self._get_twin),
                ("PATCH", path, connect, self._patch_twin),
                ("PUT", path, connect, self._replace_twin),
                ("POST", f"{path}/methods", connect, self._invoke),
            ]
        table += [
            ("GET", "/configurations", read, self._list_configurations),
            ("POST", "/configurations/testQueries", read, self._test_queries),
            ("GET", configuration, read, self._get_configuration),
            ("PUT", configuration, write, self._put_configuration),
            ("DELETE", configuration, write, self._delete_configuration),
            ("GET", "/statistics/devices", read, self._device_statistics),
            ("GET", "/statistics/service", read, self._service_statistics),
            ("GET", feedback, connect, self._feedback),
            ("DELETE", f"{feedback}/(?P<lock>[^/]+)", connect, self._complete),
            ("POST", f"{feedback}/(?P<lock>[^/]+)/abandon", connect, self._abandon),
        ]
        self._table = [
            (method, re.compile(path, re.IGNORECASE), rights, handler)
            for method, path, rights, handler in table
        ]

    def handles(self, path: str) -> bool:
        """Say whether a path is one of the service's."""
        return any(pattern.fullmatch(path) for _, pattern, _, _ in self._table)

    async def handle(self, request: Request) -> Response:
        """Answer one request; refusals have the service's error body."""
        host = self.hub.hosts[0]
        try:
            response = await self._dispatch(request)
        except Problem as problem:
            response = problem.response(host)
        except RegistryError as error:
            response = Problem(error.status, str(error)).response(host)
        except TwinError as error:
            response = Problem(error.status, str(error)).response(host)
        except QueryError as error:
            response = Problem(400, str(error), "IotHubQueryParserError").response(host)
        self.hub.log("service", method=request.method, path=request.path, status=response.status)
        return response

    async def _dispatch(self, request: Request) -> Response:
        known = False
        for method, pattern, rights, handler in self._table:
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            known = True
            if method != request.method:
                continue
            self._authorize(request, rights)
            if not _VERSION.fullmatch(request.query.get("api-version", "")):
                raise Problem(400, "api-version is missing or malformed")
            fields = {k: unquote(v) for k, v in match.groupdict().items() if v}
            answer = handler(request, fields)
            return answer if isinstance(answer, Response) else await answer
        if known:
            raise Problem(405, f"{request.method} is not possible here")
        raise Problem(404, "No such resource in the emulator", "ResourceNotFound")

    def _authorize(self, request: Request, rights: set[str]) -> None:
        text = request.headers.get("authorization", "")
        try:
            token = credentials.parse_token(text)
            policy = self.hub.registry.policies.get(token.policy or "")
            if policy is None or not policy.rights & rights:
                raise Refused("the policy does not have the right")
            hosts = {name.lower() for name in self.hub.hosts}
            host = token.resource.split("/")[0].lower()
            if host not in hosts:
                raise Refused("the token is for another host")
            resource = host + request.path
            credentials.check_token(text, resource, policy.keys, self.hub.now(), self.hub.skew)
        except Refused as refused:
            self.hub.log("service_refused", path=request.path, reason=str(refused))
            raise Problem(401, "Unauthorized") from None

    # -- identities -------------------------------------------------------------------------

    def _identity(self, fields: dict[str, str]) -> Identity:
        name = fields["id"] + ("/" + fields["mid"] if "mid" in fields else "")
        found = self.hub.registry.find(name)
        if found is None:
            kind = "Module" if "mid" in fields else "Device"
            raise Problem(404, f"{kind} {name} not registered", f"{kind}NotFound")
        return found

    def _list_devices(self, request: Request, fields: dict[str, str]) -> Response:
        top = integer_of(request.query, "top", MAX_PAGE)
        top = top if 1 <= top <= MAX_PAGE else MAX_PAGE
        found = list(self.hub.registry.devices.values())[:top]
        return Response(200, [self.view(one) for one in found])

    def _list_modules(self, request: Request, fields: dict[str, str]) -> Response:
        return Response(200, [self.view(m) for m in self._identity(fields).modules.values()])

    def _get_identity(self, request: Request, fields: dict[str, str]) -> Response:
        found = self._identity(fields)
        return Response(200, self.view(found), {"ETag": f'"{found.etag}"'})

    def _put_identity(self, request: Request, fields: dict[str, str]) -> Response:
        body = request.object()
        name = fields["id"] + ("/" + fields["mid"] if "mid" in fields else "")
        for key, wanted in (("deviceId", fields["id"]), ("moduleId", fields.get("mid"))):
            if body.get(key) not in (None, wanted):
                raise Problem(400, f"{key} of the body and of the path differ")
        found = self.hub.registry.find(name)
        condition = request.headers.get("if-match")
        if found is None:
            if condition is not None:
                self._identity(fields)
            self._need_owner(fields)
            found = self.hub.registry.add(name, **self._settings(body, None))
            status = 201 if "mid" in fields else 200
        else:
            if condition is None:
                kind = "Module" if "mid" in fields else "Device"
                raise Problem(409, f"{name} exists already", f"{kind}AlreadyExists")
            _check_match(condition, found.etag)
            self._update(found, body)
            status = 200
        self.configurations.apply()
        return Response(status, self.view(found), {"ETag": f'"{found.etag}"'})

    def _need_owner(self, fields: dict[str, str]) -> None:
        if "mid" in fields:
            self._identity({"id": fields["id"]})

    def _settings(self, body: dict[str, Any], known: Identity | None) -> dict[str, Any]:
        """Turn the REST body of an identity into what the registry takes."""
        given = object_of(body, "authentication")
        keys, prints = object_of(given, "symmetricKey"), object_of(given, "x509Thumbprint")
        thumbprints = [
            string_of(prints, "primaryThumbprint"),
            string_of(prints, "secondaryThumbprint"),
        ]
        kind = string_of(given, "type")
        names = {text: name for name, text in _KINDS.items()}
        if kind is None:
            auth = known.auth if known and not given else THUMBPRINT if any(thumbprints) else SAS
        elif kind in names:
            auth = names[kind]
        else:
            raise Problem(400, f"authentication type {kind!r} is not offered")
        if body.get("status") not in (None, "enabled", "disabled"):
            raise Problem(400, "status is enabled or disabled")
        settings: dict[str, Any] = {
            "auth": auth,
            "primary_key": string_of(keys, "primaryKey"),
            "secondary_key": string_of(keys, "secondaryKey"),
            "thumbprints": [text for text in thumbprints if text],
            "enabled": body.get("status", "enabled") != "disabled",
            "status_reason": string_of(body, "statusReason"),
            "managed_by": string_of(body, "managedBy"),
            "edge": bool(object_of(body, "capabilities").get("iotEdge")),
        }
        if settings["primary_key"] and settings["primary_key"] == settings["secondary_key"]:
            raise Problem(400, "primary and secondary key must differ")
        return settings

    def _update(self, found: Identity, body: dict[str, Any]) -> None:
        settings = self._settings(body, found)
        for key in ("primary_key", "secondary_key"):
            if settings[key] is not None:
                check_key(settings[key])
        try:
            prints = [credentials.normal_thumbprint(t) for t in settings["thumbprints"]]
        except ValueError as error:
            raise Problem(400, str(error)) from None
        found.auth = settings["auth"]
        if found.auth == SAS:
            found.primary_key = settings["primary_key"] or found.primary_key or new_key()
            found.secondary_key = settings["secondary_key"] or found.secondary_key or new_key()
            found.thumbprints = ()
        else:
            found.primary_key = found.secondary_key = ""
            if found.auth == THUMBPRINT and not (prints or found.thumbprints):
                raise Problem(400, "selfSigned needs a thumbprint")
            found.thumbprints = tuple(prints) or found.thumbprints
        found.managed_by = settings["managed_by"] or found.managed_by
        found.edge = settings["edge"]
        found.etag = new_etag()
        self.hub.set_enabled(found.id, settings["enabled"], settings["status_reason"])

    def _delete_identity(self, request: Request, fields: dict[str, str]) -> Response:
        found = self._identity(fields)
        condition = request.headers.get("if-match")
        if condition is None:
            raise Problem(400, "If-Match is missing")
        _check_match(condition, found.etag)
        self.hub.remove(found.id)
        return Response(204)

    def _bulk(self, request: Request, fields: dict[str, str]) -> Response:
        body = request.json()
        if not isinstance(body, list) or len(body) > BULK:
            raise Problem(400, f"The body is a list of at most {BULK} devices")
        errors = []
        for entry in body:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                raise Problem(400, "each device is an object with an id")
            try:
                self._bulk_one(entry)
            except (Problem, RegistryError, TwinError) as error:
                name = getattr(error, "name", None) or _bulk_error(error.status)
                errors.append(
                    {"deviceId": entry["id"], "errorCode": name, "errorStatus": str(error)}
                )
        answer = {"isSuccessful": not errors, "errors": errors, "warnings": []}
        return Response(400 if errors else 200, answer)

    def _bulk_one(self, entry: dict[str, Any]) -> None:
        name = entry["id"] + ("/" + entry["moduleId"] if entry.get("moduleId") else "")
        mode = str(entry.get("importMode") or "createOrUpdate")
        found = self.hub.registry.find(name)
        if found is None and mode.startswith(("delete", "update")):
            raise Problem(404, f"{name} is not registered")
        if found is not None and mode == "create":
            raise Problem(409, f"{name} exists already")
        if found is not None and mode.endswith("IfMatchETag"):
            tag = found.twin.etag if mode.startswith("updateTwin") else found.etag
            _check_match(str(entry.get("eTag")), tag)
        if mode.startswith("delete"):
            self.hub.remove(name)
            return
        if found is None:
            found = self.hub.registry.add(name, **self._settings(entry, None))
        elif not mode.startswith("updateTwin"):
            self._update(found, entry)
        desired = object_of(entry, "properties").get("desired")
        if entry.get("tags") is not None:
            found.twin.patch_tags(entry["tags"])
        if desired is not None:
            self.hub.patch_desired(name, desired)

    def view(self, found: Identity) -> dict[str, Any]:
        """Return an identity as the registry shows it."""
        keys = {"primaryKey": found.primary_key, "secondaryKey": found.secondary_key}
        none = {"primaryKey": None, "secondaryKey": None}
        body: dict[str, Any] = {
            "deviceId": found.device_id,
            "generationId": found.generation_id,
            "etag": found.etag,
            "connectionState": "Connected" if found.connected else "Disconnected",
            "connectionStateUpdatedTime": stamp(found.state_changed),
            "lastActivityTime": stamp(found.last_activity),
            "cloudToDeviceMessageCount": len(found.queue.letters),
            "authentication": {
                "symmetricKey": keys if found.auth == SAS else none,
                "x509Thumbprint": _prints(found),
                "type": _KINDS[found.auth],
            },
        }
        if found.module_id:
            return {**body, "moduleId": found.module_id, "managedBy": found.managed_by}
        return {
            **body,
            "status": "enabled" if found.enabled else "disabled",
            "statusReason": found.status_reason,
            "statusUpdatedTime": stamp(found.created),
            "capabilities": {"iotEdge": found.edge},
        }

    # -- twins and methods ------------------------------------------------------------------

    def document(self, found: Identity) -> dict[str, Any]:
        """Return a twin as services and queries see it."""
        twin = found.twin
        body: dict[str, Any] = {"deviceId": found.device_id}
        if found.module_id:
            body["moduleId"] = found.module_id
        body.update(
            etag=twin.etag,
            deviceEtag=found.etag,
            status="enabled" if found.enabled else "disabled",
            statusUpdateTime=stamp(found.created),
            connectionState="Connected" if found.connected else "Disconnected",
            lastActivityTime=stamp(found.last_activity),
            cloudToDeviceMessageCount=len(found.queue.letters),
            authenticationType=_KINDS[found.auth],
            x509Thumbprint=_prints(found),
            version=twin.version + twin.desired.version + twin.reported.version - 2,
            properties={
                "desired": twin.desired.for_service(),
                "reported": twin.reported.for_service(),
            },
        )
        if found.status_reason:
            body["statusReason"] = found.status_reason
        if found.session is not None and found.session.model_id:
            body["modelId"] = unquote(found.session.model_id)
        if not found.module_id:
            body["capabilities"] = {"iotEdge": found.edge}
        body["tags"] = twin.tags
        return body

    def _get_twin(self, request: Request, fields: dict[str, str]) -> Response:
        found = self._identity(fields)
        return Response(200, self.document(found), {"ETag": f'"{found.twin.etag}"'})

    def _change_twin(self, request: Request, fields: dict[str, str]) -> tuple[Identity, Any, Any]:
        found = self._identity(fields)
        condition = request.headers.get("if-match")
        if condition is not None:
            _check_match(condition, found.twin.etag)
        body = request.object()
        return found, body.get("tags"), object_of(body, "properties").get("desired")

    def _patch_twin(self, request: Request, fields: dict[str, str]) -> Response:
        found, tags, desired = self._change_twin(request, fields)
        found.twin.tags_limit = self.hub.limits.tags_bytes
        if tags is not None:
            found.twin.patch_tags(tags)
        if desired is not None:
            self.hub.patch_desired(found.id, desired)
        self.configurations.apply()
        return self._get_twin(request, fields)

    def _replace_twin(self, request: Request, fields: dict[str, str]) -> Response:
        found, tags, desired = self._change_twin(request, fields)
        found.twin.tags_limit = self.hub.limits.tags_bytes
        found.twin.replace_tags({} if tags is None else tags)
        self.hub.replace_desired(found.id, {} if desired is None else desired)
        self.configurations.apply()
        return self._get_twin(request, fields)

    def _set_desired(self, device: str, patch: dict[str, Any]) -> None:
        self.hub.patch_desired(device, patch)

    async def _invoke(self, request: Request, fields: dict[str, str]) -> Response:
        found = self._identity(fields)
        body = request.object()
        name = body.get("methodName")
        try:
            if not isinstance(name, str):
                raise ValueError
            methods.check_name(name)
        except ValueError:
            raise Problem(400, "methodName is missing or malformed") from None
        response_timeout = integer_of(body, "responseTimeoutInSeconds", 30)
        connect_timeout = integer_of(body, "connectTimeoutInSeconds", 0)
        if not methods.MIN_TIMEOUT <= response_timeout <= methods.MAX_TIMEOUT:
            raise Problem(400, "responseTimeoutInSeconds is 5 to 300")
        if not 0 <= connect_timeout <= methods.MAX_TIMEOUT:
            raise Problem(400, "connectTimeoutInSeconds is 0 to 300")
        result = await self.hub.invoke_method(
            found.id, name, body.get("payload"), response_timeout, connect_timeout
        )
        if result.ok:
            return Response(200, {"status": result.status, "payload": result.payload})
        error = {"trackingId": str(uuid.uuid4()), **(result.error or {}), "info": {}}
        error["timestampUtc"] = stamp(self.hub.now())
        return Response(
            result.hub_status,
            {"Message": json.dumps(error), "ExceptionMessage": ""},
            {"iothub-errorcode": "DeviceNotOnline" if result.hub_status == 404 else "Error"},
        )

    # -- queries ----------------------------------------------------------------------------

    def _documents(self, collection: str, after: str = "") -> Iterator[dict[str, Any]]:
        """Yield twins in the order of their keys, from the one behind `after` on."""
        modules = collection == "devices.modules"
        for found in sorted(self.hub.registry.all(), key=_order):
            if modules == bool(found.module_id) and _order(found) > after:
                yield self.document(found)

    def _query(self, request: Request, fields: dict[str, str]) -> Response:
        body = request.object()
        query = body.get("query")
        parsed = queries.parse(query)
        size = integer_of(request.headers, "x-ms-max-item-count", PAGE)
        if not 1 <= size <= MAX_PAGE:
            raise Problem(400, f"x-ms-max-item-count is 1 to {MAX_PAGE}")
        digest = hashlib.sha256(str(query).encode()).hexdigest()[:16]
        after, taken = _read_token(request.headers.get("x-ms-continuation"), digest)
        headers = {"x-ms-item-type": parsed.kind}
        if parsed.group or any(column.aggregate for column in parsed.columns):
            rows = parsed.run(self._documents(parsed.collection))
            page, more = rows[taken : taken + size], len(rows) > taken + size
            key = ""
        else:
            limit = size if parsed.top is None else min(size, parsed.top - taken)
            where = parsed.where
            matches: list[dict[str, Any]] = []
            for document in self._documents(parsed.collection, after):
                if where is None or where(document) is True:
                    matches.append(document)
                    if len(matches) > limit:
                        break
            more = len(matches) > limit and (parsed.top is None or taken + limit < parsed.top)
            chosen = matches[: max(limit, 0)]
            key = _key(chosen[-1]) if chosen else after
            page = replace(parsed, where=None, top=None).run(chosen)
        if more:
            token = json.dumps([digest, key, taken + len(page)])
            headers["x-ms-continuation"] = base64.b64encode(token.encode()).decode()
        return Response(200, page, headers)

    # -- configurations ---------------------------------------------------------------------

    def _list_configurations(self, request: Request, fields: dict[str, str]) -> Response:
        top = integer_of(request.query, "top", 100)
        found = list(self.configurations.all.values())[: max(top, 1)]
        return Response(200, [self.configurations.view(one) for one in found])

    def _get_configuration(self, request: Request, fields: dict[str, str]) -> Response:
        one = self.configurations.get(fields["cid"])
        return Response(200, self.configurations.view(one), {"ETag": f'"{one.etag}"'})

    def _put_configuration(self, request: Request, fields: dict[str, str]) -> Response:
        known = self.configurations.all.get(fields["cid"])
        condition = request.headers.get("if-match")
        if known is not None and condition is None:
            raise Problem(409, f"{known.id} exists already", "ConfigurationAlreadyExists")
        if condition is not None:
            _check_match(condition, self.configurations.get(fields["cid"]).etag)
        one = self.configurations.put(fields["cid"], request.object())
        return Response(200 if known else 201, self.configurations.view(one))

    def _delete_configuration(self, request: Request, fields: dict[str, str]) -> Response:
        one = self.configurations.get(fields["cid"])
        _check_match(request.headers.get("if-match", "*"), one.etag)
        self.configurations.remove(one.id)
        return Response(204)

    def _test_queries(self, request: Request, fields: dict[str, str]) -> Response:
        body = request.object()
        target_error, errors = test(
            string_of(body, "targetCondition") or "", object_of(body, "customMetricQueries")
        )
        return Response(
            200, {"targetConditionError": target_error, "customMetricQueryErrors": errors}
        )

    def _apply_content(self, request: Request, fields: dict[str, str]) -> Response:
        """Set module twins of an Edge device, as a manifest does."""
        found = self._identity(fields)
        content = object_of(request.object(), "modulesContent")
        if not found.edge:
            raise Problem(400, "The device is not an IoT Edge device")
        for name in content:
            module = f"{found.id}/{name}"
            if self.hub.registry.find(module) is None:
                self.hub.registry.add(module, managed_by="iotEdge")
            desired = object_of(content, name).get("properties.desired")
            if desired is not None:
                self.hub.replace_desired(module, desired)
        return Response(204)

    # -- statistics, cloud-to-device queue --------------------------------------------------

    def _device_statistics(self, request: Request, fields: dict[str, str]) -> Response:
        devices = self.hub.registry.devices.values()
        enabled = sum(one.enabled for one in devices)
        return Response(
            200,
            {
                "totalDeviceCount": len(devices),
                "enabledDeviceCount": enabled,
                "disabledDeviceCount": len(devices) - enabled,
            },
        )

    def _service_statistics(self, request: Request, fields: dict[str, str]) -> Response:
        count = sum(one.connected for one in self.hub.registry.devices.values())
        return Response(200, {"connectedDeviceCount": count})

    def _purge(self, request: Request, fields: dict[str, str]) -> Response:
        found = self._identity(fields)
        count = found.queue.purge()
        body = {"totalMessagesPurged": count, "deviceId": found.id, "moduleId": None}
        return Response(200, body)

    def _feedback(self, request: Request, fields: dict[str, str]) -> Response:
        batch: list[tuple[Identity, dict[str, Any]]] = []
        for found in self.hub.registry.all():
            while found.queue.feedback:
                batch.append((found, found.queue.feedback.popleft()))
        if not batch:
            return Response(204)
        lock = str(uuid.uuid4())
        self._locks[lock] = batch
        if len(self._locks) > MAX_LOCKS:  # the oldest lock is lost, its feedback is given back
            self._give_back(self._locks.pop(next(iter(self._locks))))
        body = [{**entry, "deviceGenerationId": found.generation_id} for found, entry in batch]
        return Response(200, body, {"ETag": f'"{lock}"'})

    def _locked(self, fields: dict[str, str]) -> list[tuple[Identity, dict[str, Any]]]:
        batch = self._locks.pop(fields["lock"], None)
        if batch is None:
            raise Problem(412, "The lock is lost", "DeviceMessageLockLost")
        return batch

    def _complete(self, request: Request, fields: dict[str, str]) -> Response:
        self._locked(fields)
        return Response(204)

    def _abandon(self, request: Request, fields: dict[str, str]) -> Response:
        self._give_back(self._locked(fields))
        return Response(204)

    @staticmethod
    def _give_back(batch: list[tuple[Identity, dict[str, Any]]]) -> None:
        for found, entry in batch:
            found.queue.feedback.append(entry)


def _prints(found: Identity) -> dict[str, str | None]:
    first, second, *_ = (*found.thumbprints, None, None)
    return {"primaryThumbprint": first, "secondaryThumbprint": second}


def _order(found: Identity) -> str:
    return f"{found.device_id}/{found.module_id or ''}"


def _key(document: dict[str, Any]) -> str:
    return f"{document['deviceId']}/{document.get('moduleId', '')}"


def _check_match(condition: str, etag: str) -> None:
    if condition.strip().strip('"') not in ("*", etag):
        raise Problem(412, "The etag does not match")


def _bulk_error(status: int) -> str:
    return {404: "DeviceNotFound", 409: "DeviceAlreadyExists"}.get(status, "ArgumentInvalid")


def _read_token(text: str | None, digest: str) -> tuple[str, int]:
    """Return the key and the count a continuation token stands for."""
    if not text:
        return "", 0
    try:
        found, key, taken = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise Problem(400, "The continuation token is not one of this service") from None
    if found != digest or not isinstance(key, str) or not isinstance(taken, int):
        raise Problem(400, "The continuation token belongs to another query")
    return key, taken
