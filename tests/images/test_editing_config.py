"""Changed configurations."""

from __future__ import annotations

import json

import pytest

from tests.images.editing import part, run_of
from tests.images.support import tree_digest
from winlayers.errors import ImageError, ImageNotFoundError
from winlayers.images.editing import ConfigChanges, configure_image
from winlayers.images.image import Image
from winlayers.store import Store


class TestConfigure:
    def test_layers_and_unknown_fields_stay(self, store: Store, app: Image) -> None:
        odd = part(store, app, 3, "odd:1", **{"x-unknown": {"b": 1, "a": [None]}, "variant": "v9"})
        made = store.configure("odd:1", ConfigChanges(user="ContainerAdministrator"), "odd:2")
        assert made.manifest.layers == odd.manifest.layers
        expected = json.loads(odd.config.raw)
        expected["config"]["User"] = "ContainerAdministrator"
        found = json.loads(made.config.raw)
        step = found["history"].pop()
        assert step["empty_layer"] is True
        assert step["created_by"] == "winlayers config --user ContainerAdministrator"
        del found["created"], expected["created"]
        assert list(found.items()) == list(expected.items()), "the order of fields, too"

    def test_variables_have_no_letter_case(self, store: Store, app: Image) -> None:
        one = store.configure("app:1", ConfigChanges(env=("Path=C:\\a", "X=1", "Y=a=b")), "app:2")
        assert run_of(one)["Env"] == ["Path=C:\\a", "X=1", "Y=a=b"]
        two = store.configure("app:2", ConfigChanges(env=("PATH=C:\\b",), unset_env=("x", "none")), "app:3")
        assert run_of(two)["Env"] == ["PATH=C:\\b", "Y=a=b"]
        none = store.configure("app:3", ConfigChanges(unset_env=("path", "y")), "app:4")
        assert "Env" not in run_of(none)

    def test_command_lines(self, store: Store, app: Image) -> None:
        assert run_of(app)["ArgsEscaped"] is True
        made = store.configure("app:1", ConfigChanges(cmd='["app.exe", "a b"]'))
        assert (run_of(made)["Cmd"], "ArgsEscaped" in run_of(made)) == (["app.exe", "a b"], False)
        made = store.configure("app:1", ConfigChanges(cmd="echo a & echo b"))
        assert run_of(made)["Cmd"] == ["cmd /S /C echo a & echo b"]
        assert run_of(made)["ArgsEscaped"] is True
        made = store.configure("app:1", ConfigChanges(shell='["powershell", "-Command"]', cmd="dir"))
        assert run_of(made)["Cmd"] == ["powershell -Command dir"]
        assert run_of(made)["Shell"] == ["powershell", "-Command"]
        made = store.configure("app:1", ConfigChanges(entrypoint='["app.exe"]'))
        assert run_of(made)["Entrypoint"] == ["app.exe"]
        assert "Cmd" not in run_of(made), "a new entry point takes the old command away"
        made = store.configure(
            "app:1", ConfigChanges(entrypoint='["app.exe"]', cmd='["-x"]', args_escaped=True)
        )
        assert (run_of(made)["Cmd"], run_of(made)["ArgsEscaped"]) == (["-x"], True)
        assert "Cmd" not in run_of(store.configure("app:1", ConfigChanges(cmd="")))

    def test_maps_and_texts(self, store: Store, app: Image) -> None:
        one = store.configure(
            "app:1",
            ConfigChanges(
                labels=("a=1", "b=x=y"),
                exposed_ports=("80", "8000-8002/UDP"),
                volumes=("C:\\data",),
                workdir="C:\\app",
                stop_signal="SIGTERM",
                os_version="10.0.20348.9999",
                author="A. Engineer",
            ),
            "app:2",
        )
        run = run_of(one)
        assert run["Labels"] == {"a": "1", "b": "x=y"}
        assert list(run["ExposedPorts"]) == ["80/tcp", "8000/udp", "8001/udp", "8002/udp"]
        assert run["Volumes"] == {"C:\\data": {}}
        assert (run["WorkingDir"], run["StopSignal"]) == ("C:\\app", "SIGTERM")
        assert one.config.platform.os_version == "10.0.20348.9999"
        assert one.config.value["author"] == "A. Engineer"
        two = store.configure(
            "app:2",
            ConfigChanges(
                unset_labels=("a",),
                unexposed_ports=("80", "8001/udp"),
                workdir="",
                unset_volumes=("C:\\data",),
            ),
        )
        run = run_of(two)
        assert run["Labels"] == {"b": "x=y"}
        assert list(run["ExposedPorts"]) == ["8000/udp", "8002/udp"]
        assert not {"WorkingDir", "Volumes"} & run.keys()

    @pytest.mark.parametrize(
        "changes",
        [
            ConfigChanges(),
            ConfigChanges(env=("=",)),
            ConfigChanges(env=("NAME",)),
            ConfigChanges(labels=("x",)),
            ConfigChanges(cmd="[1]"),
            ConfigChanges(cmd='["unclosed'),
            ConfigChanges(shell="cmd /c"),
            ConfigChanges(exposed_ports=("0",)),
            ConfigChanges(exposed_ports=("9-8",)),
            ConfigChanges(exposed_ports=("x/tcp",)),
            ConfigChanges(os_version="newest"),
        ],
    )
    def test_malformed_changes(self, store: Store, app: Image, changes: ConfigChanges) -> None:
        before = tree_digest(store.root / "images")
        with pytest.raises(ImageError):
            store.configure("app:1", changes, "app:2")
        assert tree_digest(store.root / "images") == before


def test_an_image_that_was_removed_meanwhile_is_not_built_upon(store: Store, app: Image) -> None:
    store.remove_image("app:1")
    before = tree_digest(store.root)
    with pytest.raises(ImageNotFoundError):
        configure_image(store.images, app, None, ConfigChanges(user="x"))
    assert tree_digest(store.root) == before
