"""Completions from any OpenAI-compatible endpoint: OpenAI itself, vLLM, llama.cpp, `transformers serve`.

One request a completion, since many servers know no `n`; an answer is yielded the moment it is there, because it is paid for.
What may pass is tried again with backoff and jitter, never before the server's `Retry-After`; when the endpoint is gone for
good, requests under way still count. The HTTP client is huggingface_hub's: the openai package retries no torn answer and gives
up on a long `Retry-After`, so the loop would be ours anyway. Left out: streaming, tools, the batch API.
"""

import email.utils
import os
import random
import re
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from qwen_align import interrupt
from qwen_align.errors import ConfigError
from qwen_align.generator import Answers, Completion, Conversation, Sampling

if TYPE_CHECKING:
    import httpx2

_TRANSIENT = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))  # statuses that are worth another try
_LONGEST_PAUSE = 60.0  # seconds of our own backoff; a server may ask for more


class TransientError(Exception):
    """A failure that may pass; `after` is how many seconds the server asks for."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


def seconds_to_wait(header: str | None) -> float:
    """What `Retry-After` asks for, given in seconds or as a date; 0 where it says nothing readable."""
    if not header:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d*)?", header.strip()):
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def completion_of(answer: Any) -> Completion:
    """The completion in a response's JSON; KeyError, IndexError or TypeError where it is none."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    return Completion(
        text=choice["message"]["content"] or "",
        tokens=int(usage.get("completion_tokens") or 0),
        finished=choice.get("finish_reason") != "length",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
    )


@dataclass
class OpenAI:
    """A model behind an endpoint."""

    model: str  # its name there
    base_url: str  # up to /v1
    api_key_env: str | None  # the environment variable that holds the key; None: the server wants none
    concurrency: int = 8  # requests under way at once
    retries: int = 6  # tries after the first one, for each completion
    backoff: float = 1.0  # seconds before the second try; doubled for each further one, up to a minute
    timeout: float = 120.0  # seconds that one request may take
    extra: dict[str, Any] | None = None  # further fields of the request; null takes one of ours out (max_tokens: null)

    needs_policy = False

    def __post_init__(self) -> None:
        for key, smallest in {"concurrency": 1, "retries": 0, "backoff": 0}.items():
            if (value := getattr(self, key)) < smallest:
                raise ConfigError(f"generator.{key}={value}: expected a number from {smallest} on")
        if self.timeout <= 0:
            raise ConfigError(f"generator.timeout={self.timeout}: expected a number of seconds above 0")
        url, name = urlsplit(self.base_url), self.api_key_env
        if "@" in url.netloc or url.query:  # not repeated in the message: it may be a secret
            raise ConfigError("generator.base_url: expected no user name, password or query in it; see api_key_env")
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ConfigError(f"generator.base_url={self.base_url}: expected an address like http://localhost:8000/v1")
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError("generator.api_key_env: expected an environment variable such as OPENAI_API_KEY, not the key")
        if name and not os.environ.get(name):
            advice = "put the key there, or api_key_env=null for a server that wants none"
            raise ConfigError(f"generator.api_key_env={name}: that environment variable is empty; {advice}")
        self.base_url = self.base_url.rstrip("/")

    def _redacted(self, text: str) -> str:
        """One short line of what a server answered; servers repeat keys in their errors."""
        key = os.environ.get(self.api_key_env or "")
        return " ".join((text.replace(key, "***") if key else text).split())[:200]

    def _try(self, client: "httpx2.Client", body: dict[str, Any]) -> Completion:
        import httpx2

        try:
            response = client.post(f"{self.base_url}/chat/completions", json=body)
        except httpx2.HTTPError as error:
            raise TransientError(self._redacted(f"{type(error).__name__}: {error}")) from error
        if response.status_code in _TRANSIENT:
            after = seconds_to_wait(response.headers.get("retry-after"))
            raise TransientError(self._redacted(f"status {response.status_code}: {response.text}"), after)
        if response.status_code != 200:
            reason = f"{response.status_code}: {self._redacted(response.text)}"
            raise ConfigError(f"generator.base_url={self.base_url}: model {self.model} was refused with status {reason}")
        try:
            return completion_of(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise TransientError(f"not a chat completion: {self._redacted(response.text)}") from error

    def _ask(self, client: "httpx2.Client", body: dict[str, Any], stop: threading.Event) -> Completion:
        """One completion, with as many tries as it may take."""
        for attempt in range(self.retries + 1):
            try:
                return self._try(client, body)
            except TransientError as error:
                pause = min(self.backoff * 2**attempt, _LONGEST_PAUSE)
                if attempt == self.retries or stop.wait(error.after + pause * random.uniform(0.5, 1.0)):
                    tried = f"no answer after {attempt + 1} tries; the last one: {error}"
                    raise ConfigError(f"generator.base_url={self.base_url}: {tried}") from error
        raise AssertionError("the last try returns or raises")

    def _body(self, prompt: Conversation, sampling: Sampling, seed: int) -> dict[str, Any]:
        """The request for one completion."""
        body = {"model": self.model, "messages": prompt, "temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"max_tokens": sampling.max_completion_length, "seed": seed}
        body |= {"top_k": sampling.top_k or None}  # OpenAI itself knows none
        return {key: value for key, value in (body | (self.extra or {})).items() if value is not None}

    def stream(self, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None) -> Answers:
        """(index of the prompt, its n completions) as they come; asked to stop, it ends after the requests under way.

        ConfigError if the endpoint refuses, or a completion was not to be had; what came before was yielded.
        """
        import httpx2

        stop, failure = threading.Event(), None
        found: dict[int, list[Completion]] = defaultdict(list)
        key = os.environ.get(self.api_key_env or "")
        client = httpx2.Client(timeout=self.timeout, headers={"Authorization": f"Bearer {key}"} if key else {})

        def ask(task: tuple[int, int]) -> tuple[int, Completion | Exception | None]:
            index, copy = task
            # Equal prompts and resumed runs must not get equal draws from a server that honours the seed.
            seed = zlib.crc32(f"{sampling.seed} {index} {copy}".encode()) >> 1
            try:
                return index, None if stop.is_set() else self._ask(client, self._body(prompts[index], sampling, seed), stop)
            except Exception as error:
                stop.set()
                return index, error

        tasks = list(product(range(len(prompts)), range(sampling.n)))
        # Unlike an executor's, these threads do not hold up the end of the process.
        with ThreadPool(self.concurrency) as pool, tqdm(total=len(tasks), desc=title, mininterval=1.0) as bar:
            try:
                for index, answer in pool.imap_unordered(ask, tasks):
                    if interrupt.asked():
                        stop.set()
                    if isinstance(answer, Exception):
                        failure = failure or answer
                    elif answer:
                        bar.update()
                        found[index].append(answer)
                        if len(found[index]) == sampling.n:
                            yield index, found.pop(index)
            finally:
                stop.set()
        if failure:
            raise failure
