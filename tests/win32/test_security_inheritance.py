"""What new files and directories inherit."""

from __future__ import annotations

import base64

import pytest

from winlayers.errors import SecurityDescriptorError
from winlayers.win32.security import (
    WELL_KNOWN_SIDS,
    Acl,
    Control,
    Layout,
    RawAce,
    SecurityDescriptor,
    Sid,
    bytes_to_sddl,
    inherit,
    parse_sddl,
    sddl_to_bytes,
)

USER = Sid.parse("S-1-5-21-1-2-3-1001")
GROUP = Sid.parse("S-1-5-21-1-2-3-513")


def child(
    parent: str | None, *, directory: bool, creator: str | None = None, auto: bool | None = None
) -> str:
    """The ACLs, as SDDL, of what *USER* of *GROUP* makes in *parent*."""
    made = inherit(
        None if parent is None else sddl_to_bytes(parent),
        is_directory=directory,
        owner=USER.to_bytes(),
        group=GROUP.to_bytes(),
        creator=None if creator is None else sddl_to_bytes(creator),
        auto_inherit=auto,
    )
    text = bytes_to_sddl(made)
    assert text.startswith(f"O:{USER}G:{GROUP}")
    return text.removeprefix(f"O:{USER}G:{GROUP}").replace(str(USER), "USER").replace(str(GROUP), "GROUP")


DEFAULT = "D:(A;;FA;;;USER)(A;;FA;;;SY)"


# Parent's flags; flags on a file (None: nothing is inherited); flags on a directory.  The table is that of
# "ACE inheritance rules", for an ACE in which nothing has to be replaced.
@pytest.mark.parametrize(
    ("flags", "file", "directory"),
    [
        ("", None, None), ("OI", "", "OIIO"), ("CI", None, "CI"), ("OICI", "", "OICI"),
        ("NP", None, None), ("OINP", "", None), ("CINP", None, ""), ("OICINP", "", ""),
        ("IO", None, None), ("OIIO", "", "OIIO"), ("CIIO", None, "CI"), ("OICIIO", "", "OICI"),
        ("NPIO", None, None), ("OINPIO", "", None), ("CINPIO", None, ""), ("OICINPIO", "", ""),
    ],
)  # fmt: skip
def test_all_combinations_of_flags(flags: str, file: str | None, directory: str | None) -> None:
    parent = f"D:(A;{flags};DC;;;WD)"
    assert child(parent, directory=False) == (DEFAULT if file is None else f"D:(A;{file};DC;;;WD)")
    assert child(parent, directory=True) == (DEFAULT if directory is None else f"D:(A;{directory};DC;;;WD)")


# The same with CREATOR OWNER: what takes effect is the user's, what is passed on is still CREATOR OWNER's.
@pytest.mark.parametrize(
    ("flags", "directory"),
    [
        ("OI", "(A;OIIO;DC;;;CO)"),
        ("CI", "(A;;DC;;;USER)(A;CIIO;DC;;;CO)"),
        ("OICI", "(A;;DC;;;USER)(A;OICIIO;DC;;;CO)"),
        ("OICINP", "(A;;DC;;;USER)"),
        ("CIIO", "(A;;DC;;;USER)(A;CIIO;DC;;;CO)"),
        ("OIIO", "(A;OIIO;DC;;;CO)"),
        ("CINPIO", "(A;;DC;;;USER)"),
    ],
)
def test_creator_owner_on_directories(flags: str, directory: str) -> None:
    assert child(f"D:(A;{flags};DC;;;CO)(A;;FA;;;WD)", directory=True) == f"D:{directory}"


def test_creator_owner_and_group_on_files() -> None:
    assert child("D:(A;OICI;DC;;;CO)(A;OI;GR;;;CG)", directory=False) == "D:(A;;DC;;;USER)(A;;FR;;;GROUP)"


def test_owner_rights_stay() -> None:
    parent = "D:(A;OICI;RC;;;OW)"
    assert child(parent, directory=False) == "D:(A;;RC;;;OW)"
    assert child(parent, directory=True) == "D:(A;OICI;RC;;;OW)"


