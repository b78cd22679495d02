"""The settings as the dashboard shows them: with their sources, and without a secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.config.settings import OPTIONS, Settings
from penstock.config.shown import MASK, masked, setting_rows


def test_each_setting_is_there_with_its_value_and_its_source() -> None:
    settings = replace(Settings(), threads=7, sources={"threads": "penstock.toml:threads"})
    rows = {row["name"]: row for row in setting_rows(settings)}
    assert list(rows) == list(OPTIONS)
    assert rows["threads"] == {
        "name": "threads", "section": OPTIONS["threads"].section, "value": "7",
        "source": "penstock.toml:threads", "is_default": False,
    }  # fmt: skip
    assert rows["workers"]["source"] == "default"
    assert rows["workers"]["is_default"]


def test_variables_for_the_application_have_their_names_and_no_values() -> None:
    settings = replace(
        Settings(),
        env=("DATABASE=postgres://shop:hunter2@db/shop", "DEBUG=1"),
        env_file="/etc/shop.env",
        variables={"SECRET_KEY": "hunter2"},
    )
    rows = {row["name"]: row["value"] for row in setting_rows(settings)}
    assert rows["env"] == f"DATABASE={MASK},DEBUG={MASK}"
    assert rows["env_file"] == "/etc/shop.env"
    assert "hunter2" not in str(rows)


def test_the_token_is_shown_by_the_name_of_its_file_alone() -> None:
    settings = replace(Settings(), admin_token_file="/run/secrets/token", admin_token="ab" * 32)
    rows = setting_rows(settings)
    assert {row["value"] for row in rows if row["name"] == "admin_token_file"} == {
        "/run/secrets/token"
    }
    assert "abab" not in str(rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:hunter2@proxy.test/acme", f"https://{MASK}@proxy.test/acme"),
        ("https://hunter2@proxy.test", f"https://{MASK}@proxy.test"),
        ("https://user:p@ss:w@rd@proxy.test/x", f"https://{MASK}@proxy.test/x"),
        ("redis://:hunter2@cache:6379/0, amqp://a:b@mq",
         f"redis://{MASK}@cache:6379/0, amqp://{MASK}@mq"),
        ("password=hunter2", f"password={MASK}"),
        ("db_password: hunter2;host=x", f"db_password: {MASK};host=x"),
        ("API_KEY=abc&x=1", f"API_KEY={MASK}&x=1"),
        ("token='abc'", f"token={MASK}"),
        ("AWS_SECRET_ACCESS_KEY=abc", f"AWS_SECRET_ACCESS_KEY={MASK}"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:8000", "unix:@shop", "/run/secrets/token", "https://acme.test/directory",
     "/a=/srv/a", "%(h)s %(r)s", "admin@example.org"],
)  # fmt: skip
def test_other_values_are_shown_as_they_are(text: str) -> None:
    assert masked(text) == text


def test_no_default_is_masked() -> None:
    assert not [row for row in setting_rows(Settings()) if MASK in row["value"]]
