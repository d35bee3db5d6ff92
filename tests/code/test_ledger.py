"""The ledger: every tampering is reported with its line, every kill is healed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import killed_at

from feature_repo.errors import CertificateError, LedgerError
from feature_repo.home import Home, open_home
from serving import dsse, ledger
from tasks.ledger import append, own_trust

Lines = list[dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with five entries."""
    home = open_home(str(tmp_path / "home"))
    for number in range(1, 6):
        append(home, "certificate", f"subject-{number}", {"use_case": "toy", "x": number})
    return home


def verify(home: Home) -> int:
    return len(ledger.verify(home, own_trust(home)))


def path_of(home: Home) -> Path:
    return home.root / "ledger" / "ledger.jsonl"


def rewrite(home: Home, change: Callable[[Lines], Lines]) -> None:
    lines = [json.loads(line) for line in path_of(home).read_text().splitlines()]
    path_of(home).write_bytes(b"".join(as_line(entry) for entry in change(lines)))


def as_line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def rehashed(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A forger's entry: changed, with a hash that fits."""
    plain = {k: v for k, v in {**entry, **changes}.items() if k != "hash"}
    return {**plain, "hash": hashlib.sha256(as_line(plain)[:-1]).hexdigest()}


def forged_chain(lines: Lines, **changes: Any) -> Lines:
    """The first entry changed and every hash after it recomputed."""
    result = [rehashed(lines[0], **changes)]
    for entry in lines[1:]:
        result.append(rehashed(entry, previous=result[-1]["hash"]))
    return result


def test_an_untouched_ledger_is_verified(home: Home) -> None:
    assert verify(home) == 5
    assert [e["n"] for e in ledger.entries(home)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "line", "word"),
    [
        (lambda x: [*x[:2], {**x[2], "subject": "other"}, *x[3:]], 3, "changed"),
        (lambda x: [*x[:2], rehashed(x[2], subject="other"), *x[3:]], 3, "changed"),
        (lambda x: [*x[:4], {**x[4], "facts": {}}], 5, "changed"),
        (lambda x: [*x[:4], rehashed(x[4], facts={})], 5, "changed"),
        (lambda x: forged_chain(x, subject="other"), 5, "changed"),
        (lambda x: x[1:], 1, "removed"),
        (lambda x: [*x[:2], *x[3:]], 3, "removed"),
        (lambda x: x[:-1], 5, "removed"),
        (lambda x: x[:2], 3, "removed"),
        (lambda x: [], 1, "removed"),
        (lambda x: [x[0], x[2], x[1], *x[3:]], 2, "swapped"),
        (lambda x: [*x[:3], x[4], x[3]], 4, "swapped"),
        (lambda x: [*x, rehashed(x[4], n=6, previous=x[4]["hash"])], 6, "added"),
        (lambda x: [*x, x[4]], 6, "swapped"),
    ],
)
def test_tampering_is_reported_with_its_line(
    home: Home, change: Callable[[Lines], Lines], line: int, word: str
) -> None:
    rewrite(home, change)
    with pytest.raises(LedgerError, match=rf"line {line}\b") as caught:
        verify(home)
    assert word in str(caught.value)
    assert "restore" in str(caught.value)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_one_changed_byte_is_reported_with_its_line(home: Home, number: int) -> None:
    lines = path_of(home).read_bytes().splitlines(keepends=True)
    at = lines[number - 1].index(b"subject-")
    lines[number - 1] = lines[number - 1][:at] + b"S" + lines[number - 1][at + 1 :]
    path_of(home).write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=f"line {number} was changed"):
        verify(home)


def test_white_space_counts_too(home: Home) -> None:
    content = path_of(home).read_bytes().replace(b'"kind":', b'"kind": ', 1)
    path_of(home).write_bytes(content)
    with pytest.raises(LedgerError, match="line 1"):
        verify(home)


def test_rubbish_is_no_entry(home: Home) -> None:
    path_of(home).write_bytes(path_of(home).read_bytes() + b"[1]\n")
    with pytest.raises(LedgerError, match="line 6 is not an entry"):
        verify(home)


def test_a_missing_head_is_reported(home: Home) -> None:
    (home.root / "ledger" / "head.json").unlink()
    with pytest.raises(LedgerError, match=r"head\.json is missing"):
        verify(home)


def test_a_ledger_that_is_gone_is_reported_where_models_were_certified(home: Home) -> None:
    home.path("models", "toy", "subject", "certificate.json").write_text("{}")
    shutil.rmtree(home.root / "ledger")
    with pytest.raises(LedgerError, match="line 1 was removed"):
        verify(home)


@pytest.mark.parametrize("left", ["models/toy/a/certificate.json", "releases/toy/a/release.json"])
def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path: Path, left: str) -> None:
    home = open_home(str(tmp_path / "home"))
    home.path(*left.split("/")).write_text("{}")
    home.path("models", "toy", "b", "certificate.json").write_text("{}")
    with pytest.raises(LedgerError, match="line 1 was removed"):
        append(home, "certificate", "b", {"use_case": "toy"})
    assert ledger.entries(home) == []


def test_the_first_certificate_begins_the_ledger(tmp_path: Path) -> None:
    home = open_home(str(tmp_path / "home"))
    home.path("models", "toy", "b", "certificate.json").write_text("{}")
    assert append(home, "certificate", "b", {"use_case": "toy"})["n"] == 1


