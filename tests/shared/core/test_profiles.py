"""The presets: as data they are checked here, by what they do in tests/worker/translate."""

from typing import get_args

import msgspec
import pytest

from shared.core.profiles import PROFILES, Preset, Profile


def test_there_is_a_preset_for_each_name() -> None:
    assert list(PROFILES) == list(get_args(Preset))


@pytest.mark.parametrize("name", PROFILES)
def test_presets_would_be_taken_from_a_file(name: Preset) -> None:
    profile = PROFILES[name]
    data = msgspec.to_builtins(profile)
    assert msgspec.convert(data, Profile) == profile


def test_the_key_goes_where_the_server_looks_for_it() -> None:
    assert PROFILES["openai"].key_header("k") == {"Authorization": "Bearer k"}
    assert Profile(auth_header="authorization").key_header("k") == {"authorization": "Bearer k"}
    assert PROFILES["azure"].key_header("k") == {"api-key": "k"}
    assert PROFILES["azure"].key_header(None) == {}
