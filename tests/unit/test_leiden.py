"""Communities: the groups that are there are found, and a graph has one answer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import graspologic_native
import numpy as np
import pytest
from support.timing import TIMED

from gibramdb.errors import MissingExtraError
from gibramdb.model.commands import DetectedCluster
from gibramdb.retrieval.leiden import Graph, hierarchy, partition

Edge = tuple[int, int, float]

TWO_TRIANGLES: tuple[Edge, ...] = (
    (1, 2, 1.0), (2, 3, 1.0), (3, 1, 1.0), (4, 5, 1.0), (5, 6, 1.0), (6, 4, 1.0), (3, 4, 1.0),
)  # fmt: skip


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=["arrays", "names"], autouse=True)
def way_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package as it is, and as it was before it took arrays."""
    way: str = request.param
    if way == "names":
        older = types.ModuleType("graspologic_native")
        older.leiden = graspologic_native.leiden  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "graspologic_native", older)
    return way


def graph_of(nodes: Iterable[int], edges: Sequence[Edge]) -> Graph:
    return Graph(
        np.array(list(nodes), np.int64),
        np.array([source for source, _, _ in edges], np.int64),
        np.array([target for _, target, _ in edges], np.int64),
        np.array([weight for _, _, weight in edges], np.float64),
    )


def cliques(count: int, size: int) -> list[Edge]:
    return [
        (clique * size + a, clique * size + b, 1.0) for clique in range(count) for a, b in combinations(range(size), 2)
    ]


def planted(group_count: int, group_size: int, inside: float, outside: float, seed: int) -> list[Edge]:
    """Edges between all pairs with one probability inside a group and another outside; node // group_size is its group."""
    chance = np.random.default_rng(seed)
    nodes = np.arange(group_count * group_size)
    a, b = np.triu_indices(len(nodes), 1)
    drawn = chance.random(len(a)) < np.where(a // group_size == b // group_size, inside, outside)
    return [(int(x), int(y), 1.0) for x, y in zip(a[drawn], b[drawn], strict=True)]


def modularity(clusters: Iterable[Sequence[int]], edges: Sequence[Edge], resolution: float = 1.0) -> float:
    """By the definition: the share of the weight inside groups, less what chance would put there."""
    group = {node: index for index, members in enumerate(clusters) for node in members}
    total = sum(weight for _, _, weight in edges)
    strength = dict.fromkeys(group.values(), 0.0)
    inside = 0.0
    for source, target, weight in edges:
        strength[group[source]] += weight
        strength[group[target]] += weight
        inside += weight * (group[source] == group[target])
    return inside / total - resolution * sum((each / (2 * total)) ** 2 for each in strength.values())


def shuffled(edges: Sequence[Edge], seed: int) -> list[Edge]:
    """The same graph: other order, other directions, some edges in two pieces."""
    chance = np.random.default_rng(seed)
    pieces: list[Edge] = []
    for source, target, weight in edges:
        turned = (target, source) if chance.random() < 0.5 else (source, target)
        pieces += (
            [(*turned, weight)] if chance.random() < 0.7 else [(*turned, weight / 2), (source, target, weight / 2)]
        )
    return [pieces[index] for index in chance.permutation(len(pieces))]


def test_two_triangles_joined_by_an_edge_are_two_communities() -> None:
    assert partition(graph_of(range(1, 7), TWO_TRIANGLES), 1.0, 10) == [(1, 2, 3), (4, 5, 6)]


def test_disjoint_cliques_are_a_community_each_however_many() -> None:
    found = partition(graph_of(range(3_000), cliques(600, 5)), 1.0, 10)
    assert found == [tuple(range(5 * clique, 5 * clique + 5)) for clique in range(600)]


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        ((), ()),
        ((5,), ()),
        ((5, 2, 9), ()),
        ((1, 2), ((1, 1, 3.0), (2, 2, 1.0))),
        ((1, 2), ((1, 2, -1.0),)),
        ((1, 2), ((1, 2, 0.0), (2, 1, -0.0))),
        ((1, 2, 3), ((1, 2, -1e308), (2, 2, 1e308), (1, 3, -5e-324))),
    ],
)
def test_without_an_edge_every_entity_is_alone(nodes: tuple[int, ...], edges: tuple[Edge, ...]) -> None:
    assert partition(graph_of(nodes, edges), 1.0, 10) == [(node,) for node in sorted(nodes)]


def test_the_largest_come_first_and_those_of_a_size_by_their_smallest_id() -> None:
    edges = [(40, 41, 1.0), (41, 42, 1.0), (40, 42, 1.0), (30, 31, 1.0), (10, 90, 1.0)]
    found = partition(graph_of((90, 42, 5, 41, 40, 31, 30, 10, 3), edges), 1.0, 10)
    assert found == [(40, 41, 42), (10, 90), (30, 31), (3,), (5,)]


