"""The register: a file of identities that several processes change, and that nothing damages."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import until
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.register import Entry, Key, Register
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

EXAMPLES = settings(
    database=None,
    deadline=None,  # a busy machine is no bug
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NOW = parse_rfc3339("2026-01-31T12:00:00Z")
KEYS = [public_key(new_seed()) for _ in range(6)]
SINCE = rfc3339(NOW)
times = st.integers(-20, 20).map(lambda seconds: rfc3339(NOW + seconds * 1_000_000_000))
maybe = st.none() | times
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def entry(name: str = "a.one", key: int = 0, **fields: Any) -> Entry:
    """An identity with one key."""
    given: dict[str, Any] = {"role": Role.PUBLISHER, "keys": (Key(KEYS[key], SINCE),), **fields}
    return Entry(principal=name, **given)


@st.composite
def registers(draw: st.DrawFn) -> dict[str, Entry]:
    """Any register that may be written."""
    keys = draw(st.permutations(KEYS))
    found: dict[str, Entry] = {}
    for name in draw(st.lists(st.sampled_from(["a.one", "b.two", "c-d.3"]), unique=True)):
        own = tuple(
            Key(keys.pop(), draw(times), draw(maybe)) for _ in range(draw(st.integers(1, 2)))
        )
        found[name] = Entry(
            principal=name,
            role=draw(st.sampled_from(Role)),
            keys=own,
            declared=draw(st.booleans()),
            capabilities=draw(st.sampled_from([(), ("x",), ("x", "y.z")])),
            subscribes=draw(st.sampled_from([(), ("x",)])),
            lease=draw(st.floats(1, 1e6)),
            expires=draw(maybe),
            revoked=draw(maybe),
            reason=draw(texts),
        )
    return found


@pytest.fixture
def register(tmp_path: Path) -> Register:
    """One whose folder is not there yet."""
    return Register(tmp_path / "state" / "identities.json")


def put(register: Register, *entries: Entry) -> None:
    """Write these, whatever is there."""
    with register.edit() as found:
        found.update({entry.principal: entry for entry in entries})


def test_where_there_is_no_file_there_is_nobody(register: Register) -> None:
    """Reading makes no file, and neither does an edit that changes nothing."""
    assert register.read() == {}
    assert register.version() == ""
    with register.edit():
        pass
    assert not register.path.exists()


@EXAMPLES
@given(states=st.lists(registers(), min_size=1, max_size=4))
def test_what_was_written_is_read(tmp_path: Path, states: list[dict[str, Entry]]) -> None:
    """Whatever follows whatever; the version is greater after a change, and else the same."""
    register = Register(tmp_path / "identities.json")
    for state in states:
        before, version = register.read(), register.version()
        with register.edit() as found:
            assert found == before
            found.clear()
            found.update(state)

        assert register.read() == state
        assert (register.version() > version) == (state != before)
        assert (register.version() == version) == (state == before)


@EXAMPLES
@given(registers(), st.integers(-21, 21), st.integers(-1, 1))
def test_which_keys_are_good(found: dict[str, Entry], seconds: int, rest: int) -> None:
    """None of the revoked and expired; else those not ended, to the nanosecond, newest last."""
    now = NOW + seconds * 1_000_000_000 + rest
    moment = rfc3339(now)  # of nine digits, so that text compares as time does
    for one in found.values():
        over = one.revoked is not None or (one.expires is not None and one.expires <= moment)
        good = [k.public for k in one.keys if not over and (k.until is None or moment < k.until)]

        assert list(one.good(now)) == good
        if one.revoked:
            assert one.state(now) == "revoked"
        else:
            assert one.state(now) == ("active" if good else "expired")


@pytest.mark.parametrize("overlap", [0, 1, 10_000_000_000])
def test_both_keys_are_good_while_a_rotation_overlaps(overlap: int) -> None:
    """From the moment of the rotation to that of its end, which is not part of it."""
    old = Key(KEYS[0], SINCE, rfc3339(NOW + overlap))
    rotated = entry(keys=(old, Key(KEYS[1], SINCE)))

    assert rotated.good(NOW + overlap - 1) == (KEYS[0], KEYS[1])
    assert rotated.good(NOW + overlap) == (KEYS[1],)


def test_each_change_makes_another_version(register: Register) -> None:
    """However fast they follow each other, and though file numbers and clock ticks are reused."""
    seen: list[str] = []
    for number in range(200):
        put(register, entry(reason=f"{number:03}"))
        seen.append(register.version())

    assert sorted(set(seen)) == seen


def test_a_change_by_hand_is_another_version(register: Register) -> None:
    """Also of the same length, and with an older time than that of the file it replaces."""
    put(register, entry(reason="mine"))
    version, text = register.version(), register.path.read_text()
    other = register.path.with_name("other")
    other.write_text(text.replace("mine", "hers"))
    os.utime(other, (0, 0))
    other.replace(register.path)

    assert register.version() != version
    assert register.read()["a.one"].reason == "hers"
    put(register, entry(reason="mine"))
    assert register.version() > version


def test_an_edit_that_fails_changes_nothing(register: Register) -> None:
    """Whoever raises in the middle leaves the file, and the lock is free again."""
    put(register, entry())
    version = register.version()
    with pytest.raises(ZeroDivisionError), register.edit() as found:
        found.clear()
        raise ZeroDivisionError

    assert register.version() == version
    put(register, entry("b.two", 1))
    assert sorted(register.read()) == ["a.one", "b.two"]


def test_what_cannot_be_written_leaves_the_file(register: Register) -> None:
    """Text that is no Unicode is refused before anything is there."""
    put(register, entry())
    with pytest.raises(ValueError, match="surrogates"):
        put(register, entry(reason="\udcff"))

    assert register.read() == {"a.one": entry()}


EDITOR = """
import sys
from pathlib import Path
from tidegate_bus.identity.register import Entry, Key, Register
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.identity import Role

