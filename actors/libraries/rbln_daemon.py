"""Asks Rebellions' management daemon (`rbln_daemon`, from driver 3.2 on `rbln-smd`) over gRPC. Run by `library_child`.

Questions are `<what>.<where>`: `devices` for what stays, `live` for what changes; `tcp.<port>` on this machine or
`socket`. Only numbers and names that travel on the wire are written here, and only those that our probe reads.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

MODULE = "grpc"
KEEP = True

SERVICE = "rblnservices.RBLNServices"
SOCKET = "/var/run/rbln.sock"
DEADLINE_S = 1.2
MOST_DEVICES = 256
MOST_EVENTS = 16
EVENT_S = 600.0
"""Older events are dropped as they come: the daemon tells a device's whole history, of other boots too."""
AGAIN_S = 10.0
"""A stream of events that ended is opened again after this long."""

TEXT, INTEGER, FLOAT, DOUBLE = "string", "int32", "float", "double"

MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Nothing": (),
    "Device": (
        ("name", 1, TEXT),
        ("dev_id", 2, TEXT),
        ("uuid", 3, TEXT),
        ("pci_bus_id", 4, TEXT),
        ("card_name", 5, TEXT),
    ),
    "Info": (
        ("name", 1, TEXT),
        ("total_mem", 3, FLOAT),
        ("used_mem", 4, FLOAT),
        ("temperature", 5, FLOAT),
        ("watt", 6, FLOAT),
        ("fw_version", 7, TEXT),
        ("drv_version", 8, TEXT),
        ("utilization", 9, FLOAT),
        ("err_status", 10, INTEGER),
        ("dev_status", 11, INTEGER),
        ("p_state", 12, INTEGER),
    ),
    "Event": (
        ("dev_name", 1, TEXT),
        ("event_type", 2, INTEGER),
        ("value", 3, INTEGER),
        ("kernel_time", 5, DOUBLE),
    ),
    "Failure": (("code", 1, INTEGER), ("message", 2, TEXT)),
    "Place": (
        ("device_name", 1, TEXT),
        ("numa_node", 3, INTEGER),
        ("rsd_group", 5, TEXT),
        ("error", 15, "Failure"),
    ),
    "Topology": (("entries", 1, "[Place]"),),
}
"""Message -> fields as (name, number, type); a message's name in brackets is a list of it.

The daemon's enumerations travel as int32. Names of messages are ours: they are not on the wire.
"""

METHODS: dict[str, tuple[str, str, bool]] = {
    "getDeviceList": ("Nothing", "Device", True),
    "getTotalInfo": ("Nothing", "Info", True),
    "getEventInfo": ("Device", "Event", True),
    "RblnListTopology": ("Nothing", "Topology", False),
}
"""Method -> request, answer, whether the answer is a stream."""

_known: dict[str, Daemon] = {}


def answer(question: str) -> dict[str, Any]:
    """What the daemon says; `error` when it does not answer: the next question may find it again."""
    import grpc

    what, _, where = question.partition(".")
    daemon = _known.get(where)
    if daemon is None:
        daemon = _known[where] = Daemon(address(where))
    try:
        return daemon.devices() if what == "devices" else daemon.live()
    except grpc.RpcError as error:
        return {"error": str(error)[:400]}


def address(where: str) -> str:
    """The name of a place as gRPC writes it.

    >>> address("tcp.50051"), address("socket")
    ('127.0.0.1:50051', 'unix:///var/run/rbln.sock')
    """
    kind, _, port = where.partition(".")
    return f"127.0.0.1:{int(port)}" if kind == "tcp" else f"unix://{SOCKET}"


def message_classes() -> dict[str, Any]:
    """A class for each message, in a pool of its own so that no other package's definitions are met."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="rbln.proto", package="rbln", syntax="proto3")
    for name, fields in MESSAGES.items():
        made = file.message_type.add(name=name)
        for field, number, given in fields:
            kind = given.strip("[]")
            row = made.field.add(name=field, number=number)
            row.label = kinds.LABEL_REPEATED if kind != given else kinds.LABEL_OPTIONAL
            row.type = getattr(kinds, f"TYPE_{'MESSAGE' if kind in MESSAGES else kind.upper()}")
            if kind in MESSAGES:
                row.type_name = f".rbln.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"rbln.{name}"))
        for name in MESSAGES
    }


class Daemon:
    """One connection, kept; events of each device arrive on a thread of its own."""

    def __init__(self, target: str) -> None:
        import grpc

        # A proxy of the environment is no way to this machine.
        self._channel = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        atexit.register(self._channel.close)
        self._classes = message_classes()
        self._calls = {name: self._call(name, *shape) for name, shape in METHODS.items()}
        self._events: dict[str, deque[dict[str, Any]]] = {}
        self._opened: dict[str, float] = {}
        self._followed: set[str] = set()

    def devices(self) -> dict[str, Any]:
        """What stays: every device with what the daemon knows of it."""
        devices = self._stream("getDeviceList", self._classes["Nothing"]())
        return {"devices": devices, "places": self._places(), **self.live()}

    def live(self) -> dict[str, Any]:
        """What changes: one answer for all devices, and the latest events."""
        infos = self._stream("getTotalInfo", self._classes["Nothing"]())
        for info in infos:
            self._listen(info["name"])
        return {"infos": infos, "events": [e for kept in self._events.values() for e in [*kept]]}

    def _places(self) -> list[dict[str, Any]]:
        """Where devices sit; a daemon of before driver 3.x does not know the question."""
        import grpc

        try:
            found = self._calls["RblnListTopology"](self._classes["Nothing"](), timeout=DEADLINE_S)
        except grpc.RpcError:
            return []
        # What failed is full of zeros that would read as NUMA node 0.
        return [_row(e) for e in found.entries if not e.error.code and not e.error.message]

    def _listen(self, device: str) -> None:
        """Follows the events of a device; one stream at a time."""
        now = time.monotonic()
        if device in self._followed or now - self._opened.get(device, -AGAIN_S) < AGAIN_S:
            return
        self._events.setdefault(device, deque(maxlen=MOST_EVENTS))
        self._opened[device] = now
        self._followed.add(device)
        threading.Thread(target=self._follow, args=(device,), daemon=True).start()

    def _follow(self, device: str) -> None:
        import grpc

        kept = self._events[device]
        try:
            for event in self._calls["getEventInfo"](self._classes["Device"](name=device)):
                row = _row(event)
                age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - event.kernel_time
                if -1.0 <= age_s <= EVENT_S and row not in kept:
                    kept.append(row)
        except (grpc.RpcError, ValueError):  # the daemon went, or we close
            return
        finally:
            self._followed.discard(device)

    def _stream(self, method: str, request: Any) -> list[dict[str, Any]]:
        answers: Iterable[Any] = self._calls[method](request, timeout=DEADLINE_S)
        return [_row(one) for one, _ in zip(answers, range(MOST_DEVICES), strict=False)]

    def _call(self, method: str, request: str, reply: str, stream: bool) -> Any:
        make = self._channel.unary_stream if stream else self._channel.unary_unary
        return make(
            f"/{SERVICE}/{method}",
            request_serializer=self._classes[request].SerializeToString,
            response_deserializer=self._classes[reply].FromString,
        )


def _row(message: Any) -> dict[str, Any]:
    """The plain fields of a message by name."""
    plain = (name for name, _, kind in MESSAGES[message.DESCRIPTOR.name] if kind.islower())
    return {name: getattr(message, name) for name in plain}