def test_parallel_edges_add_up() -> None:
    """1-2 outweighs 2-3 and 1-4 only by all of its relationships together."""
    path = [(1, 4, 2.0), (2, 3, 2.0), (4, 3, 3.0)]
    apart = partition(graph_of((1, 2, 3, 4), [*path, (1, 2, 1.0)]), 1.0, 10)
    together = partition(graph_of((1, 2, 3, 4), [*path, (1, 2, 1.0), (2, 1, 2.0), (1, 2, 2.0)]), 1.0, 10)
    assert (1, 2) not in apart
    assert together == [(1, 2), (3, 4)]


def test_the_sum_of_parallel_edges_does_not_depend_on_their_order() -> None:
    weights = np.random.default_rng(2).lognormal(size=40)
    sums = set()
    for seed in range(20):
        edges = [(1, 2, float(weight)) for weight in np.random.default_rng(seed).permutation(weights)]
        sums.add(graph_of((1, 2, 3), [*edges, (2, 3, 1.0)]).weights.tobytes())
    assert len(sums) == 1


def test_a_negative_weight_is_no_edge_beside_those_that_are() -> None:
    assert partition(graph_of((1, 2, 3), [(1, 2, 5e-324), (2, 3, -1e308), (1, 3, -1.0)]), 1.0, 10) == [(1, 2), (3,)]


