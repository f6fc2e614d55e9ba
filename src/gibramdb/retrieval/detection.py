"""Community detection in two halves: a view is taken of the session, clusters are found on it elsewhere.

`view` runs where the state lives and only copies numbers; `find` is pure and slow, and may run on any thread. What it
finds is decided on by `core.decide.communities.replace`, against the state of that later moment.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from gibramdb.core import limits
from gibramdb.core.decide.admission import live_session
from gibramdb.core.state import StoreState
from gibramdb.errors import ClosedError, InvalidArgumentError
from gibramdb.model.commands import DetectCommunities, DetectedCluster, DetectHierarchy, ReplaceCommunities
from gibramdb.model.ids import Lsn
from gibramdb.retrieval.leiden import Graph, hierarchy, partition


class DetectionView:
    """The graph of a session as it was, and what is asked of it.

    `relationship_ids`, `source_ids`, `target_ids`: shape (relationships,), int64, by ascending relationship id.
    """

    def __init__(
        self,
        command: DetectCommunities | DetectHierarchy,
        incarnation: Lsn,
        graph: Graph,
        relationship_ids: NDArray[np.int64],
        source_ids: NDArray[np.int64],
        target_ids: NDArray[np.int64],
    ) -> None:
        self._command = command
        self._incarnation = incarnation
        self._graph = graph
        self._relationship_ids = relationship_ids
        self._source_ids = source_ids
        self._target_ids = target_ids
        self._is_stopped = False

    @property
    def asker(self) -> str:
        """For whom it is computed."""
        return self._command.asker

    def stop(self) -> None:
        """From any thread: nobody wants it any more. The library itself can not be stopped, what comes after it can."""
        self._is_stopped = True

    @property
    def size(self) -> int:
        """Entities and relationships together: how long it will take, about."""
        return len(self._graph.node_ids) + len(self._relationship_ids)

    def find(self) -> ReplaceCommunities:
        """The clusters, as the command that stores them.

        Raises:
            MissingExtraError: the library that finds them is not installed.
            ClosedError: it was stopped.
        """
        command = self._command
        resolution = command.resolution or limits.RESOLUTION_DEFAULT
        if isinstance(command, DetectHierarchy):
            wanted = command.levels_max
            levels_max = wanted if 1 <= wanted <= limits.HIERARCHY_LEVELS_MAX else limits.HIERARCHY_LEVELS_MAX
            clusters = hierarchy(self._graph, levels_max, resolution, is_wanted=lambda: not self._is_stopped)
        else:
            affordable = limits.ITERATED_RELATIONSHIPS_MAX // max(1, len(self._relationship_ids))
            most = min(limits.ITERATIONS_MAX, max(limits.ITERATIONS_DEFAULT, affordable))
            iterations = min(command.iterations or limits.ITERATIONS_DEFAULT, most)
            clusters = [DetectedCluster(0, ids) for ids in partition(self._graph, resolution, iterations)]
        if self._is_stopped:
            raise ClosedError("nobody waits for these communities any more; nothing was changed")
        return ReplaceCommunities(
            command.session_id,
            self._incarnation,
            tuple(self._with_relationships(clusters)),
            hierarchy=isinstance(command, DetectHierarchy),
        )

    def _with_relationships(self, clusters: list[DetectedCluster]) -> list[DetectedCluster]:
        """Each cluster with the relationships whose two ends are inside; clusters of one level do not overlap."""
        inside: list[tuple[int, ...]] = [()] * len(clusters)
        id_bound = int(max(self._graph.node_ids, default=0)) + 1
        for level in sorted({cluster.level for cluster in clusters}):
            cluster_of = np.full(id_bound, -1, np.int64)
            for index, cluster in enumerate(clusters):
                if cluster.level == level:
                    cluster_of[np.fromiter(cluster.entity_ids, np.int64)] = index
            owners = cluster_of[self._source_ids]
            is_inside = (owners >= 0) & (owners == cluster_of[self._target_ids])
            ids, owners = self._relationship_ids[is_inside], owners[is_inside]
            order = np.argsort(owners, kind="stable")
            ids, owners = ids[order], owners[order]
            starts = np.flatnonzero(np.diff(owners, prepend=-1))
            for start, group in zip(starts.tolist(), np.split(ids, starts[1:]), strict=False):
                inside[int(owners[start])] = tuple(group.tolist())
        return [
            DetectedCluster(cluster.level, cluster.entity_ids, cluster.parent, relationship_ids)
            for cluster, relationship_ids in zip(clusters, inside, strict=True)
        ]


def view(
    state: StoreState, command: DetectCommunities | DetectHierarchy, now_ms: int
) -> Generator[None, None, DetectionView]:
    """A copy of the session's graph.

    Yields between one object and the next; until it has ended nothing may change the session.

    Raises:
        SessionNotFoundError, SessionExpiredError: as their names say.
        InvalidArgumentError: the resolution or the number of iterations can not be meant.
    """
    if command.resolution and not limits.RESOLUTION_MIN <= command.resolution <= limits.RESOLUTION_MAX:
        raise InvalidArgumentError(
            f"resolution must be from {limits.RESOLUTION_MIN:g} to {limits.RESOLUTION_MAX:g}, or 0 for "
            f"{limits.RESOLUTION_DEFAULT}, got {command.resolution}"
        )
    if isinstance(command, DetectCommunities) and command.iterations < 0:
        raise InvalidArgumentError(f"iterations must not be negative, got {command.iterations}")
    session = live_session(state, command.session_id, now_ms)
    node_ids = np.empty(len(session.entities), np.int64)
    for index, entity in enumerate(session.entities):
        yield
        node_ids[index] = entity.id
    count = len(session.relationships)
    relationship_ids = np.empty(count, np.int64)
    source_ids = np.empty(count, np.int64)
    target_ids = np.empty(count, np.int64)
    weights = np.empty(count, np.float64)
    for index, each in enumerate(session.relationships):
        yield
        relationship_ids[index] = each.id
        source_ids[index] = each.source_id
        target_ids[index] = each.target_id
        weights[index] = each.weight
    graph = Graph(node_ids, source_ids, target_ids, weights)
    return DetectionView(command, session.incarnation, graph, relationship_ids, source_ids, target_ids)