def test_an_old_head_does_not_fit_a_longer_ledger(home: Home) -> None:
    head = home.root / "ledger" / "head.json"
    old = head.read_bytes()
    append(home, "certificate", "subject-6", {})
    head.write_bytes(old)
    with pytest.raises(LedgerError, match="line 6 was added"):
        verify(home)


def test_a_head_that_another_key_signed_is_refused(home: Home, tmp_path: Path) -> None:
    stranger = dsse.signing_key(open_home(str(tmp_path / "other")))
    rewrite(home, lambda x: x[:-1])
    last = ledger.entries(home)[-1]
    payload = {"format": ledger.FORMAT, "n": 4, "hash": last["hash"]}
    for name in ("head.json", "head.next"):
        envelope = stranger.sign(ledger.PAYLOAD_TYPE, json.dumps(payload).encode())
        (home.root / "ledger" / name).write_text(json.dumps(envelope))
        with pytest.raises(LedgerError, match="not signed by a trusted key"):
            verify(home)


def test_nothing_is_appended_on_top_of_tampering(home: Home) -> None:
    rewrite(home, lambda x: x[:-1])
    before = path_of(home).read_bytes()
    with pytest.raises(LedgerError, match="line 5 was removed"):
        append(home, "certificate", "subject-6", {})
    assert path_of(home).read_bytes() == before


def test_a_cut_last_line_is_no_kill_when_the_head_counts_it(home: Home) -> None:
    path_of(home).write_bytes(path_of(home).read_bytes()[:-20])
    for action in (lambda: verify(home), lambda: append(home, "k", "s", {})):
        with pytest.raises(LedgerError, match="line 5 was changed: it is cut short"):
            action()


def test_the_same_fact_is_told_once(home: Home) -> None:
    first = append(home, "certificate", "subject-2", {"use_case": "toy", "x": 2})
    assert first["n"] == 2
    assert verify(home) == 5
    assert append(home, "certificate", "subject-2", {"use_case": "toy", "x": 7})["n"] == 6


def test_what_recurs_is_told_again_when_something_else_came_between(home: Home) -> None:
    def promote(subject: str, use_case: str = "toy") -> int:
        facts = {"use_case": use_case}
        return int(append(home, "promotion", subject, facts, recurring=True)["n"])

    assert [promote("a"), promote("a"), promote("b"), promote("a")] == [6, 6, 7, 8]
    assert promote("z", "weather") == 9
    assert promote("a") == 8


def test_killed_at_any_line_the_next_append_heals(tmp_path: Path) -> None:
    dsse.signing_key(open_home(str(tmp_path / "0")))
    line = 0
    died = True
    while died:
        line += 1
        root = tmp_path / f"home-{line}"
        shutil.copytree(tmp_path / "0", root)
        home = open_home(str(root))
        append(home, "certificate", "one", {"use_case": "toy"})

        def tell(home: Home = home) -> object:
            return append(home, "certificate", "two", {"use_case": "toy"})

        died = killed_at(line, "tasks.ledger", tell)
        assert verify(home) in (1, 2), line
        tell()
        append(home, "certificate", "three", {"use_case": "toy"})
        assert [e["subject"] for e in ledger.entries(home)] == ["one", "two", "three"], line
        assert verify(home) == 3
    assert line > 40  # it was killed at that many different moments


@pytest.mark.parametrize("bytes_written", [1, 40, 200])
def test_a_torn_line_is_cut_away(home: Home, bytes_written: int) -> None:
    """The power goes while the line is being written: head.next is there, half a line too."""
    whole = path_of(home).read_bytes()
    head = (home.root / "ledger" / "head.json").read_bytes()
    append(home, "certificate", "subject-6", {"use_case": "toy"})
    line = path_of(home).read_bytes()[len(whole) :]
    (home.root / "ledger" / "head.json").rename(home.root / "ledger" / "head.next")
    (home.root / "ledger" / "head.json").write_bytes(head)
    path_of(home).write_bytes(whole + line[:bytes_written])
    assert verify(home) == 5
    assert path_of(home).read_bytes() == whole + line[:bytes_written], "reading changed it"
    assert append(home, "certificate", "subject-6", {"use_case": "toy"})["n"] == 6
    assert verify(home) == 6


def test_the_development_key_is_not_trusted_where_another_signs(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LedgerError, match="not signed by a trusted key"):
        ledger.verify(home, dsse.trust(home))
    monkeypatch.setenv("AIRWORTHY_SIGNING_KEY", "/nowhere.pem")
    with pytest.raises(CertificateError, match=r"nowhere\.pem"):
        append(home, "certificate", "x", {})


def test_many_appends_do_not_slow_down(tmp_path: Path) -> None:
    """Each append reads the file, but parses its end only."""
    home = open_home(str(tmp_path / "home"))
    began = time.process_time()
    for number in range(200):
        append(home, "certificate", f"s{number}", {"use_case": "toy"})
    first = time.process_time() - began
    began = time.process_time()
    for number in range(200, 400):
        append(home, "certificate", f"s{number}", {"use_case": "toy"})
    assert time.process_time() - began < 2 * first
    assert verify(home) == 400
