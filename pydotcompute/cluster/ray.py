"""Ray as the engine: where hosts run, and how they are called."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import MISSING, dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ClassVar

from ..exceptions import ClusterError
from .host import Host

PATIENCE = 15.0
"""Seconds in which Ray has to end; it may be about to start."""
REACH = 3.0
"""Seconds in which the head of a cluster has to take a connection."""


@dataclass(frozen=True, slots=True)
class Place:
    """A machine of the cluster."""

    id: str
    address: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Handle:
    """A host on its machine."""

    actor: Any

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self.actor, method).remote(*args)


class Engine:
    """A Ray that is started, or found, once."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._ray: Any = None
        self._keeper: _Keeper | None = None  # where it was started, if that was here

    async def start(self, loop: asyncio.AbstractEventLoop, timeout: float) -> list[Place]:
        """Start a Ray on this machine, or connect to the one at the address; its machines.

        Raises:
            ClusterError: Ray is missing or broken, nobody answers at the address, or it is another version.
        """
        self._ray = ray = await loop.run_in_executor(None, _imported)  # which takes seconds
        try:
            async with asyncio.timeout(timeout):
                while (ending := _Keeper.ending) is not None:  # by the runtime that was the last to use it
                    await asyncio.shield(asyncio.wrap_future(ending))
                with _Keeper.lock:
                    if _Keeper.ours is None and not ray.is_initialized():
                        _Keeper.ours = _Keeper(partial(self._init, self._address or os.environ.get("RAY_ADDRESS")))
                    keeper = self._keeper = _Keeper.ours
                    if keeper is not None:
                        keeper.users += 1
                if keeper is not None:
                    await asyncio.shield(asyncio.wrap_future(keeper.started))
                await loop.run_in_executor(None, self._check_address)
        except TimeoutError:
            self._leave()
            where = f"at {self._address}" if self._address else "on this machine"
            raise ClusterError(f"Ray has not started {where} within {timeout:g} s") from None
        except ClusterError:
            self._leave()
            raise
        return await self.places(loop)

    def _check_address(self) -> None:
        """See that the cluster which this process is in, perhaps for another runtime, is the one at the address.

        Raises:
            ClusterError: it is not.
        """
        host, colon, port = (self._address or "").rpartition(":")
        connected = str(self._ray.get_runtime_context().gcs_address)
        if not colon or self._address == connected:
            return
        try:
            found = socket.gethostbyname(host)
        except OSError:
            found = host
        if port != connected.rpartition(":")[2] or not (found.startswith("127.") or connected.startswith(f"{found}:")):
            raise ClusterError(
                f"this process is in the Ray cluster at {connected}, and not in that at {self._address}: a process is "
                "in one at a time; leave address= out, or use another process"
            )

    def _init(self, address: str | None) -> None:
        if address is not None and address not in ("auto", "local"):
            _reach(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # The default of tomorrow, about which Ray warns today.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Without an address Ray would take the cluster that was started last on this machine, whoever did.
        address = address or "local"
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            self._ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:
            text = " ".join(str(error).split())
            if "ersion mismatch" in text:
                raise ClusterError(f"the cluster runs another Ray or Python than this process: {text}") from error
            if "Failed to connect" in text and address != "local":
                hint = (
                    "If it was started with RAY_AUTH_MODE=token, this process needs that in its environment before "
                    "Ray is imported, and the cluster's token in ~/.ray/auth_token"
                )
                raise ClusterError(f"the cluster at {address} does not let this process in. {hint} ({text})") from error
            raise ClusterError(f"Ray does not start: {text or type(error).__name__}") from error

    async def places(self, loop: asyncio.AbstractEventLoop) -> list[Place]:
        """The machines that are there."""
        nodes = await loop.run_in_executor(None, self._ray.nodes)
        return [
            Place(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("GPU", 0)))
            for node in nodes
            if node["Alive"]
        ]

    def host(self, name: str, place: Place, num_gpus: int) -> Handle:
        """Start a host there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = self._ray.remote(Host).options(
            num_cpus=0,
            num_gpus=num_gpus,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.id, soft=False),
        )
        return Handle(options.remote(name))

    def kill(self, handle: Handle) -> None:
        self._ray.kill(handle.actor)

    def is_by_value(self, cls: type) -> bool:
        """Whether a class goes to other nodes with its code, as those that were written in a notebook do."""
        from ray import cloudpickle

        by_value: set[str] = cloudpickle.list_registry_pickle_by_value()  # type: ignore[no-untyped-call]
        return cls.__module__ == "__main__" or cls.__module__ in by_value

    def packed(self, code: Any) -> bytes:
        """Definitions and classes as bytes, those of a notebook with their code."""
        from ray.cloudpickle import Pickler

        class Packer(Pickler):
            # Else the fields of a dataclass would have a default there, which is a MISSING of its own.
            dispatch_table = Pickler.dispatch_table.new_child({type(MISSING): lambda _: "MISSING"})

        data = io.BytesIO()
        Packer(data).dump(code)  # type: ignore[no-untyped-call]
        return data.getvalue()

    async def stop(self) -> None:
        """Leave the cluster, and end it if it was started here and no other runtime uses it."""
        self._leave()
        if (ending := _Keeper.ending) is not None:
            await asyncio.wait({asyncio.wrap_future(ending)}, timeout=PATIENCE)

    def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        with _Keeper.lock:
            keeper.users -= 1
            if not keeper.users:
                keeper.end(self._ray)


def _imported() -> Any:
    try:
        import ray
        import ray.cloudpickle
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise ClusterError(f"Ray cannot be imported: {error}; install it again") from error
        raise ClusterError("cluster='ray' needs Ray: pip install 'ray'") from None
    except Exception as error:
        raise ClusterError(f"Ray cannot be imported ({type(error).__name__}: {error}): install it again") from error
    return ray


class _Keeper:
    """A thread in which Ray is started, and which stays: on Linux the processes that a thread starts end with it.

    All runtimes of this process share it. Nobody waits for it at the end of the process, for Ray may hang.
    """

    lock: ClassVar[Lock] = Lock()
    ours: ClassVar[_Keeper | None] = None
    """That of the Ray which runtimes of this process have started."""
    ending: ClassVar[Future[None] | None] = None
    """Done when the former one is gone, which is on its way."""

    def __init__(self, start: Callable[[], None]) -> None:
        self.users = 0
        """Runtimes that use it."""
        self._work: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        self.started = self._do(start)
        Thread(target=self._run, name="pydotcompute-ray", daemon=True).start()

    def _do(self, function: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever gives up waiting for it does not undo it
        self._work.put((function, done))
        return done

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            function, done = work
            try:
                function()
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                done.set_exception(error)

    def end(self, ray: Any) -> None:
        """End Ray, and then this, when what was begun is done. Called under the lock."""

        def shut_down() -> None:
            try:
                ray.shutdown()
            finally:
                with _Keeper.lock:
                    _Keeper.ending = None

        _Keeper.ours = None
        _Keeper.ending = self._do(shut_down)
        self._work.put(None)


def _reach(address: str) -> None:
    """See whether anybody answers there.

    Raises:
        ClusterError: nobody does, or it is no address.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ClusterError(
            f"{address!r} is no address of a Ray cluster: 'host:port' of its head, such as '10.0.0.1:6379', or 'auto'"
        )
    try:
        with socket.create_connection((host, int(port)), REACH) as connection:
            speaks_grpc = bool(os.environ.get("RAY_USE_TLS")) or _greets(connection)
    except OSError as error:
        raise ClusterError(
            f"nobody answers at {address} ({error}): is the cluster running (`ray status` there), and the port open?"
        ) from error
    if not speaks_grpc:
        raise ClusterError(f"what answers at {address} is no Ray: give the address of the head that `ray status` shows")


def _greets(connection: socket.socket) -> bool:
    """Whether a server of gRPC is there: to the first words of HTTP/2 it says its settings (RFC 9113, section 3.4)."""
    settings = b"\0\0\0\4\0\0\0\0\0"
    connection.settimeout(REACH)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    try:
        return connection.recv(9)[3:4] == settings[3:4]
    except OSError:
        return False
