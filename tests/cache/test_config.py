"""The options of the cache of user vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twotower_server.config import Config, ConfigError, load

CACHED = {"releases": "r", "user_cache": "ttl", "user_cache_redis": "yes"}


def test_by_default_there_is_no_cache() -> None:
    config = load({"releases": "r"}, {})
    assert (config.user_cache, config.user_cache_redis, config.user_cache_real_time) == ("off", False, ())
    assert config.user_cache_ttl_s == 600


def test_names_of_features_in_a_variable_and_in_a_file(tmp_path: Path) -> None:
    expected = ("user_hour", "user_interest_*")
    variables = {"TWOTOWER_USER_CACHE_REAL_TIME": "user_hour, user_interest_*,"}
    assert load({"releases": "r"}, variables).user_cache_real_time == expected
    file = tmp_path / "twotower.toml"
    file.write_text('user_cache_real_time = ["user_hour", "user_interest_*"]\n')
    config = load({"releases": "r"}, {}, file)
    assert config.user_cache_real_time == expected
    assert Config(**json.loads(json.dumps(config.to_json()))) == config
    file.write_text("user_cache_real_time = 3\n")
    with pytest.raises(ConfigError, match="must be names with commas between them, not 3"):
        load({"releases": "r"}, {}, file)


@pytest.mark.parametrize("ttl_s", ["0", "86401", "1.5", "-1"])
def test_a_vector_is_kept_for_a_day_at_most(ttl_s: str) -> None:
    assert load({"releases": "r", "user_cache_ttl_s": "86400"}, {}).user_cache_ttl_s == 86_400
    with pytest.raises(ConfigError, match="whole number from 1 to 86400"):
        load({"releases": "r", "user_cache_ttl_s": ttl_s}, {})


def test_redis_needs_its_address_and_a_cache() -> None:
    assert load({**CACHED, "redis": "redis://h"}, {}).user_cache_redis
    with pytest.raises(ConfigError, match="user_cache_redis is set without redis: --redis"):
        load(CACHED, {})
    with pytest.raises(ConfigError, match="redis_ca needs a redis that begins with rediss://"):
        load({**CACHED, "redis": "redis://h", "redis_ca": "ca.pem"}, {})
    with pytest.raises(ConfigError, match="user_cache_redis is set without a cache: --user-cache ttl"):
        load({**CACHED, "user_cache": "off", "redis": "redis://h"}, {})