@pytest.mark.parametrize(
    ("generic", "specific"),
    [
        ("GA", "FA"), ("GR", "FR"), ("GW", "FW"), ("GX", "FX"), ("GRGX", "0x1200a9"), ("GASD", "FA"),
        ("GRDC", "0x12008b"),
    ],
)  # fmt: skip
def test_generic_rights_become_file_rights_where_they_take_effect(generic: str, specific: str) -> None:
    mask = bytes_to_sddl(sddl_to_bytes(f"D:(A;OICIIO;{generic};;;BU)"))
    assert child(f"D:(A;OICI;{generic};;;BU)", directory=False) == f"D:(A;;{specific};;;BU)"
    assert child(f"D:(A;OICI;{generic};;;BU)", directory=True) == f"D:(A;;{specific};;;BU)" + mask[2:]


def test_automatic_inheritance_is_marked_where_the_parent_says_so() -> None:
    parent = "D:AI(A;OICIID;FA;;;SY)(A;OICIIOID;GA;;;CO)(A;CI;LC;;;BU)(A;;FA;;;WD)"
    assert child(parent, directory=False) == "D:AI(A;ID;FA;;;SY)(A;ID;FA;;;USER)"
    assert child(parent, directory=True) == (
        "D:AI(A;OICIID;FA;;;SY)(A;ID;FA;;;USER)(A;OICIIOID;GA;;;CO)(A;CIID;LC;;;BU)"
    )
    assert child(parent, directory=False, auto=False) == "D:(A;;FA;;;SY)(A;;FA;;;USER)"
    unmarked = parent.replace("D:AI", "D:")
    assert child(unmarked, directory=False) == "D:(A;;FA;;;SY)(A;;FA;;;USER)"
    assert child(unmarked, directory=False, auto=True) == "D:AI(A;ID;FA;;;SY)(A;ID;FA;;;USER)"


def test_a_protected_parent_passes_on_like_any_other() -> None:
    assert child("D:PAI(A;OICI;FA;;;BA)", directory=True) == "D:AI(A;OICIID;FA;;;BA)"
    assert child("D:P(A;OICI;FA;;;BA)", directory=True) == "D:(A;OICI;FA;;;BA)"


def test_what_the_owner_has_already_is_not_said_twice() -> None:
    # The root of a Windows Server volume, and an administrator's new folder and file there.
    root = (
        "D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CIIO;DC;;;BU)"
        "(A;OICIIO;GA;;;CO)"
    )
    folder = bytes_to_sddl(inherit(sddl_to_bytes(root), is_directory=True))
    assert folder == (
        "O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)(A;CIID;LC;;;BU)(A;CIID;DC;;;BU)"
        "(A;OICIIOID;GA;;;CO)"
    )
    file = bytes_to_sddl(inherit(sddl_to_bytes(root), is_directory=False))
    assert file == "O:BAG:SYD:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;0x1200a9;;;BU)"


def test_a_directory_of_buildkit_is_what_a_container_root_passes_on() -> None:
    root = (
        "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)"
        "(A;CI;DC;;;BU)"
    )
    wanted = base64.b64decode(
        "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAECAAAAAAAF"
        "IAAAACACAAAAAxQA/wEfAAEBAAAAAAAFEgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAA"
        "AAMYAKkAEgABAgAAAAAABSAAAAAhAgAAAAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAAAAAABSAAAAAhAgAA"
    )
    assert inherit(sddl_to_bytes(root), is_directory=True) == wanted


@pytest.mark.parametrize("parent", [None, "", "D:", "D:NO_ACCESS_CONTROL", "D:(A;;FA;;;WD)"])
def test_without_anything_to_inherit_the_default_dacl_is_used(parent: str | None) -> None:
    for directory in (False, True):
        assert child(parent, directory=directory) == DEFAULT


def test_the_default_dacl_of_a_parent_with_automatic_inheritance_is_marked() -> None:
    assert child("D:PAI(A;;FA;;;WD)", directory=False) == DEFAULT.replace("D:", "D:AI")


