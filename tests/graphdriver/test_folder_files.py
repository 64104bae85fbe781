"""What the driver keeps in folders: chains, alternate ids, what is being removed, saved boot files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from winlayers.errors import HcsError, InvalidNameError, LayerCorruptError, LayerInUseError, StoreError
from winlayers.graphdriver.windows import chain as files


class TestChain:
    def test_form_is_dockers(self, kit: Kit) -> None:
        kit.driver.create("one", "top")
        content = (kit.home / "one" / "layerchain.json").read_bytes()
        assert content == f'["{kit.path("top")}","{kit.path("base")}"]'.encode()
        kit.driver.create("two")
        assert (kit.home / "two" / "layerchain.json").read_bytes() == b"null"

    def test_characters_are_written_as_go_writes_them(self, tmp_path: Path) -> None:
        files.write_chain(str(tmp_path), ["C:\\a&b\\<ü>"])
        written = (tmp_path / "layerchain.json").read_bytes()
        assert written == b'["C:\\\\a\\u0026b\\\\\\u003c\xc3\xbc\\u003e"]'

    def test_form_of_others_is_read(self, tmp_path: Path) -> None:
        for content, chain in ((b'["/a/b","C:\\\\c"]', ["/a/b", "C:\\c"]), (b"null", []), (b"[]", [])):
            (tmp_path / "layerchain.json").write_bytes(content)
            assert files.read_chain(str(tmp_path)) == chain

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b'["a", 1]', b'[""]', b'["a\\u0000"]', b"[" * 100_000, b'"a"', b"\xff"]
    )
    def test_damage_is_named(self, kit: Kit, content: bytes) -> None:
        (kit.home / "top" / "layerchain.json").write_bytes(content)
        for call in (kit.driver.layer_chain, kit.driver.get, kit.driver.diff):
            with pytest.raises(LayerCorruptError, match=r"top.*layerchain\.json"):
                call("top")

    def test_chain_of_a_boundless_file_is_not_read(self, kit: Kit) -> None:
        with open(kit.home / "top" / "layerchain.json", "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(LayerCorruptError):
            kit.driver.layer_chain("top")

    def test_home_can_be_moved(self, kit: Kit, tmp_path: Path) -> None:
        os.rename(kit.home, tmp_path / "elsewhere")
        moved = Kit(tmp_path / "elsewhere")
        assert moved.driver.layer_chain("top") == [moved.path("base")]
        with pytest.raises(LayerInUseError):
            moved.driver.remove("base")

    def test_odd_paths_survive(self, tmp_path: Path) -> None:
        chain = ["/\udcff", "C:\\\ud800", "/\U0001f600"]
        files.write_chain(str(tmp_path), chain)
        assert files.read_chain(str(tmp_path)) == chain


class TestAlternateId:
    @pytest.mark.parametrize("name", ["layerID", "layerId"])
    def test_both_spellings_are_read(self, kit: Kit, name: str) -> None:
        kit.service.outside["known as"] = "/shared/known as"
        kit.driver.create("alias")
        (kit.home / "alias" / name).write_text("known as")
        assert kit.driver.exists("alias")
        kit.driver.get("alias")
        assert ("activate", "known as") in kit.service.calls
        kit.driver.put("alias")
        assert kit.service.calls[-1] == ("deactivate", "known as")

    def test_every_call_resolves(self, kit: Kit) -> None:
        os.rename(kit.home / "top", kit.home / "known as")
        (kit.home / "top").mkdir()
        (kit.home / "top" / "layerID").write_text("known as")
        assert kit.driver.layer_chain("top") == [kit.path("base")]
        (kit.home / "known as" / "layer.tar").write_bytes(bytes(1024))
        kit.service.calls.clear()
        kit.driver.changes("top")
        kit.driver.diff("top").close()
        kit.driver.diff_getter("top").close()
        assert {call[1] for call in kit.service.calls if len(call) > 1} == {"known as"}
        kit.driver.create("child", "top")
        assert kit.driver.layer_chain("child") == [kit.path("known as"), kit.path("base")]
        kit.driver.remove("child")
        kit.driver.remove("top")
        assert not kit.driver.exists("top")
        assert not (kit.home / "known as").exists()

    @pytest.mark.parametrize("content", [b"", b"../../etc", b"a/b", b"\xff", b"a\n", b"x" * 5000])
    def test_what_is_no_name_is_refused(self, kit: Kit, content: bytes) -> None:
        (kit.home / "top" / "layerID").write_bytes(content)
        with pytest.raises(LayerCorruptError, match=r"layerID|more than"):
            kit.driver.get("top")
        assert not kit.driver.exists("top")

    def test_new_ids_that_mean_something_else(self, kit: Kit) -> None:
        for layer_id in ("x-removing", "sysfile-backups", ".hidden"):
            with pytest.raises(InvalidNameError):
                kit.driver.create(layer_id)


class TestRemoval:
    def test_order(self, kit: Kit) -> None:
        kit.driver.remove("top")
        assert kit.service.calls == [("prepare_removal", "top"), ("destroy", "top-removing")]
        assert sorted(os.listdir(kit.home)) == ["base"]

    def test_saved_boot_files_go_too(self, kit: Kit) -> None:
        saved = kit.home / "sysfile-backups" / "top"
        saved.mkdir(parents=True)
        (saved / "BCD").write_bytes(b"boot")
        (kit.home / "sysfile-backups" / "other").mkdir()
        kit.driver.remove("top")
        assert os.listdir(kit.home / "sysfile-backups") == ["other"]

    def test_saved_boot_files_that_stay_are_no_error(
        self, kit: Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def locked(path: str) -> None:
            raise PermissionError(errno.EACCES, "locked", path)

        monkeypatch.setattr("winlayers.graphdriver.windows.driver.remove_tree", locked)
        kit.driver.remove("top")
        assert not kit.driver.exists("top")
        assert "boot files" in caplog.text

    def test_locked_layer_is_gone_and_swept_later(self, kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
        kit.service.fail["destroy"] = HcsError("locked", function="DestroyLayer")
        kit.driver.remove("top")
        assert "locked" in caplog.text
        assert not kit.driver.exists("top")
        assert (kit.home / "top-removing").is_dir()
        kit.driver.create("top", "base")
        kit.driver.cleanup()  # still locked: logged, not raised
        assert (kit.home / "top-removing").is_dir()
        del kit.service.fail["destroy"]
        kit.driver.cleanup()
        assert sorted(os.listdir(kit.home)) == ["base", "top"]

    def test_second_removal_while_the_first_is_locked(self, kit: Kit) -> None:
        kit.service.fail["destroy"] = HcsError("locked")
        kit.driver.remove("top")
        kit.driver.create("top", "base")
        kit.driver.remove("top")
        assert sorted(os.listdir(kit.home)) == ["base", "top-1-removing", "top-removing"]
        del kit.service.fail["destroy"]
        kit.driver.cleanup()
        assert os.listdir(kit.home) == ["base"]

    def test_denied_rename_is_tried_again_after_a_release(
        self, kit: Kit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename, denied = os.rename, [PermissionError(errno.EACCES, "Permission denied")]

        def once_denied(source: str, target: str) -> None:
            if denied:
                raise denied.pop()
            rename(source, target)

        monkeypatch.setattr(os, "rename", once_denied)
        kit.driver.remove("top")
        assert kit.names() == ["prepare_removal", "release", "destroy"]
        assert not kit.driver.exists("top")

    def test_rename_denied_twice_leaves_the_layer(self, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(source: str, target: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "rename", denied)
        with pytest.raises(StoreError, match="Permission denied"):
            kit.driver.remove("top")
        assert kit.names() == ["prepare_removal", "release"]
        assert kit.driver.exists("top")

    def test_what_holds_the_layer_is_stopped_first(self, kit: Kit) -> None:
        kit.service.fail["prepare_removal"] = HcsError("can't enumerate")
        with pytest.raises(HcsError):
            kit.driver.remove("top")
        assert kit.driver.exists("top")

    def test_sweep_takes_folders_only(self, kit: Kit, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (kit.home / "link-removing").symlink_to(tmp_path / "elsewhere")
        (kit.home / "file-removing").write_text("x")
        (kit.home / "folder-removing").mkdir()
        kit.driver.cleanup()
        assert sorted(os.listdir(kit.home)) == ["base", "file-removing", "link-removing", "top"]
        assert (tmp_path / "elsewhere").is_dir()

    def test_missing_home_is_fine(self, kit: Kit, tmp_path: Path) -> None:
        os.rename(kit.home, tmp_path / "elsewhere")
        kit.driver.cleanup()

    def test_layer_with_a_broken_chain_is_nobodys_child(
        self, kit: Kit, caplog: pytest.LogCaptureFixture
    ) -> None:
        kit.driver.create("one", "top")
        (kit.home / "one" / "layerchain.json").write_text("{")
        kit.driver.remove("top")
        assert "layer one" in caplog.text
