"""Whatever stands under auth.keys: keys that can work, or a refusal that names the entry and shows nothing of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gibramdb.api_keys import ApiKey
from gibramdb.config import load_config
from gibramdb.errors import ConfigError

SECRET = "Zq7secretZq7"
LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=80), st.just(SECRET))
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HASH = st.builds(
    lambda version, cost, rest: f"$2{version}${cost:02}${rest}",
    st.sampled_from("abxy"),
    st.integers(0, 20),
    st.text(LETTERS, min_size=52, max_size=54),
)
TIME = st.one_of(st.datetimes().map(lambda time: time.isoformat() + "Z"), st.just("9999-12-31T23:59:59-23:59"))
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        # An id is shown. That it is not the key is looked at where there is a key.
        "id": st.one_of(st.sampled_from(["a", "b", SECRET * 20]), ANYTHING.filter(lambda value: value != SECRET)),
        "key": st.one_of(st.just(SECRET), ANYTHING),
        "key_hash": st.one_of(HASH, ANYTHING),
        "permissions": st.one_of(st.lists(st.sampled_from(["read", "write", "admin", SECRET])), ANYTHING),
        "expires_at": st.one_of(TIME, ANYTHING),
        "sessions": st.one_of(st.lists(st.sampled_from(["a", "b*", "*", "", "c*d"])), ANYTHING),
        SECRET: ANYTHING,
    },
)
SOUND = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c"]), "permissions": st.just(["read"]), "key_hash": HASH},
    optional={"expires_at": TIME, "sessions": st.lists(st.sampled_from(["a", "b*"]), min_size=1)},
)


@settings(max_examples=1_500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries=st.one_of(st.lists(st.one_of(SOUND, ENTRY), max_size=3), ANYTHING))
def test_whatever_stands_there_works_or_is_refused_by_name_and_is_never_shown(entries: Any) -> None:
    shown, keys = outcome(json.dumps(entries))
    assert SECRET not in shown
    assert keys or shown.startswith("auth.keys") or entries == []
    for key in keys:
        assert bool(key.digest) != bool(key.bcrypt_hash)
        assert key.permissions
        assert key.expires_at_ms >= 0


def outcome(text: str) -> tuple[str, tuple[ApiKey, ...]]:
    """What is shown, of the refusal or of the configuration, and the keys."""
    try:
        config = load_config(environment={"GIBRAMDB_AUTH__KEYS": text}, now_ms=1)
    except ConfigError as refusal:
        return str(refusal), ()
    return repr(config), config.auth.keys
