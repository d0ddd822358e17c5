"""Answers of any OpenAI-compatible server: many at once, kept as they come, never asked twice."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai
from tqdm import tqdm

from pricer.errors import PricerError, first_line, quoted, without_passwords
from pricer.products.readers import mended

RETRIES = 8
TIMEOUT_S = 120
CHARACTERS_A_TOKEN = 4  # of English text, as providers say
MESSAGE_TOKENS = 10  # what a chat adds to a message
LONGEST_ANSWER = 4_000  # characters that are kept


@dataclass(frozen=True)
class Endpoint:
    """Where and how a model is asked.

    Attributes:
        url: base address of the API, as in https://api.openai.com/v1.
        model: its name there.
        kind: "chat" asks in words; "completions" continues the prompts of this pipeline.
        question: what stands before a text in a chat.
        max_tokens: of an answer.
        key: for the server, shown nowhere; "" for one that wants none.
    """

    url: str
    model: str
    kind: Literal["chat", "completions"]
    question: str
    max_tokens: int
    key: str

    def client(self) -> openai.OpenAI:
        """Return a client that tries again, after what the server asks for if that is short."""
        return openai.OpenAI(
            base_url=self.url, api_key=self.key or "none", max_retries=RETRIES, timeout=TIMEOUT_S
        )

    def sha256(self) -> str:
        """Return one hash of where and which model is asked; the key is not in it."""
        return hashlib.sha256(json.dumps([self.url, self.model, self.kind]).encode()).hexdigest()

    def request(self, text: str) -> dict[str, Any]:
        """Return what is sent to ask about `text`."""
        if self.kind == "completions":
            limits = {"max_tokens": self.max_tokens, "temperature": 0, "stop": ["\n"]}
            return {"model": self.model, "prompt": text} | limits
        messages = [{"role": "user", "content": self.question + text}]
        return {
            "model": self.model,
            "messages": messages,
            "max_completion_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class Said:
    """An answer, and the tokens that it took."""

    text: str
    input_tokens: int
    output_tokens: int


class Cache:
    """Answers by what was asked, in a file that grows by a line each; a torn last line is none."""

    def __init__(self, file: Path) -> None:
        """Read the answers of earlier runs."""
        self._file, self._lock = file, threading.Lock()
        self._said = dict(_read_lines(file))

    def get(self, key: str) -> Said | None:
        """Return the answer, if there is one."""
        return self._said.get(key)

    def put(self, key: str, said: Said) -> None:
        """Keep an answer, at once and for good."""
        line = json.dumps({"key": key} | vars(said))
        with self._lock:
            self._said[key] = said
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+b") as stream:
                stream.seek(0, 2)
                if stream.tell():  # after a line that a killed run has torn
                    stream.seek(-1, 2)
                    if stream.read(1) != b"\n":
                        stream.write(b"\n")
                stream.write(line.encode() + b"\n")


def kept_answers(endpoint: Endpoint, root: Path) -> Cache:
    """Return what a model was ever asked in a project, and said."""
    return Cache(root / "data/api" / f"{endpoint.sha256()[:16]}.jsonl")


def _read_lines(file: Path) -> Iterator[tuple[str, Said]]:
    if not file.exists():
        return
    for line in file.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            yield entry.pop("key"), Said(**entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def cache_key(endpoint: Endpoint, text: str) -> str:
    """Return what an answer is kept by: where, which model, and every word that was asked."""
    asked = json.dumps([endpoint.url, endpoint.kind, endpoint.request(text)], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def expected_tokens(endpoint: Endpoint, texts: list[str]) -> int:
    """Return about how many tokens go in, before anything is asked."""
    asked = len(endpoint.question) / CHARACTERS_A_TOKEN + MESSAGE_TOKENS
    extra = asked if endpoint.kind == "chat" else 0
    return round(sum(map(len, texts)) / CHARACTERS_A_TOKEN + extra * len(texts))


def ask_all(endpoint: Endpoint, texts: list[str], cache: Cache, concurrency: int) -> list[Said]:
    """Return what a model says to each text, in order; what an earlier run was told is not asked.

    Raises:
        PricerError: the server refuses, or does not answer after RETRIES; answers are kept.
    """
    open_ = [text for text in dict.fromkeys(texts) if cache.get(cache_key(endpoint, text)) is None]
    with endpoint.client() as client, ThreadPoolExecutor(concurrency) as pool:
        _check_there(client, endpoint, len(texts) - len(open_), len(texts))
        bar = tqdm(
            total=len(open_),
            desc="ask",
            unit="product",
            mininterval=0.1 if sys.stderr.isatty() else 30,
            disable=not open_,
        )

        def ask(text: str) -> None:
            cache.put(cache_key(endpoint, text), _ask(client, endpoint, text))
            bar.update()

        futures = [pool.submit(ask, text) for text in open_]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also when interrupted: nobody pays for what is not wanted any more
            pool.shutdown(wait=True, cancel_futures=True)
            bar.close()
    errors = [error for future in done if (error := future.exception())]
    if errors:
        raise _told(errors[0], endpoint, len(texts) - len(open_) + int(bar.n), len(texts))
    found = [cache.get(cache_key(endpoint, text)) for text in texts]
    return [said for said in found if said is not None]


def _check_there(client: openai.OpenAI, endpoint: Endpoint, done: int, total: int) -> None:
    """Raise PricerError if nobody answers: each product would be tried for half a minute."""
    try:
        client.with_options(max_retries=1).models.list()
    except openai.APIConnectionError as error:
        raise _told(error, endpoint, done, total) from None
    except Exception:  # whatever it says, and however it says it, it is there
        pass


def _ask(client: openai.OpenAI, endpoint: Endpoint, text: str) -> Said:
    request = endpoint.request(text)
    try:
        if endpoint.kind == "completions":
            answer: Any = client.completions.create(**request)
            said = answer.choices[0].text
        else:
            answer = client.chat.completions.create(**request)
            said = answer.choices[0].message.content
        usage = answer.usage
        tokens = [
            int(getattr(usage, name, None) or 0) for name in ("prompt_tokens", "completion_tokens")
        ]
    except openai.OpenAIError:
        raise
    except Exception as error:  # whatever a server says that is none, the client hands on
        raise PricerError(
            f"{without_passwords(endpoint.url)} does not answer like an OpenAI-compatible API "
            f"({first_line(error)}): check --url (most end in /v1) and what it serves"
        ) from None
    # a refusal has no content
    return Said(mended(str(said or "").strip()[:LONGEST_ANSWER]), *tokens)


def _told(error: BaseException, endpoint: Endpoint, done: int, total: int) -> BaseException:
    """Return what ended the asking in one line, without the key."""
    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            reason = f"it refuses the key (HTTP {error.status_code}): see --key-variable"
        case openai.NotFoundError():
            reason = f"no model {quoted(endpoint.model)} there, or no such address (HTTP 404)"
        case openai.RateLimitError():
            reason = f"it allows no more requests ({first_line(error)}): lower --concurrency"
        case openai.APITimeoutError() | openai.APIConnectionError():
            reason = f"it does not answer ({type(error).__name__}): check --url and the network"
        case openai.OpenAIError():
            reason = first_line(error)
        case _:
            return error
    line = f"{endpoint.url}: {reason}; {done} of {total} answers are kept, the same command goes on"
    line = line.replace(endpoint.key, "[key]") if endpoint.key else line
    return PricerError(without_passwords(line))
