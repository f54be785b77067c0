"""An OpenAI-compatible endpoint, tested against real servers on localhost that fail in every way that servers do."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qwen_align import interrupt
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Sampling, sample
from qwen_align.generator.openai import OpenAI, seconds_to_wait

pytestmark = pytest.mark.slow

KEY = "sk-not-to-be-seen"


def answer(text="fine", **changes):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | changes
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


class Server(ThreadingHTTPServer):
    """Answers with `script(number of the request, its body)`: (status, headers, body), or None to drop the connection."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock = script, threading.Lock()
        self.bodies, self.headers, self.times, self.open, self.most_open = [], [], [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            reply = server.script(number, body)
        finally:
            with server.lock:
                server.open -= 1
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, headers, content = reply
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # a client that waits no longer
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """serve(script): a server that ends with the test."""
    servers = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def teacher(url, **changes):
    settings = {"api_key_env": None, "concurrency": 4, "retries": 3, "backoff": 0.01, "timeout": 5.0}
    return OpenAI("tiny", url, **settings | changes)


ONE = Sampling(n=1, temperature=0.7, max_completion_length=16, seed=0)


def prompts_of(count):
    return [[{"role": "user", "content": f"question {i}"}] for i in range(count)]


def ask(source, count=1, **changes):
    return sample(source, prompts_of(count), replace(ONE, **changes), "test")


def echo(_number, body):
    return 200, {}, answer(body["messages"][-1]["content"])


def after(*failures):
    """A script that fails in these ways first."""
    return lambda number, body: failures[number] if number < len(failures) else echo(number, body)


def test_each_prompt_gets_its_own_n_answers(serve):
    found = ask(teacher(serve(echo).url), 12, n=3)
    assert [[c.text for c in pool] for pool in found] == [[f"question {i}"] * 3 for i in range(12)]
    assert found[0][0] == Completion("question 0", tokens=3, finished=True, prompt_tokens=7)


def test_the_request_says_what_was_asked_for(serve):
    server = serve(echo)
    ask(teacher(server.url, extra={"top_p": 0.5, "max_tokens": None, "max_completion_tokens": 16}), n=2)
    seeds = {body.pop("seed") for body in server.bodies}
    assert len(seeds) == 2, "a server that honours the seed must not give the same sample twice"
    expected = {"model": "tiny", "messages": prompts_of(1)[0], "temperature": 0.7, "top_p": 0.5, "max_completion_tokens": 16}
    assert server.bodies == [expected, expected]


def test_top_k_is_asked_for_only_where_it_is_set(serve):
    server = serve(echo)
    ask(teacher(server.url))
    ask(teacher(server.url), top_p=0.95, top_k=20)
    assert [(body["top_p"], body.get("top_k")) for body in server.bodies] == [(1.0, None), (0.95, 20)]
    assert "top_k" not in server.bodies[0]


def test_an_answer_is_yielded_while_others_are_under_way(serve):
    gate = threading.Event()

    def script(number, body):
        if body["messages"][-1]["content"] != "question 2":
            gate.wait(5)
        return echo(number, body)

    stream = teacher(serve(script).url).stream(prompts_of(4), ONE, "test")
    assert next(stream)[0] == 2
    gate.set()
    assert sorted(index for index, _ in stream) == [0, 1, 3]


def test_no_more_requests_at_once_than_allowed(serve):
    def slow(number, body):
        time.sleep(0.03)
        return echo(number, body)

    server = serve(slow)
    ask(teacher(server.url, concurrency=3), 12)
    assert server.most_open == 3


def test_an_answer_that_was_cut_says_so(serve):
    server = serve(lambda *_: (200, {}, answer("half", finish_reason="length")))
    assert ask(teacher(server.url))[0][0].finished is False


def test_an_answer_without_text_or_usage_is_empty(serve):
    server = serve(lambda *_: (200, {}, {"choices": [{"message": {"content": None}}]}))
    assert ask(teacher(server.url))[0][0] == Completion("", 0, True)


@pytest.mark.parametrize(
    "failure",
    [
        (500, {}, "oops"),
        (503, {}, ""),
        (429, {}, {"error": "slow down"}),
        (200, {}, '{"choices": [{"mess'),
        (200, {}, {"choices": []}),
        (200, {}, "null"),
        (200, {"Content-Length": "500"}, "torn"),
        None,
    ],
    ids=["500", "503", "429", "malformed", "no choice", "null", "torn", "dropped"],
)
def test_what_may_pass_is_tried_again(serve, failure):
    server = serve(after(failure, failure))
    source = teacher(server.url, timeout=0.5)
    assert ask(source)[0][0].text == "question 0"
    assert len(server.bodies) == 3


def test_retry_after_is_waited_for(serve):
    server = serve(after((429, {"Retry-After": "1"}, "")))
    ask(teacher(server.url))
    assert 1.0 <= server.times[1] - server.times[0] < 2.0


def test_waiting_for_one_answer_does_not_hold_up_the_others(serve):
    server = serve(after((429, {"Retry-After": "1"}, "")))
    began = time.monotonic()
    ask(teacher(server.url), 8)
    assert time.monotonic() - began < 3
    assert sorted(server.times)[-2] - began < 0.9


def test_retry_after_is_read_as_seconds_or_as_a_date():
    assert seconds_to_wait("300") == 300
    assert seconds_to_wait("0.5") == 0.5
    assert 50 < seconds_to_wait(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert seconds_to_wait(formatdate(time.time() - 60, usegmt=True)) == 0
    assert [seconds_to_wait(text) for text in (None, "", "soon", "-5", "inf", "1e9")] == [0] * 6


def test_pauses_grow(serve):
    server = serve(lambda *_: (500, {}, ""))
    with pytest.raises(ConfigError):
        ask(teacher(server.url, backoff=0.1))
    first, second, third = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
    assert 0.05 <= first < 0.2 <= third + 0.001
    assert second >= 0.1


def test_a_request_that_takes_too_long_is_tried_again(serve):
    def script(number, body):
        if number == 0:
            time.sleep(0.6)
        return echo(number, body)

    server = serve(script)
    assert ask(teacher(server.url, timeout=0.2))[0][0].text == "question 0"
    assert len(server.bodies) == 2


def test_a_server_that_dies_leaves_its_answers_and_one_line(serve):
    server = serve(lambda number, body: echo(number, body) if number < 5 else None)
    stream = teacher(server.url).stream(prompts_of(40), ONE, "test")
    kept = [next(stream)[0] for _ in range(5)]
    with pytest.raises(ConfigError, match=r"generator\.base_url=.*: no answer after \d tries; ") as caught:
        next(stream)
    assert "\n" not in str(caught.value)
    assert len(set(kept)) == 5
    assert len(server.bodies) < 40, "it did not ask a dead server for all of them"


def test_nobody_there_is_one_clear_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=r"no answer after 2 tries; .*ConnectError"):
        ask(teacher(f"http://127.0.0.1:{port}/v1", retries=1))


def test_a_refusal_is_not_tried_again(serve):
    server = serve(lambda *_: (404, {}, {"error": "no such model"}))
    with pytest.raises(ConfigError, match=r"model tiny was refused with status 404: .*no such model"):
        ask(teacher(server.url, concurrency=1), 5)
    assert len(server.bodies) == 1


def test_the_key_goes_into_the_header_and_nowhere_else(serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    server = serve(lambda *_: (401, {}, f"Incorrect API key provided: {KEY}"))
    source = teacher(server.url, api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match=r"status 401: Incorrect API key provided: \*\*\*") as caught:
        ask(source)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{caught.value} {vars(source)} {server.bodies}"


def test_without_a_key_no_header_is_sent(serve):
    server = serve(echo)
    ask(teacher(server.url))
    assert "Authorization" not in server.headers[0]


def test_asked_to_stop_it_waits_only_for_what_is_under_way(serve, monkeypatch):
    server = serve(echo)
    monkeypatch.setattr(interrupt, "asked", lambda: len(server.bodies) >= 3)
    got = [pool for pool in ask(teacher(server.url, concurrency=2), 50) if pool]
    assert len(got) == len(server.bodies) < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concurrency": 0}, r"generator\.concurrency=0: expected a number from 1 on"),
        ({"retries": -1}, r"generator\.retries=-1: expected"),
        ({"backoff": -0.5}, r"generator\.backoff=-0\.5: expected"),
        ({"timeout": 0}, r"generator\.timeout=0: expected"),
        ({"base_url": "localhost:80"}, r"generator\.base_url=localhost:80: expected an address like http://"),
        ({"api_key_env": "QWEN_ALIGN_NO_SUCH_KEY"}, r"generator\.api_key_env=QWEN_ALIGN_NO_SUCH_KEY: .* is empty"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_is_named(change, message):
    settings = {"model": "m", "base_url": "http://localhost/v1", "api_key_env": None} | change
    with pytest.raises(ConfigError, match=message):
        OpenAI(**settings)


@pytest.mark.parametrize(
    "change", [{"api_key_env": KEY}, {"base_url": f"http://me:{KEY}@host/v1"}, {"base_url": f"http://h/v1?k={KEY}"}]
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(change):
    settings = {"model": "m", "base_url": "http://localhost/v1", "api_key_env": None} | change
    with pytest.raises(ConfigError) as caught:
        OpenAI(**settings)
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_transformers_serve_answers(tmp_path):
    import torch

    from qwen_align import model

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}
    policy, tokenizer = model.from_scratch("Numbers target + - ;", 20, num_key_value_heads=2, **size)
    model.save(policy, tokenizer, tmp_path / "tiny", [])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tmp_path / "tiny"), "--device", "cpu"]
    log = (tmp_path / "log.txt").open("w")
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=dict(os.environ)
    )
    try:
        # It takes a while to start: connections are refused until then, which is what retries are for.
        source = OpenAI(str(tmp_path / "tiny"), f"http://127.0.0.1:{port}/v1", None, 2, retries=60, backoff=0.5)
        (pool,) = ask(source, n=2, max_completion_length=6)
        assert all(1 <= c.tokens <= 6 and c.prompt_tokens > 0 for c in pool), (tmp_path / "log.txt").read_text()
    finally:
        process.kill()
        process.wait()
