"""Places for the nodes of a graph, in columns from left to right: what has a place keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

TALLEST = 9
"""Nodes in a column, at most; what is more goes into the next one."""
SWEEPS = 4
"""How often the order within columns is made better; after a few times little changes."""
APART = 1e-6

Edge = tuple[str, str]


class Place(NamedTuple):
    """Where a node is: columns count from 0, rows lie at least 1 apart from each other and may be halves."""

    column: int
    row: float


class Layers:
    """A layout that goes on when nodes and edges come and go.

    Nodes that come together are laid out as a layered drawing is (Sugiyama, Tagawa and Toda, 1981): each to the right
    of who sends to it, ordered by the mean row of its neighbours. Those that come later take the free places that are
    nearest to theirs. Nothing that has a place is ever moved; `forget` begins anew.
    """

    def __init__(self, first: str) -> None:
        self._first = first  # the node that alone may be in column 0
        self.places: dict[str, Place] = {}

    def forget(self) -> None:
        """Lay out all anew the next time."""
        self.places.clear()

    def arrange(self, nodes: Sequence[str], edges: Iterable[Edge], kin: Mapping[str, object]) -> None:
        """Give each of the nodes a place, and take away those of others.

        Args:
            edges: pairs of source and target, the most important first.
            kin: what is next to each other where nothing else matters has the same value here.
        """
        known = set(nodes)
        self.places = {node: place for node, place in self.places.items() if node in known}
        new = [node for node in nodes if node not in self.places]
        if not new:
            return
        after: dict[str, list[str]] = {node: [] for node in nodes}
        before: dict[str, list[str]] = {node: [] for node in nodes}
        for source, target in edges:
            if source in known and target in known and source != target:
                after[source].append(target)
                before[target].append(source)
        columns = self._columns(new, after, before)
        if self.places:
            for node in sorted(new, key=lambda node: columns[node]):
                self._settle(node, columns[node], after, before)
        else:
            self._draw(new, columns, after, before, kin)

    def _columns(
        self, new: Sequence[str], after: Mapping[str, list[str]], before: Mapping[str, list[str]]
    ) -> dict[str, int]:
        """For each of the new nodes the column after all who send to it, as far as there is no circle."""
        columns = {node: place.column for node, place in self.places.items()}
        backward: set[Edge] = set()
        done: set[str] = set()
        order: list[str] = []  # each after all that it leads to, but backwards

        def visit(node: str, path: set[str]) -> None:
            done.add(node)
            path.add(node)
            for target in after[node]:
                if target in path:
                    backward.add((node, target))
                elif target not in done:
                    visit(target, path)
            path.discard(node)
            order.append(node)

        starts = [node for node in after if not before[node]]
        for node in [self._first, *starts, *after]:
            if node in after and node not in done:
                visit(node, set())
        for node in reversed(order):
            if node in columns:
                continue
            sources = [columns[one] for one in before[node] if (one, node) not in backward and one in columns]
            targets = [columns[one] for one in after[node] if one in columns]
            if node == self._first:
                columns[node] = 0
            elif sources:
                columns[node] = max(sources) + 1
            else:
                columns[node] = max(1, min(targets, default=2) - 1)
        # Who gets nothing but from outside stands right before whom it sends to.
        for node in order:
            if node in self.places or node == self._first or any(one != self._first for one in before[node]):
                continue
            targets = [columns[one] for one in after[node] if (node, one) not in backward]
            columns[node] = max(columns[node], min(targets, default=0) - 1)
        return {node: columns[node] for node in new}

    def _draw(
        self,
        nodes: Sequence[str],
        columns: Mapping[str, int],
        after: Mapping[str, list[str]],
        before: Mapping[str, list[str]],
        kin: Mapping[str, object],
    ) -> None:
        """Lay all nodes out, of which none has a place."""
        first_of_kin: dict[object, int] = {}
        for i, node in enumerate(nodes):
            first_of_kin.setdefault(kin.get(node, node), i)
        ordered = sorted(nodes, key=lambda node: first_of_kin[kin.get(node, node)])
        layers: dict[int, list[str]] = {}
        for node in ordered:
            layers.setdefault(columns[node], []).append(node)
        for sweep in range(SWEEPS):
            neighbours, rows = (before, after)[sweep % 2], _rows(layers.values())
            for column in sorted(layers, reverse=bool(sweep % 2)):
                layer = layers[column]
                means = ((node, _mean(rows[one] for one in neighbours[node] if one in rows)) for node in layer)
                wanted = {node: rows[node] if mean is None else mean for node, mean in means}
                layer.sort(key=wanted.__getitem__)
                rows |= _rows([layer])
        split: list[list[str]] = []
        for column in sorted(layers):
            layer = layers[column]
            parts = -(-len(layer) // TALLEST)
            size = -(-len(layer) // parts)
            split += [layer[at : at + size] for at in range(0, len(layer), size)]
        begin = min(layers) if self._first not in nodes else 0
        highest = max(map(len, split))
        for column, layer in enumerate(split, begin):
            for i, node in enumerate(layer):
                self.places[node] = Place(column, i + (highest - len(layer)) / 2)

    def _settle(self, node: str, column: int, after: Mapping[str, list[str]], before: Mapping[str, list[str]]) -> None:
        """Put one more node to the free place that is nearest to its neighbours."""
        taken: dict[int, list[float]] = {}
        for place in self.places.values():
            taken.setdefault(place.column, []).append(place.row)
        while node != self._first and len(taken.get(column, ())) >= TALLEST:
            column += 1
        near = (self.places[one].row for one in (*before[node], *after[node]) if one in self.places)
        wanted = _mean(near)
        rows = taken.get(column, [])
        if wanted is None:
            wanted = max(rows, default=-1.0) + 1
        free = [round(2 * wanted) / 2, 0.0, *(row + step for row in rows for step in (-1, 1))]
        fitting = [row for row in free if row >= 0 and all(abs(row - one) >= 1 - APART for one in rows)]
        self.places[node] = Place(column, min(fitting, key=lambda row: (abs(row - wanted), row)))


def _rows(layers: Iterable[Sequence[str]]) -> dict[str, float]:
    """Each node's place in its column, from the middle of that."""
    return {node: i - (len(layer) - 1) / 2 for layer in layers for i, node in enumerate(layer)}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