def test_default_owner_group_and_dacl() -> None:
    assert bytes_to_sddl(inherit(None, is_directory=False)) == "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)"
    system = WELL_KNOWN_SIDS["SY"].to_bytes()
    made = inherit(None, is_directory=False, owner=system, group=system)
    assert bytes_to_sddl(made) == "O:SYG:SYD:(A;;FA;;;SY)(A;;0x1200a9;;;BA)"
    acl = parse_sddl("D:(A;;GR;;;WD)(A;;GA;;;CO)").dacl
    assert acl is not None
    made = inherit(None, is_directory=True, default_dacl=acl.to_bytes())
    assert bytes_to_sddl(made) == "O:BAG:SYD:(A;;FR;;;WD)(A;;FA;;;BA)"


def test_the_layout_is_that_of_a_file_unless_another_is_asked_for() -> None:
    parent = sddl_to_bytes("D:(A;OICI;FA;;;BA)")
    made = inherit(parent, is_directory=False)
    assert made == SecurityDescriptor.from_bytes(made).to_bytes(Layout.OWNER_FIRST)
    other = inherit(parent, is_directory=False, layout=Layout.ACLS_FIRST)
    assert other == sddl_to_bytes("O:BAG:SYD:(A;;FA;;;BA)")


# -- with a descriptor that the creator asks for ----------------------------------------------------


def test_owner_and_group_asked_for_go_first_and_are_what_creator_owner_becomes() -> None:
    made = inherit(
        sddl_to_bytes("D:(A;OI;DC;;;CO)(A;OI;DC;;;CG)"),
        is_directory=False,
        owner=USER.to_bytes(),
        creator=sddl_to_bytes("O:BUG:BG"),
    )
    assert bytes_to_sddl(made) == "O:BUG:BGD:(A;;DC;;;BU)(A;;DC;;;BG)"


def test_an_explicit_dacl_is_joined_with_what_is_inherited_automatically() -> None:
    parent = "D:AI(A;OICIID;FA;;;SY)"
    made = child(parent, directory=True, creator="D:(A;OICI;GR;;;BU)(A;;GA;;;CO)(A;ID;FA;;;WD)")
    assert made == "D:AI(A;;FR;;;BU)(A;OICIIO;GR;;;BU)(A;;FA;;;USER)(A;OICIID;FA;;;SY)"


def test_an_explicit_dacl_stands_alone_where_inheritance_is_not_automatic() -> None:
    made = child("D:(A;OICI;FA;;;SY)", directory=True, creator="D:(A;OICI;GR;;;BU)(A;OICIIO;GR;;;BU)")
    assert made == "D:(A;OICI;FR;;;BU)(A;OICIIO;GR;;;BU)"


def test_a_protected_explicit_dacl_inherits_nothing() -> None:
    made = child("D:AI(A;OICIID;FA;;;SY)", directory=True, creator="D:P(A;OICIID;FA;;;BU)")
    assert made == "D:P(A;OICI;FA;;;BU)"


def test_explicit_null_and_empty_dacls() -> None:
    assert child("D:(A;OI;FA;;;SY)", directory=False, creator="D:NO_ACCESS_CONTROL") == "D:NO_ACCESS_CONTROL"
    assert child("D:(A;OI;FA;;;SY)", directory=False, creator="D:") == "D:"
    assert child("D:AI(A;OI;FA;;;SY)", directory=False, creator="D:") == "D:AI(A;ID;FA;;;SY)"


def test_a_defaulted_explicit_dacl_gives_way_to_what_is_inherited() -> None:
    acl = parse_sddl("D:(A;;FR;;;BU)").dacl
    creator = SecurityDescriptor(dacl=acl, control=Control.DACL_DEFAULTED).to_bytes()
    for parent, wanted in (("D:(A;OI;FA;;;SY)", "(A;;FA;;;SY)"), ("D:(A;CI;FA;;;SY)", "(A;;FR;;;BU)")):
        made = inherit(sddl_to_bytes(parent), is_directory=False, creator=creator)
        assert bytes_to_sddl(made) == f"O:BAG:SYD:{wanted}"


# -- system ACLs ------------------------------------------------------------------------------------