register, who = Register(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    with register.edit() as entries:
        key = Key(public_key(new_seed()), "2026-01-31T12:00:00Z")
        name = f"{who}.{number}"
        entries[name] = Entry(principal=name, role=Role.PUBLISHER, keys=(key,), reason="x" * 5000)
    print(name, flush=True)
"""


def _editor(register: Register, who: str, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", EDITOR, str(register.path), who, str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_editors_of_several_processes_lose_nothing(register: Register) -> None:
    """Each adds to what the others have written, and a reader always finds a whole file."""
    editors = [_editor(register, f"p{n}", 25) for n in range(4)]
    sizes = [0]
    while any(editor.poll() is None for editor in editors):
        sizes.append(len(register.read()))
    for editor in editors:
        editor.communicate()

    assert [editor.returncode for editor in editors] == [0] * 4
    assert sorted(register.read()) == sorted(f"p{n}.{i}" for n in range(4) for i in range(25))
    assert sizes == sorted(sizes)


def test_editors_in_threads_lose_nothing(register: Register) -> None:
    """The lock holds inside a process too."""

    def add(number: int) -> None:
        put(register, entry(f"t.{number}", number))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(len(KEYS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(register.read()) == len(KEYS)


def test_a_killed_editor_leaves_the_old_file_or_the_new_one(register: Register) -> None:
    """At whatever moment; what it had said to be written is there, and the lock is free."""
    put(register, entry("keep.me"))
    said = 0
    for attempt in range(6):
        editor = _editor(register, f"k{attempt}", 10_000)
        assert editor.stdout
        for _ in range(1 + attempt):
            editor.stdout.readline()
        editor.send_signal(signal.SIGKILL)
        names = editor.communicate()[0].split()
        found = register.read()  # whole: it decodes
        assert "keep.me" in found
        mine = [n for n in found if n.startswith(f"k{attempt}.")]
        assert sorted(mine) == sorted(f"k{attempt}.{i}" for i in range(len(mine)))
        assert not names or names[-1] == "ready" or names[-1] in found
        said += len(mine)
        with register.edit() as entries:
            for name in mine:
                del entries[name]
    assert said
    assert list(register.read()) == ["keep.me"]


def test_an_editor_killed_inside_the_edit_leaves_the_old_file(register: Register) -> None:
    """What it had changed by then is not there, and whoever waits for the lock gets it."""
    put(register, entry())
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from tidegate_bus.identity.register import Register\n"
        "with Register(Path(sys.argv[1])).edit() as entries:\n"
        "    entries.clear()\n    Path(sys.argv[2]).touch()\n    time.sleep(60)\n"
    )
    inside = register.path.with_name("inside")
    editor = subprocess.Popen([sys.executable, "-c", script, str(register.path), str(inside)])
    asyncio.run(until(inside.exists))
    waiting = threading.Thread(target=put, args=(register, entry("b.two", 1)))
    waiting.start()
    assert list(register.read()) == ["a.one"]  # who reads does not wait
    editor.kill()
    editor.wait()
    waiting.join(20)

    assert sorted(register.read()) == ["a.one", "b.two"]


def test_what_an_interrupted_writer_left_is_written_over(register: Register) -> None:
    """Half a file beside the register is of no account."""
    put(register, entry())
    register.path.with_suffix(".part").write_bytes(b'{"identities": [')
    put(register, entry("b.two", 1))

    assert sorted(register.read()) == ["a.one", "b.two"]


def _damaged(**fields: Any) -> bytes:
    whole = {"principal": "a.one", "role": "agent", "keys": [{"public": KEYS[0], "since": SINCE}]}
    return msgspec.json.encode({"identities": [{**whole, **fields}]})


ONE = msgspec.to_builtins(entry())
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "cut": (_damaged()[:-5], "truncated"),
    "no text": (b'{"identities": [{"principal": "\xff"}]}', "(?i)utf-8|invalid"),
    "not json": (b"identities:\n", "malformed"),
    "a list": (b"[]", "Expected `object`"),
    "deep": (b"[" * 100_000, "object|recursion"),
    "another field": (b'{"identity": []}', "unknown field"),
    "another field of one": (_damaged(admin=True), "unknown field `admin`"),
    "path": (_damaged(principal="../x.y"), r"\.\./x\.y: .*1 to 63 of a-z"),
    "look-alike": (_damaged(principal="\u0430.one"), "1 to 63 of a-z"),
    "no dot": (_damaged(principal="one"), "write it as team.name"),
    "role": (_damaged(role="king"), "Invalid enum value 'king'"),
    "no keys": (_damaged(keys=[]), r"a\.one: has no key"),
    "no keys, expires": (_damaged(keys=[], expires=SINCE), r"a\.one: has no key"),
    "no keys, revoked": (_damaged(keys=[], revoked=SINCE), r"a\.one: has no key"),
    "key": (_damaged(keys=[{"public": "U", "since": SINCE}]), "'U' is no public key"),
    "since": (_damaged(keys=[{"public": KEYS[0], "since": "x"}]), r"a\.one: not an RFC 3339"),
    "since, ended": (
        _damaged(keys=[{"public": KEYS[0], "since": "x", "until": SINCE}]),
        r"a\.one: not an RFC 3339",
    ),
    "until": (
        _damaged(keys=[{"public": KEYS[0], "since": SINCE, "until": ""}]),
        r"a\.one: not an RFC 3339",
    ),
    "expires": (_damaged(expires="tomorrow"), r"a\.one: not an RFC 3339"),
    "revoked": (_damaged(revoked="yes"), r"a\.one: not an RFC 3339"),
    "revoked, expires": (_damaged(revoked="yes", expires=SINCE), r"a\.one: not an RFC 3339"),
    "no day": (_damaged(expires="2026-02-30T00:00:00Z"), r"a\.one: day"),
    "capability": (_damaged(capabilities=["a b"]), r"a\.one: destination 'a b'"),
    "wildcard": (_damaged(subscribes=[">"]), r"a\.one: destination '>'"),
    "twice": (_damaged(capabilities=["x", "x"]), "the same twice"),
    "lease": (_damaged(lease=0), "a lease of 0 s"),
    "lease below": (_damaged(lease=-1), "a lease of -1 s"),
    "lease above": (_damaged(lease=1e300), r"a lease of 1e\+300 s"),
    "one name twice": (
        msgspec.json.encode({"identities": [ONE, msgspec.to_builtins(entry(key=1))]}),
        r"a\.one: is there twice",
    ),
    "one key twice": (
        msgspec.json.encode({"identities": [ONE, msgspec.to_builtins(entry("b.two"))]}),
        r"b\.two: has a key of a\.one",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_damaged_by_hand_is_said_with_path_and_reason(
    register: Register, damage: str
) -> None:
    """InvalidInput, to readers and editors alike, and the file is left for whoever mends it."""
    content, expected = DAMAGE[damage]
    register.path.parent.mkdir()
    register.path.write_bytes(content)

    for attempt in (register.read, lambda: put(register, entry("b.two", 1))):
        with pytest.raises(InvalidInput, match=expected) as raised:
            attempt()
        assert str(raised.value).startswith(f"{register.path}: ")
    assert register.path.read_bytes() == content


@EXAMPLES
@given(cut=st.integers(0, 400), flip=st.integers(0, 399), byte=st.integers(0, 255))
def test_any_damage_is_our_own_error(tmp_path: Path, cut: int, flip: int, byte: int) -> None:
    """A byte that is another one, an end that is missing: an identity, or InvalidInput."""
    register = Register(tmp_path / "identities.json")
    content = bytearray(msgspec.json.encode({"identities": [ONE]}))
    content[flip % len(content)] = byte
    register.path.write_bytes(bytes(content[: 1 + cut]))
    try:
        found = register.read()
    except InvalidInput as error:
        assert str(register.path) in str(error)
    else:
        assert all(Principal.parse(name) for name in found)


def test_a_path_that_cannot_be_read_is_invalid_input(register: Register) -> None:
    """With the words of the operating system."""
    register.path.mkdir(parents=True)

    with pytest.raises(InvalidInput, match=r"identities\.json: Is a directory"):
        register.read()
