"""Stands in for Rebellions' management daemon: a gRPC server on a loopback port that tells of made-up cards.

Decides nothing: its owner says which cards there are and what they do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from ...libraries.rbln_daemon import METHODS, SERVICE, message_classes
from .cards import Card, cards, declared

MOST_EVENTS = 1000
SPARE_THREADS = 4
END_S = 1.0


class Daemon:
    """A running server; `close`, or leaving the `with` block, ends it.

    Attributes:
        port: where it listens.
        figures: device name -> fields of its next answers that differ, by the names of the interface.
        unplaced: devices whose topology it cannot tell.
    """

    def __init__(self, described: tuple[Card, ...], port: int = 0) -> None:
        import grpc

        self.figures: dict[str, dict[str, Any]] = {}
        self.unplaced: set[str] = set()
        self._cards = described
        self._classes = message_classes()
        self._events: list[Any] = []
        self._changed = threading.Condition()
        self._closed = False
        # A client that follows the events of a device holds a thread.
        self._server: Any = grpc.server(ThreadPoolExecutor(len(described) + SPARE_THREADS))
        handlers = {name: self._handler(name, *shape) for name, shape in METHODS.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self.port: int = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def event(self, device: str, source: int, kernel_time_s: float) -> None:
        """Sends an event to whoever follows the device."""
        with self._changed:
            if len(self._events) < MOST_EVENTS:
                made = self._classes["Event"](
                    dev_name=device, value=source, kernel_time=kernel_time_s
                )
                self._events.append(made)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the server and whoever follows events."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.stop(END_S).wait(2 * END_S)

    def _handler(self, name: str, request: str, reply: str, stream: bool) -> Any:
        import grpc

        make = (
            grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        )
        behaviour: Any = {
            "getDeviceList": self._devices,
            "getTotalInfo": self._infos,
            "getEventInfo": self._follow,
            "RblnListTopology": self._topology,
        }[name]
        return make(
            behaviour,
            request_deserializer=self._classes[request].FromString,
            response_serializer=self._classes[reply].SerializeToString,
        )

    def _devices(self, request: Any, context: Any) -> Iterator[Any]:
        del request, context
        for card in self._cards:
            yield self._classes["Device"](
                name=card.name,
                dev_id=card.device_id,
                uuid=card.uuid,
                pci_bus_id=card.pci,
                card_name=card.product,
            )

    def _infos(self, request: Any, context: Any) -> Iterator[Any]:
        del request, context
        for card in self._cards:
            said: dict[str, Any] = {
                "name": card.name,
                "total_mem": card.memory_bytes / 2**30,
                "temperature": card.temperature_mc,
                "watt": card.power_uw,
                "fw_version": "3.0.0",
                "drv_version": "3.0.0",
                "p_state": 14,
            }
            yield self._classes["Info"](**said | self.figures.get(card.name, {}))

    def _topology(self, request: Any, context: Any) -> Any:
        del request, context
        make = self._classes["Place"]
        places = [
            make(device_name=c.name, error=self._classes["Failure"](code=2, message="no topology"))
            if c.name in self.unplaced
            else make(device_name=c.name, numa_node=c.numa_node)
            for c in self._cards
        ]
        return self._classes["Topology"](entries=places)

    def _follow(self, request: Any, context: Any) -> Iterator[Any]:
        context.add_callback(self._wake)
        told = 0
        while context.is_active() and not self._closed:
            new = self._after(told, context)
            told += len(new)
            yield from (event for event in new if event.dev_name == request.name)

    def _after(self, told: int, context: Any) -> list[Any]:
        """The events from a number on; waits for one as long as there is somebody to tell."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or len(self._events) > told or not context.is_active()
            )
            return self._events[told:]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def start_daemon(class_name: str, count: int, port: int = 0) -> Daemon:
    """A daemon with so many devices of a class of the catalog; port 0 takes a free one.

    Raises:
        ValueError: Rebellions makes no such class.
    """
    return Daemon(cards(declared(class_name, count)), port)