def test_an_edge_to_itself_changes_nothing() -> None:
    loops = [(node, node, 50.0) for node in (1, 4)]
    assert partition(graph_of(range(1, 7), [*TWO_TRIANGLES, *loops]), 1.0, 10) == [(1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize("factor", [5e-324, 1e-300, 0.3, 1e300, 1.7e308])
def test_only_the_ratio_of_weights_counts(factor: float) -> None:
    edges = [(source, target, weight * factor) for source, target, weight in TWO_TRIANGLES * 2]
    assert partition(graph_of(range(1, 7), edges), 1.0, 10) == [(1, 2, 3), (4, 5, 6)]


def test_an_edge_to_nowhere_is_a_defect_of_the_caller() -> None:
    for edge in ((1, 7, 1.0), (7, 1, 1.0)):
        with pytest.raises(AssertionError, match="not there"):
            graph_of((1, 2), [edge])


def test_a_higher_resolution_gives_more_communities() -> None:
    graph = graph_of(range(400), planted(20, 20, 0.5, 0.02, seed=3))
    counts = [len(partition(graph, resolution, 10)) for resolution in (0.05, 1.0, 4.0)]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("find", [lambda graph: partition(graph, 1.0, 10), lambda graph: hierarchy(graph, 4, 1.0)])
def test_a_graph_has_one_answer_whatever_order_it_comes_in(find: Callable[[Graph], object]) -> None:
    edges = planted(10, 30, 0.2, 0.05, seed=4)
    nodes = np.arange(305)
    expected = find(graph_of(nodes, edges))
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(nodes)
        assert find(graph_of(order, shuffled(edges, seed))) == expected


def test_another_process_gives_the_same_answer(way_in: str) -> None:
    """No seed but ours: nothing of the process, such as the order of a hash map, decides."""
    program = (
        "import sys, types, graspologic_native\n"
        "if sys.argv[1] == 'names':\n"
        "    sys.modules['graspologic_native'] = types.SimpleNamespace(leiden=graspologic_native.leiden)\n"
        "import numpy as np\n"
        "from gibramdb.retrieval.leiden import Graph, partition\n"
        "ends = np.random.default_rng(1).integers(0, 500, (2, 2000))\n"
        "print(partition(Graph(np.arange(500), *ends, np.ones(2000)), 1.0, 10))\n"
    )
    command = [sys.executable, "-c", program, way_in]
    answers = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(answers) == 1
    assert len(answers.pop()) > 2_000


def test_planted_groups_are_found() -> None:
    """2,000 entities in 40 groups: as good as the groups they were drawn from, and nearly these."""
    group_size = 50
    edges = planted(40, group_size, 0.3, 0.003, seed=8)
    found = partition(graph_of(range(2_000), edges), 1.0, 10)
    groups = [range(first, first + group_size) for first in range(0, 2_000, group_size)]
    assert modularity(found, edges) >= modularity(groups, edges) - 1e-9
    recovered = sum(max(len(set(group) & set(members)) for members in found) for group in groups)
    assert recovered >= 1_900
    assert 35 <= len(found) <= 45


def checked(clusters: list[DetectedCluster], nodes: set[int], levels_max: int) -> Iterator[tuple[int, int]]:
    """What holds for every hierarchy; yields for each parent (-1 for the whole) how many parts it has."""
    for index, cluster in enumerate(clusters):
        assert 0 <= cluster.level < levels_max
        assert list(cluster.entity_ids) == sorted(set(cluster.entity_ids))
        assert -1 <= cluster.parent < index
        assert cluster.level == (0 if cluster.parent < 0 else clusters[cluster.parent].level + 1)
    assert [cluster.level for cluster in clusters] == sorted(cluster.level for cluster in clusters)
    for parent in sorted({cluster.parent for cluster in clusters}):
        parts = [cluster.entity_ids for cluster in clusters if cluster.parent == parent]
        whole = nodes if parent < 0 else set(clusters[parent].entity_ids)
        assert len(parts) >= 2
        assert sorted(id for part in parts for id in part) == sorted(whole)
        assert parts == sorted(parts, key=lambda part: (-len(part), part[0]))
        assert parent < 0 or (len(whole) >= 3 and max(map(len, parts)) >= 2)
        yield parent, len(parts)


def test_groups_within_groups_are_found_level_by_level() -> None:
    """8 cliques of 6 in pairs, the pairs in 4 clusters: first the pairs come apart, then their halves."""
    edges = cliques(8, 6)
    edges += [(12 * pair + a, 12 * pair + 6 + a, 1.0) for pair in range(4) for a in range(6)]
    edges += [(12 * pair, (12 * pair + 13) % 48, 1.0) for pair in range(4)]
    found = hierarchy(graph_of(range(48), edges), 5, 0.5)
    parts = dict(checked(found, set(range(48)), 5))
    assert [cluster.entity_ids for cluster in found if cluster.level == 0] == [
        tuple(range(12 * pair, 12 * pair + 12)) for pair in range(4)
    ]
    assert [cluster.entity_ids for cluster in found if cluster.level == 1] == [
        tuple(range(6 * clique, 6 * clique + 6)) for clique in range(8)
    ]
    assert parts == {-1: 4, 0: 2, 1: 2, 2: 2, 3: 2}  # and no clique is taken apart any further


def test_a_level_down_is_finer_than_the_graph_of_its_own_would_be() -> None:
    """Of four nodes, 55 % of the weight lies between the two pairs: they part above a resolution of 1.1."""
    edges = [(1, 2, 9.0), (3, 4, 9.0), (1, 3, 5.5), (1, 4, 5.5), (2, 3, 5.5), (2, 4, 5.5)]
    assert partition(graph_of((1, 2, 3, 4), edges), 1.0, 10) == [(1, 2, 3, 4)]
    twice = edges + [(source + 4, target + 4, weight) for source, target, weight in edges]
    found = hierarchy(graph_of(range(1, 9), twice), 5, 1.0)
    assert [(cluster.level, cluster.entity_ids, cluster.parent) for cluster in found] == [
        (0, (1, 2, 3, 4), -1), (0, (5, 6, 7, 8), -1),
        (1, (1, 2), 0), (1, (3, 4), 0), (1, (5, 6), 1), (1, (7, 8), 1),
    ]  # fmt: skip


@pytest.mark.parametrize("levels_max", [1, 2, 5])
def test_a_hierarchy_is_nested_and_no_deeper_than_asked(levels_max: int) -> None:
    edges = planted(12, 25, 0.25, 0.03, seed=5)
    found = hierarchy(graph_of(range(310), edges), levels_max, 1.0)
    assert len(list(checked(found, set(range(310)), levels_max))) >= 1
    assert (max(cluster.level for cluster in found) > 0) == (levels_max > 1)


def test_the_top_level_is_the_partition_with_its_single_entities() -> None:
    graph = graph_of([*range(1, 7), 99], TWO_TRIANGLES)
    found = hierarchy(graph, 1, 1.0)
    assert [cluster.entity_ids for cluster in found] == partition(graph, 1.0, 10) == [(1, 2, 3), (4, 5, 6), (99,)]


@pytest.mark.parametrize(("nodes", "edges"), [((), ()), ((1,), ()), (range(5), cliques(1, 5))])
def test_what_does_not_come_apart_has_no_hierarchy(nodes: Iterable[int], edges: Sequence[Edge]) -> None:
    assert hierarchy(graph_of(nodes, edges), 5, 1.0) == []


@TIMED
def test_other_threads_run_meanwhile() -> None:
    chance = np.random.default_rng(6)
    ends = chance.integers(0, 10_000, (2, 50_000))
    graph = Graph(np.arange(10_000), ends[0], ends[1], np.ones(50_000))
    done = threading.Event()
    longest_gap_s = 0.0

    def tick() -> None:
        nonlocal longest_gap_s
        last = time.perf_counter()
        while not done.wait(0.001):
            now = time.perf_counter()
            longest_gap_s, last = max(longest_gap_s, now - last), now

    ticker = threading.Thread(target=tick)
    ticker.start()
    began = time.perf_counter()
    partition(graph, 1.0, 10)
    duration_s = time.perf_counter() - began
    done.set()
    ticker.join()
    assert duration_s > 0.05
    assert longest_gap_s < duration_s / 2


@pytest.mark.parametrize("edges", [(), TWO_TRIANGLES])
def test_without_the_extra_it_says_how_to_get_it(edges: Sequence[Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    graph = graph_of(range(1, 7), edges)
    for find in (lambda: partition(graph, 1.0, 10), lambda: hierarchy(graph, 5, 1.0)):
        with pytest.raises(MissingExtraError, match=r"pip install 'gibramdb\[communities\]'"):
            find()