def test_auditing_and_labels_are_inherited() -> None:
    parent = "D:(A;OICI;FA;;;BA)S:AI(AU;OICISAFA;GA;;;CO)(ML;OICI;NW;;;LW)(AU;SA;FA;;;WD)"
    assert child(parent, directory=False) == "D:(A;;FA;;;BA)S:AI(AU;IDSAFA;FA;;;USER)(ML;ID;NW;;;LW)"
    assert child(parent, directory=True) == (
        "D:(A;OICI;FA;;;BA)S:AI(AU;IDSAFA;FA;;;USER)(AU;OICIIOIDSAFA;GA;;;CO)(ML;OICIID;NW;;;LW)"
    )


def test_a_sacl_with_nothing_to_inherit_gives_none() -> None:
    assert child("D:(A;OI;FA;;;BA)S:AI(AU;SA;FA;;;WD)", directory=False) == "D:(A;;FA;;;BA)"


def test_an_explicit_sacl() -> None:
    parent = "D:(A;OI;FA;;;BA)S:AI(AU;OISA;FA;;;WD)"
    assert child(parent, directory=False, creator="S:(AU;FA;GR;;;BU)") == (
        "D:(A;;FA;;;BA)S:AI(AU;FA;FR;;;BU)(AU;IDSA;FA;;;WD)"
    )
    assert (
        child(parent, directory=False, creator="S:NO_ACCESS_CONTROL") == "D:(A;;FA;;;BA)S:AINO_ACCESS_CONTROL"
    )


def test_attributes_and_policies_pass_through_protection() -> None:
    claim = '(RA;OICI;;;;WD;("n",TI,0x0,1))'
    parent = f"D:(A;OI;FA;;;BA)S:AI(AU;OISA;FA;;;WD){claim}(SP;OICI;;;;S-1-17-1)"
    made = child(parent, directory=False, creator="S:P(AU;FA;FR;;;BU)")
    assert made == 'D:(A;;FA;;;BA)S:P(AU;FA;FR;;;BU)(RA;ID;;;;WD;("n",TI,0x0,1))(SP;ID;;;;S-1-17-1)'


# -- less common types ------------------------------------------------------------------------------


def test_conditions_go_along() -> None:
    parent = 'D:(XA;OICI;GR;;;BU;(@USER.a == "b"))'
    assert child(parent, directory=False) == 'D:(XA;;FR;;;BU;(@USER.a == "b"))'


def test_an_inherited_object_type_is_dropped_where_it_takes_effect() -> None:
    guid = "ab721a53-1e2f-11d0-9819-00aa0040529b"
    parent = f"D:(OA;OICI;DC;;{guid};BU)(OA;OICI;DC;{guid};{guid};BU)"
    assert child(parent, directory=False) == f"D:(A;;DC;;;BU)(OA;;DC;{guid};;BU)"
    assert child(f"D:(OA;OICI;DC;;{guid};BU)", directory=True) == f"D:(A;;DC;;;BU)(OA;OICIIO;DC;;{guid};BU)"


def test_unknown_types_are_inherited_as_they_are() -> None:
    parent = SecurityDescriptor(dacl=Acl((RawAce(0x60, 0x03, b"body"),))).to_bytes()
    made = SecurityDescriptor.from_bytes(inherit(parent, is_directory=False)).dacl
    assert made is not None
    assert made.aces == (RawAce(0x60, 0, b"body"),)
    made = SecurityDescriptor.from_bytes(inherit(parent, is_directory=True, auto_inherit=True)).dacl
    assert made is not None
    assert made.aces == (RawAce(0x60, 0x13, b"body"),)


@pytest.mark.parametrize(
    "arguments",
    [
        {"parent": b"short"},
        {"creator": b"short"},
        {"owner": b"short"},
        {"owner": USER.to_bytes() + b"\0\0\0\0"},
        {"group": b""},
        {"default_dacl": b"\2\0"},
    ],
)
def test_malformed_arguments_are_refused(arguments: dict[str, bytes]) -> None:
    parent = arguments.pop("parent", None)
    with pytest.raises(SecurityDescriptorError):
        inherit(parent, is_directory=False, **arguments)  # type: ignore[arg-type]  # all are bytes


def test_an_acl_that_grows_beyond_its_limit_is_refused() -> None:
    parent = sddl_to_bytes("D:" + "(A;OICI;GR;;;CO)" * 3000)
    with pytest.raises(SecurityDescriptorError, match="larger than an ACL can be"):
        inherit(parent, is_directory=True)
