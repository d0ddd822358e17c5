"""API keys: who is let in, and what is never told."""

import hmac
import os

import pytest

from pricer.errors import PricerError
from pricer.serving import keys

from .conftest import KETTLE, Running, serving

KEY, OTHER = "k" * 10 + "0123456789abcdef", "second-key-0123456789abcdef"


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# one\n{KEY}\n\n{OTHER}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def guarded(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys"
    file.write_text(f"{KEY}\n{OTHER}\n")
    file.chmod(0o600)
    options = ("--database", str(folder / "log"), "--api-key-file", str(file))
    with serving(shop, *options, "--host", "0.0.0.0", "--fallback-only") as running:
        yield running
    assert not any(KEY in line for line in running.said)
    for path in folder.iterdir():
        assert path == file or KEY.encode() not in path.read_bytes()


def test_only_a_key_opens_what_is_asked_for(guarded: Running):
    body = {"products": [{"description": KETTLE}]}
    wrong = (
        "",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        "Bearer",
        "Bearer \xe9",
    )
    with guarded.client() as client:
        for header in wrong:
            headers = {"Authorization": header.encode("latin-1")}
            told = client.post("/v1/estimates", json=body, headers=headers)
            assert (told.status_code, told.json()["code"]) == (401, "unauthorized"), header
            assert told.headers["WWW-Authenticate"] == "Bearer"
        for key in (KEY, OTHER):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post("/v1/estimates", json=body, headers=headers).status_code == 200
        for path in ("/metrics", "/v1/estimates/" + "0" * 32):
            assert client.get(path).status_code == 401
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.get("/openapi.json").json()["components"]["securitySchemes"]


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    compare = hmac.compare_digest

    def counted(a, b):
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    held = keys.Keys([KEY, OTHER])
    for given, accepted in ((KEY, True), (OTHER, True), ("", False), ("\udcff", False)):
        compared.clear()
        assert held.accepts(given) is accepted
        assert compared == [(32, 32)] * 2  # of hashes: of one length whatever is given


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no key in it"),
        ("# nothing\n\n", "no key in it"),
        ("short\n", "line 1: a key has 20 or more"),
        (f"{KEY}\ntwo words and a good deal more\n", "line 2: a key has 20 or more"),
    ],
)
def test_a_file_without_good_keys_is_refused(key_file, text, reason):
    key_file.write_text(text)
    with pytest.raises(PricerError, match=reason) as error:
        keys.read_keys(key_file)
    assert "\n" not in str(error.value) and "two words" not in str(error.value)


def test_a_file_that_others_may_read_is_refused(key_file, tmp_path):
    assert keys.read_keys(key_file)
    key_file.chmod(0o644)
    with pytest.raises(PricerError, match="others may read it: `chmod 600"):
        keys.read_keys(key_file)
    with pytest.raises(PricerError, match="No such file"):
        keys.read_keys(tmp_path / "none")
    os.truncate(key_file, 0)


def test_beyond_this_machine_a_key_is_needed_or_a_word(shop, tmp_path):
    options = ("--port", "0", "--database", str(tmp_path / "log"), "--fallback-only")
    done = shop.run("pricer", "serve", "--host", "0.0.0.0", *options, ok=False)
    assert done.stderr.count("\n") == 1 and "--open-to-all" in done.stderr
    with serving(shop, "--host", "0.0.0.0", *options[2:], "--open-to-all") as running:
        assert running.estimate(KETTLE)
