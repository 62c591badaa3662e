"""A cluster in this process that loses nodes when it is told to: as much of Ray as a crew uses."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As Ray's own."""


class NodeDiedError(RayError):
    """As Ray's own."""


class FakeRay:
    """A cluster of `nodes`, each of one processor; `dies(cluster, job)` may lose some of them."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, nodes: int, dies: Callable[[FakeRay, int], None]) -> None:
        self.alive = set(range(nodes))
        self.dies = dies
        self.free = set(self.alive)
        self.done = 0
        self.actors: list[Actor] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(len(self.alive))} if self.alive else {}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(remote=lambda *args: Actor(self, kind, args))

    def kill(self, actor: Actor) -> None:
        actor.leave()

    def lose(self, node: int) -> None:
        """The node, its processor and the workers on it are gone."""
        self.alive.discard(node)
        self.free.discard(node)

    def wait(self, refs: list[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list]:
        for ref in refs:
            if ref.actor.is_placed() or ref.actor.is_dead():
                return [ref], [r for r in refs if r is not ref]
        return [], refs

    def get(self, ref: Ref) -> bytes:
        self.done += 1
        self.dies(self, self.done)
        if ref.actor.is_dead():
            raise NodeDiedError("the node died")
        return ref.actor.perform_now(ref.content)


class Ref:
    def __init__(self, actor: Actor, content: bytes) -> None:
        self.actor, self.content = actor, content


class Actor:
    """Holds a processor from when it finds a free one until it is killed."""

    def __init__(self, ray: FakeRay, kind: type, args: tuple[Any, ...]) -> None:
        self.ray, self.node, self.gone = ray, -1, False
        self.made = kind(*args)
        self.perform = SimpleNamespace(remote=lambda content: Ref(self, content))
        ray.actors.append(self)

    def is_placed(self) -> bool:
        if self.node < 0 and self.ray.free:
            self.node = self.ray.free.pop()
        return self.node in self.ray.alive

    def is_dead(self) -> bool:
        return self.gone or (self.node >= 0 and self.node not in self.ray.alive)

    def leave(self) -> None:
        self.gone = True
        if self.node in self.ray.alive:
            self.ray.free.add(self.node)

    def perform_now(self, content: bytes) -> bytes:
        return self.made.perform(content)
