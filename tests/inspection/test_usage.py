"""Where bytes are and what is wasted: against sums and a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inspection.layers import DIRECTORY, File, Link, layer_tar, write_image
from tests.support import PYTHON_APP
from winlayers.inspection import Tree, open_image
from winlayers.inspection.usage import measure
from winlayers.store import Store

Layers = list[list[tuple[str, File | Link | None]]]


def measured(folder: Path, layers: Layers) -> tuple[list[tuple[int, int, int, int]], list[tuple[str, str]]]:
    tars = [layer_tar([("Files", DIRECTORY), *layer]) for layer in layers]
    with open_image(write_image(folder / "l", "x", tars), cache=folder / "c") as tree:
        usage = measure(tree)
        check(tree)
    rows = [(u.data, u.wasted, u.replaces, u.deletes) for u in usage.layers]
    return rows, [(w.path, w.how) for w in usage.wasted]


def check(tree: Tree) -> None:
    """What must hold of every account."""
    usage = measure(tree)
    assert sum(layer.visible for layer in usage.layers) == usage.visible
    assert usage.data - usage.visible == sum(waste.size for waste in usage.wasted)
    assert sum(u.replaces + u.deletes for u in usage.layers) == usage.data - usage.visible
    seen: set[int] = set()
    total = 0
    for entry in tree.walk(tree.root(layer_root=True)):
        if entry.inode.id not in seen:
            seen.add(entry.inode.id)
            total += entry.total_size
    assert usage.visible == total
    assert usage.entries == sum(1 for _ in tree.walk(tree.root(layer_root=True)))


def test_replaced_deleted_linked(tmp_path: Path) -> None:
    rows, wasted = measured(
        tmp_path,
        [
            [
                ("Files/a", File(bytes(10))),
                ("Files/b", File(bytes(200), streams=(("s", bytes(7)),))),
                ("Files/d", DIRECTORY),
                ("Files/d/c", File(bytes(3000))),
                ("Files/kept", File(bytes(5))),
            ],
            [("Files/A", File(bytes(20))), ("Files/link", Link("Files/kept")), ("Files/kept", None)],
            [("Files/b", None), ("Files/d", None), ("Files/x", File(b"1")), ("Files/X", File(b"22"))],
        ],
    )
    assert rows == [(3222, 3217, 0, 0), (20, 0, 10, 0), (3, 1, 1, 3207)]
    assert wasted == [
        ("Files/d/c", "deleted"),
        ("Files/b", "deleted"),
        ("Files/a", "replaced"),
        ("Files/x", "repeated"),
    ]


def test_the_sample_image(tree: Tree) -> None:
    check(tree)
    usage = measure(tree)
    assert {(w.path, w.layer, w.by, w.how) for w in usage.wasted} == {
        ("Files/Windows/Globalization/sort.nls", 0, 1, "deleted")
    }


def test_the_recorded_image(store: Store) -> None:
    if not PYTHON_APP.is_dir():
        pytest.skip(f"the recorded image is not at {PYTHON_APP}")
    with open_image(f"oci:{PYTHON_APP}:3.13", store=store) as tree:
        check(tree)


def test_a_container_wastes_too(store: Store, sample: str) -> None:
    store.load(sample, name="app:1")
    store.create("app:1", name="web")
    drive = Path(store.mount("web"))
    (drive / "app" / "app.exe").write_bytes(b"smaller")
    store.unmount("web")
    with open_image("web", store=store) as tree:
        check(tree)
        usage = measure(tree)
        assert usage.layers[-1].replaces == 150_000
        assert usage.layers[-1].data == 7


paths = st.sampled_from(["Files/a", "Files/b", "Files/d/a", "Files/d/b", "Files/d/e/a"])
steps = st.one_of(
    st.tuples(paths, st.integers(1, 50).map(lambda n: File(bytes(n)))),
    st.tuples(st.sampled_from(["Files/a", "Files/d", "Files/d/e", "Files/d/a"]), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(steps, max_size=6), min_size=1, max_size=4))
def test_any_layers_add_up(tmp_path_factory: pytest.TempPathFactory, layers: Layers) -> None:
    folder = tmp_path_factory.mktemp("usage")
    tars = [layer_tar([("Files", DIRECTORY), *layer]) for layer in layers]
    with open_image(write_image(folder / "l", "x", tars), cache=folder / "c") as tree:
        check(tree)
