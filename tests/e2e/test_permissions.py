"""docs/security.md says who may do what, as a real server does. Run as a program, this file renews the page's table."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from support.gate import Frames, config_file, entry, error_of
from support.server import Server

from gibramdb import NewDocument
from gibramdb.errors import PermissionDeniedError
from gibramdb.model import commands as c
from gibramdb.wire.codec import TABLE, Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- permissions -->\n", "<!-- end of permissions -->"
PERMISSIONS = ("read", "write", "admin")
OWN, OTHERS = "own", "other"

# Of commands on a session: may it without one, in one of its own, in another's. Without one most are refused for that.
WORDS = {
    (True, True, False): "its own sessions",
    (False, True, False): "its own sessions",
    (True, True, True): "yes",
    (False, False, False): "no",
}


def is_allowed(frames: Frames, row: Row, session_id: str) -> bool:
    """Whether it is not for a lack of permission that it fails. It may fail for others: the payload is empty."""
    return error_of(frames.ask(row.number, session_id=session_id))[0] != PermissionDeniedError.code


def is_bound_allowed(as_key: dict[object, Frames], row: Row, permission: str, session_id: str) -> bool:
    return is_allowed(as_key[f"bound-{permission}"], row, session_id)


def word(row: Row, probed: tuple[bool, bool, bool]) -> str:
    if row.name in {"LIST_SESSIONS", "HEALTH"} and probed == (True, True, True):
        return "as far as its own"
    if row.session_rule == "optional" and probed == (True, True, False):
        return "its own sessions, or their sum"
    return WORDS[probed]


def permissions_table() -> str:
    """What a real server lets each key do."""
    keys = [entry(f"all-{each}", each) for each in PERMISSIONS]
    keys += [entry(f"bound-{each}", each, sessions=[OWN]) for each in PERMISSIONS]
    rows = ["| command | read | write | admin | bound to sessions |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as directory:
        path = config_file(Path(directory), keys, security={"rate_limit": 100_000, "rate_burst": 100_000})
        with Server(Path(directory) / "data", "--config", path, mode="ephemeral") as server:
            as_key = {key["id"]: Frames(server.port, str(key["key"])) for key in keys}
            for row in sorted(TABLE, key=lambda row: row.number):
                for session_id in (OWN, OTHERS):  # anew, since a row before may have deleted it
                    as_key["all-admin"].run(c.AddDocuments(session_id, (NewDocument(row.name),), bulk=False))
                session_id = "" if row.session_rule == "unused" else OTHERS
                may = [is_allowed(as_key[f"all-{each}"], row, session_id) for each in PERMISSIONS]
                may_bound = partial(is_bound_allowed, as_key, row)
                bound = [(may_bound(each, ""), may_bound(each, OWN), may_bound(each, OTHERS)) for each in PERMISSIONS]
                for permission, probed in zip(PERMISSIONS, bound, strict=True):
                    if not may[PERMISSIONS.index(permission)]:
                        assert not any(probed), f"{row.name}: being bound gives {permission} more"
                cells = ["yes" if each else "no" for each in may]
                rows.append(f"| {row.name} | {' | '.join(cells)} | {word(row, bound[-1])} |")
            for frames in as_key.values():
                frames.socket.close()
    return "\n".join(rows) + "\n"


def test_the_table_is_what_a_server_does() -> None:
    page = PAGE.read_text()
    table = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    assert table == permissions_table(), "run: PYTHONPATH=tests python tests/e2e/test_permissions.py"


def test_the_table_is_what_the_commands_say() -> None:
    """So that the page can not learn a mistake of the server's from the server."""
    page = PAGE.read_text()
    said = dict(line[2:].split(" | ", 1) for line in page[page.index(BEGIN) : page.index(END)].splitlines()[3:])
    assert len(said) == len(TABLE)
    for row in TABLE:
        granted = PERMISSIONS.index(row.permission)
        cells = said[row.name].rstrip(" |").split(" | ")
        assert cells[:3] == ["no"] * granted + ["yes"] * (3 - granted), row.name
        is_about_all = issubclass(row.request.command, c.AdminCommand) or row.name == "GET_DIGEST"
        if row.session_rule == "unused":
            assert (cells[3] == "no") == is_about_all, row.name
        else:
            assert cells[3] == "its own sessions" + (", or their sum" if row.name == "INFO" else ""), row.name


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + permissions_table() + text[text.index(END) :])
