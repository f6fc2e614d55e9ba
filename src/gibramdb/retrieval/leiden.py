"""Communities of a graph, by the Leiden algorithm: groups with more weight inside than chance would put there.

Owns: what counts as an edge; the order in which a graph is handed over, so that a graph has one answer.
Never: knows sessions or titles; stores anything; touches shared state, so it may run on any thread.

The algorithm itself is the extra `communities`, in native code, which releases the GIL while it runs. It is random with
a seed: the same graph, resolution, iterations and seed give the same clusters with the same version of that package.

What counts as an edge:
- The graph is undirected, and relationships between the same two entities add up, whatever their directions and types.
- A weight that is not above zero is no edge. Negative weights may be stored, but modularity compares weights with
  what chance would spread, and has no meaning for them.
- An edge from an entity to itself is no edge: it says nothing about who belongs together, yet it would raise what
  chance expects of that entity, and so push others away from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import MissingExtraError
from gibramdb.model.commands import DetectedCluster

SEED = 42

FINER_PER_LEVEL = 1.25
"""Resolution of a level, times this, is that of the level below: what was one group should come apart there. GibRAM
0.3.0 multiplies by 0.7, so that its deeper levels hardly split at all. Much more than this, and small dense groups fall
into single entities at once: a clique of n does so above n / (n - 1)."""

SPLIT_MEMBERS_MIN = 3
"""A community of fewer members is not split again."""

HIERARCHY_ITERATIONS = 10


class Graph:
    """An undirected weighted graph; never changed once made, and the same whatever order its parts came in.

    Args:
        node_ids: shape (nodes,), integers, none twice, in any order.
        source_ids, target_ids: shape (edges,), integers that are among `node_ids`.
        weights: shape (edges,), finite.

    Attributes:
        node_ids: ascending, int64.
        sources, targets: shape (pairs,), positions in `node_ids`, source < target; by ascending source, then target.
        weights: shape (pairs,), float64, above 0 and scaled by a power of two: only their ratios mean something, and
            sums of very large ones must not overflow.
    """

    def __init__(
        self,
        node_ids: NDArray[np.int64],
        source_ids: NDArray[np.int64],
        target_ids: NDArray[np.int64],
        weights: NDArray[np.float64],
    ) -> None:
        self.node_ids = np.sort(np.asarray(node_ids, np.int64))
        assert np.isin(source_ids, self.node_ids).all(), "an edge begins at a node that is not there"
        assert np.isin(target_ids, self.node_ids).all(), "an edge ends at a node that is not there"
        sources = np.searchsorted(self.node_ids, np.minimum(source_ids, target_ids))
        targets = np.searchsorted(self.node_ids, np.maximum(source_ids, target_ids))
        weights = np.where(sources != targets, np.maximum(weights, 0.0), 0.0)
        weights = np.ldexp(weights, -int(np.frexp(weights.max(initial=0.0))[1]))
        kept = weights > 0.0
        sources, targets, weights = sources[kept], targets[kept], weights[kept]
        # By weight too: a sum of floats depends on its order, and the order of arrival must not show.
        order = np.lexsort((weights, targets, sources))
        sources, targets, weights = sources[order], targets[order], weights[order]
        first_of_pair = np.flatnonzero((np.diff(sources, prepend=-1) != 0) | (np.diff(targets, prepend=-1) != 0))
        self.sources = sources[first_of_pair]
        self.targets = targets[first_of_pair]
        self.weights = np.add.reduceat(weights, first_of_pair) if len(first_of_pair) else weights
        for each in (self.node_ids, self.sources, self.targets, self.weights):
            each.flags.writeable = False


def partition(graph: Graph, resolution: float, iterations: int, seed: int = SEED) -> list[tuple[int, ...]]:
    """The communities of a graph: every node is in exactly one, alone if nothing holds it to others.

    Args:
        graph: may be empty, or without edges.
        resolution: above 0; 1.0 is plain modularity, more gives more and smaller communities.
        iterations: at least 1; how often Leiden starts again from what it found.
        seed: of the random choices.

    Returns:
        Node ids of each community, ascending; the largest first, those of one size by their smallest id.

    Raises:
        MissingExtraError: the extra `communities` is not installed.
    """
    labels = _labels(graph, resolution, iterations, seed)
    return [tuple(graph.node_ids[members].tolist()) for members in _members(labels)]


def hierarchy(
    graph: Graph,
    levels_max: int,
    resolution: float,
    seed: int = SEED,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[DetectedCluster]:
    """Communities within communities: those of level 0 are of the whole graph, the coarsest.

    Each community of at least three members is split again, one level down, as a graph of its own and at a resolution
    higher by FINER_PER_LEVEL. A split into a single part is none, and is not kept. Nor is one of a community into
    nothing but single nodes, which says no more than that they are its members.

    Args:
        graph: may be empty, or without edges.
        levels_max: at least 1.
        resolution: of level 0; above 0.
        seed: of the random choices.
        is_wanted: asked before each split; once it says no, what has been found until then is returned.

    Returns:
        Communities by level, then in the order of their parents, then as `partition` orders them; a parent comes before
        its children, who name it by its index.

    Raises:
        MissingExtraError: the extra `communities` is not installed.
    """
    clusters: list[DetectedCluster] = []
    to_split = [(graph, -1)]
    for level in range(levels_max):
        children: list[tuple[Graph, int]] = []
        for whole, parent in to_split:
            if not is_wanted():
                return clusters
            parts = _members(_labels(whole, resolution * FINER_PER_LEVEL**level, HIERARCHY_ITERATIONS, seed))
            if len(parts) < 2 or (level > 0 and len(parts) == len(whole.node_ids)):
                continue
            for members, part in zip(parts, _induced(whole, parts), strict=True):
                if len(members) >= SPLIT_MEMBERS_MIN:
                    children.append((part, len(clusters)))
                clusters.append(DetectedCluster(level, tuple(part.node_ids.tolist()), parent))
        to_split = children
    return clusters


def _labels(graph: Graph, resolution: float, iterations: int, seed: int) -> NDArray[np.int64]:
    """A number for each node, shape (nodes,), equal for those of one community."""
    try:
        # Not at the top: a client has no need of it, and everything else works without.
        import graspologic_native  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("communities need a package more: pip install 'gibramdb[communities]'") from None
    # A node without edges is alone, whatever the algorithm would make of it.
    labels = np.arange(len(graph.node_ids))
    linked = np.unique(np.concatenate([graph.sources, graph.targets]))
    if not len(linked):
        return labels
    sources, targets = np.searchsorted(linked, graph.sources), np.searchsorted(linked, graph.targets)
    asked = {"resolution": resolution, "iterations": iterations, "use_modularity": True, "seed": seed}
    found = np.empty(len(linked), np.int64)
    # Since 1.3 the package takes arrays; before, it takes a Python object for each edge, with its ends as text.
    if hasattr(graspologic_native, "leiden_csr"):
        rows, columns = np.concatenate([sources, targets]), np.concatenate([targets, sources])
        order = np.lexsort((columns, rows))
        row_ends = np.cumsum(np.bincount(rows, minlength=len(linked)))
        _, by_node = graspologic_native.leiden_csr(
            np.concatenate([[0], row_ends]).astype(np.int64),
            columns[order].astype(np.int32),
            np.concatenate([graph.weights, graph.weights])[order],
            len(linked),
            **asked,
        )
        for node, label in by_node.items():
            found[node] = label
    else:
        names = [str(node) for node in range(len(linked))]
        edges = zip(sources.tolist(), targets.tolist(), graph.weights.tolist(), strict=True)
        _, by_name = graspologic_native.leiden(
            [(names[source], names[target], weight) for source, target, weight in edges], **asked
        )
        for name, label in by_name.items():
            found[int(name)] = label
    labels[linked] = len(labels) + found
    return labels


def _members(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The nodes of each label, ascending; the largest group first, those of one size by their smallest node."""
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order]) != 0) + 1
    return sorted(np.split(order, starts), key=lambda members: (-len(members), members[0]))


def _induced(graph: Graph, parts: list[NDArray[np.int64]]) -> Iterator[Graph]:
    """Each part of a partition as a graph of its own, with the edges that have both ends in it."""
    part_of = np.empty(len(graph.node_ids), np.int64)
    part_of[np.concatenate(parts)] = np.repeat(np.arange(len(parts)), [len(members) for members in parts])
    owners = part_of[graph.sources]
    inside = np.flatnonzero(owners == part_of[graph.targets])
    inside = inside[np.argsort(owners[inside], kind="stable")]
    bounds = np.searchsorted(owners[inside], np.arange(len(parts) + 1))
    for members, begin, end in zip(parts, bounds[:-1], bounds[1:], strict=True):
        edges = inside[begin:end]
        ids = graph.node_ids
        yield Graph(ids[members], ids[graph.sources[edges]], ids[graph.targets[edges]], graph.weights[edges])
