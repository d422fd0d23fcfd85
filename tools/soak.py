#!/usr/bin/env python3
"""A long mixed load against `osprey serve`, friendly and hostile, and what must be true at its end.

  python3 tools/soak.py --binary target/release/osprey --seconds 600 [-- SERVE FLAGS]

Threads draw one behaviour after the other: chats whole and streamed, with and without pictures, clients that leave, read or write slowly, bodies that
are malformed or too large, pictures that claim or unpack to far more than they are, wrong keys. Each checks its own answer. At the end the server must be
empty (no requests, no blocks, no rows of pictures), must have counted what the clients saw, must hold no more memory than it held when it was empty after a fifth of the time, and
must finish what is under way and exit with 0 on SIGTERM. Needs Python alone. Exit code 0: all of it is true.
"""
import argparse, base64, collections, http.client, json, os, random, signal, socket, struct, subprocess, sys
import threading, time, zlib

KEY = "soak-key"
BODY = 50 << 20  # limits.rs
GIVES_BACK = 12  # seconds: more than TRIM_EVERY of src/cli/memory.rs
UNKNOWN_TOKEN = {"prompt": [10**9]}
WORDS = "the of and to in is you that it he was for on are as with his they at be this have from".split()


# Pictures

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels, before=b""):
    """A PNG file whose header says one thing; what `pixels` unpacks to is another."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flat(width, height, seed):
    row = b"\0" + bytes((seed * 7919 + i) % 251 for i in range(3)) * width
    return png(width, height, zlib.compress(row * height))


def zeros(megabytes):
    """A zlib stream of so many megabytes."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


HUGE = zeros(512)
LARGE = zeros(145)
BOMBS = {  # name: file, statuses that are right
    "claims 60000x60000": (png(60000, 60000, zlib.compress(bytes(1000))), {400}),
    "claims 2^31 columns": (png(1 << 31, 1, zlib.compress(bytes(1000))), {400}),
    "unpacks to 512 MB": (png(64, 64, HUGE), {200, 400}),
    "a text of 512 MB": (png(64, 64, zlib.compress(bytes(64 * 193)), chunk(b"zTXt", b"Raw profile type exif\0\0" + HUGE)), {200, 400}),
    "a profile of 512 MB": (png(64, 64, zlib.compress(bytes(64 * 193)), chunk(b"iCCP", b"x\0\0" + HUGE)), {200, 400}),
    "7000x7000 of one colour": (png(7000, 7000, LARGE), {200, 400}),
    "cut off": (flat(300, 300, 1)[:400], {400}),
    "no picture": (b"GIF89a" + bytes(50), {400}),
}


def data_url(file):
    return "data:image/png;base64," + base64.b64encode(file).decode()


# Requests

class Wrong(Exception):
    """The server did what it must not."""


class Reply:
    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()


class Soak:
    def __init__(self, port):
        self.port, self.model = port, None
        self.counts, self.failures = collections.Counter(), []
        self.lock, self.stop = threading.Lock(), threading.Event()

    def note(self, what):
        with self.lock:
            self.counts[what] += 1

    def connect(self, receive=None):
        s = socket.socket()
        if receive:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        s.settimeout(120)
        s.connect(("127.0.0.1", self.port))
        return s

    def message(self, method, path, body=b"", key=KEY, headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {key}"] if key else []
        return "\r\n".join([*lines, "Content-Type: application/json", *headers, "", ""]).encode() + body

    def send(self, data, pieces=None, pause=0.0):
        """Sends all, or until the server has answered and closed; then reads its answer."""
        with self.connect() as s:
            try:
                for piece in pieces or [data]:
                    s.sendall(piece)
                    time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return self.read(s)

    def read(self, s):
        response = http.client.HTTPResponse(s)
        try:
            response.begin()
            return Reply(response)
        except (http.client.HTTPException, OSError) as e:
            raise Wrong(f"no whole response: {type(e).__name__} {e}")

    def ask(self, method, path, body=None, **more):
        return self.send(self.message(method, path, b"" if body is None else json.dumps(body).encode(), **more))

    def metrics(self):
        text = self.ask("GET", "/metrics").body.decode()
        values = collections.defaultdict(float)
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.replace(f'model_name="{self.model}"', "").replace("{}", "").replace("{,", "{")] = float(value)
        return values

    # What replies must be like.

    def refused(self, reply, *statuses):
        """An error in OpenAI's shape, with one of these statuses."""
        if reply.status not in statuses:
            raise Wrong(f"{reply.status}, not {statuses}: {reply.body[:300]!r}")
        error = json.loads(reply.body)["error"]
        if set(error) != {"message", "type", "param", "code"} or not error["message"]:
            raise Wrong(f"not OpenAI's shape: {error}")
        if reply.status in (429, 503) and "retry-after" not in reply.headers:
            raise Wrong(f"{reply.status} without Retry-After")
        self.note(f"refused with {reply.status}")

    def answered(self, reply, streamed):
        """A whole answer, or 429."""
        if reply.status != 200:
            return self.refused(reply, 429)
        if streamed:
            events = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: ")]
            if not events or events.pop() != "[DONE]":
                raise Wrong(f"the stream ends with {reply.body[-200:]!r}")
            events = [json.loads(event) for event in events]
            reasons = [e["choices"][0]["finish_reason"] for e in events if e.get("choices")]
            usage = events[-1]["usage"]
        else:
            body = json.loads(reply.body)
            reasons, usage = [body["choices"][0]["finish_reason"]], body["usage"]
        if reasons[-1] not in ("stop", "length") or usage["completion_tokens"] < 1:
            raise Wrong(f"{reasons[-1]}, {usage}")
        self.note("answered")

    # Behaviours.

    def body(self, rng, picture=None, **more):
        text = " ".join(rng.choices(WORDS, k=rng.choice([1, 20, 150])))
        parts = [{"type": "text", "text": text}]
        if picture:
            parts.insert(0, {"type": "image_url", "image_url": {"url": data_url(picture)}})
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": rng.choice([1, 8, 64])}
        return {**body, "temperature": rng.choice([0, 1]), "seed": rng.randrange(100), **more}

    def chat(self, rng, picture=None):
        streamed = rng.random() < 0.6
        more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        self.answered(self.ask("POST", "/v1/chat/completions", self.body(rng, picture, **more)), streamed)

    def respond(self, rng):
        """A chat in the terms of /v1/responses."""
        streamed = rng.random() < 0.5
        text = " ".join(rng.choices(WORDS, k=rng.choice([1, 20, 150])))
        parts = [{"type": "input_image", "image_url": data_url(flat(100, 100, rng.randrange(20)))}, {"type": "input_text", "text": text}]
        body = {"input": [{"role": "user", "content": parts}], "max_output_tokens": rng.choice([1, 8, 64]), "stream": streamed}
        reply = self.ask("POST", "/v1/responses", body)
        if reply.status != 200:
            return self.refused(reply, 429)
        last = reply.body.decode().splitlines()[-2].removeprefix("data: ") if streamed else reply.body
        response = json.loads(last)["response"] if streamed else json.loads(last)
        if response["status"] not in ("completed", "incomplete") or response["usage"]["output_tokens"] < 1:
            raise Wrong(f"{response}")
        self.note("answered")

    def chat_with_picture(self, rng):
        self.chat(rng, flat(rng.choice([28, 100, 448]), rng.choice([28, 100, 448]), rng.randrange(20)))

    def long_stream(self, rng, **more):
        body = {"prompt": "the the the", "max_tokens": 400, "temperature": 0, "repetition_penalty": 0.2, "stream": True}
        return self.message("POST", "/v1/completions", json.dumps({**body, **more}).encode())

    def leave(self, rng):
        """At once, within the body, or within the stream."""
        data = self.long_stream(rng)
        with self.connect() as s:
            s.sendall(data if rng.random() < 0.7 else data[: rng.randrange(1, len(data))])
            if rng.random() < 0.6:
                s.settimeout(rng.random())
                try:
                    s.recv(rng.choice([1, 1000]))
                except OSError:
                    pass
            if rng.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.note("left")

    def slow_reader(self, rng):
        with self.connect(receive=2048) as s:
            s.sendall(self.long_stream(rng, stream_options={"include_usage": True}))
            time.sleep(rng.random() * 4)
            self.answered(self.read(s), True)

    def slow_writer(self, rng):
        data = self.message("POST", "/v1/chat/completions", json.dumps(self.body(rng)).encode())
        cut = sorted(rng.sample(range(len(data)), 8))
        pieces = [data[a:b] for a, b in zip([0, *cut], [*cut, len(data)])]
        self.answered(self.send(None, pieces, rng.random() / 4), False)

    def broken_head(self, rng):
        with self.connect() as s:
            s.sendall(rng.choice([b"GET /hea", b"POST /v1/chat/completions HTTP/1.1\r\nHost", b"\x16\x03\x01\x02\0\x01", b""]))
            time.sleep(rng.random() * 3)
        self.note("broke off within the head")

    def malformed(self, rng):
        chat, good = "/v1/chat/completions", [{"role": "user", "content": "hi"}]
        path, body, status = rng.choice([
            (chat, b"{", 400), (chat, b"", 400), (chat, b"[]", 400), (chat, b"\xff\xfe", 400), (chat, b"null", 400),
            (chat, b"[" * 100_000, 400), (chat, b'{"messages":' * 5000, 400),
            (chat, {"messages": []}, 400), (chat, {"messages": good, "n": 100_000}, 400), (chat, {"messages": good, "n": -1}, 400),
            (chat, {"messages": good, "temperature": -1}, 400), (chat, {"messages": good, "max_tokens": 0.5}, 400),
            (chat, {"messages": good, "max_tokens": 10**15}, 400), (chat, {"messages": good, "unheard_of": 1}, 400),
            (chat, {"messages": good, "stop": ["x"] * 1000}, 400), (chat, {"messages": good, "model": "other"}, 404),
            (chat, {"messages": [{"role": "user", "content": "word " * 100_000}]}, 400),
            (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, 400),
            (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]}, 400),
            ("/v1/completions", UNKNOWN_TOKEN, 400), ("/v1/completions", {"prompt": ""}, 400), ("/v1/nothing", {}, 404),
        ])
        reply = self.send(self.message("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode()))
        self.refused(reply, status, 429)
        if body == UNKNOWN_TOKEN and reply.status == 400:
            self.note("refused by the engine")

    def wrong_method(self, rng):
        self.refused(self.ask("DELETE", rng.choice(["/v1/chat/completions", "/metrics"])), 405)

    def oversized(self, rng):
        """Declared, or in chunks of which nobody knows the end."""
        if rng.random() < 0.5:
            head = self.message("POST", "/v1/chat/completions", headers=["X-Soak: declared"])
            data = head.replace(b"Content-Length: 0", b"Content-Length: %d" % (BODY + 1))
            pieces = [data] + [b" " * (1 << 20)] * (BODY >> 20) + [b" "]
        else:
            data = self.message("POST", "/v1/chat/completions").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            pieces = [data] + [b"100000\r\n" + b" " * (1 << 20) + b"\r\n"] * ((BODY >> 20) + 1)
        self.refused(self.send(None, pieces), 413, 429)

    def bomb(self, rng):
        file, right = rng.choice(list(BOMBS.values()))
        reply = self.ask("POST", "/v1/chat/completions", self.body(rng, file))
        if reply.status == 200 and 200 in right:
            return self.answered(reply, False)
        self.refused(reply, *right - {200}, 429)

    def wrong_key(self, rng):
        key = rng.choice([None, "", "soak", KEY + "x", "x" * 10_000])
        self.refused(self.ask("POST", "/v1/chat/completions", self.body(rng), key=key), 401)

    def look(self, rng):
        path = rng.choice(["/health", "/ready", "/metrics", "/v1/models", "/openapi.json"])
        reply = self.ask("GET", path)
        if reply.status != 200 and (path, reply.status) != ("/ready", 503):
            raise Wrong(f"{path}: {reply.status}")
        self.note("looked")

    BEHAVIOURS = {
        chat: 30, chat_with_picture: 15, respond: 10, leave: 15, slow_reader: 3, slow_writer: 4, broken_head: 3, malformed: 20, wrong_method: 2,
        oversized: 0.3, bomb: 4, wrong_key: 5, look: 6,
    }

    def client(self, seed):
        rng = random.Random(seed)
        while not self.stop.is_set():
            behaviour = rng.choices(list(self.BEHAVIOURS), list(self.BEHAVIOURS.values()))[0]
            try:
                behaviour(self, rng)
            except Exception as e:  # Whatever it is, it is told at the end.
                with self.lock:
                    self.failures.append(f"{behaviour.__name__}: {type(e).__name__}: {e}")
            time.sleep(rng.expovariate(20))


# The server

class Server:
    def __init__(self, binary, flags):
        command = [binary, "serve", "--port", "0", "--log-format", "json", "--api-key", KEY, "--max-num-seqs", "8", "--max-queue", "6"]
        self.process = subprocess.Popen(command + flags, stderr=subprocess.PIPE, text=True)
        self.bad, self.port = [], None
        for line in self.process.stderr:
            event = json.loads(line)
            if "address" in event:
                self.port = int(event["address"].rsplit(":", 1)[1])
                break
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.process.stderr:
            if not line.startswith("{") or '"level":"ERROR"' in line:
                self.bad.append(line.strip()[:300])

    def memory(self):
        """Bytes that are resident, and the most that ever were."""
        fields = dict(line.split(":", 1) for line in open(f"/proc/{self.process.pid}/status"))
        return tuple(int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))


def run(soak, server, seconds, seeds):
    """The load, of a client for each seed; the bytes that the server holds when it is over and nothing runs."""
    soak.stop.clear()
    threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in seeds]
    [t.start() for t in threads]
    start = said = time.time()
    while time.time() - start < seconds and server.process.poll() is None:
        time.sleep(1)
        if time.time() - said >= 60:
            said = time.time()
            print(f"{said - start:.0f} s: {server.memory()[0] >> 20} MiB, {len(soak.failures)} failures, {dict(soak.counts)}", flush=True)
    soak.stop.set()
    [t.join() for t in threads]
    idle(soak)
    time.sleep(GIVES_BACK)
    return server.memory()[0]


def idle(soak):
    """Waits until nothing runs; the metrics then."""
    for _ in range(300):
        m = soak.metrics()
        if m["vllm:num_requests_running"] == 0 and m["vllm:num_requests_waiting"] == 0:
            break
        time.sleep(0.1)
    return m


def emptied(soak, failures):
    """The server must be empty, and have counted what the clients saw."""
    m = idle(soak)
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "osprey:encoder_cache_usage_perc"):
        if name not in m or m[name] != 0:
            failures.append(f"at the end {name} is {m.get(name)}")
    ended = {reason: m[f'vllm:request_success_total{{finished_reason="{reason}"}}'] for reason in ("stop", "length", "abort", "error")}
    whole, answered, left = ended["stop"] + ended["length"], soak.counts["answered"], soak.counts["left"]
    wrong = ended["error"] - soak.counts["refused by the engine"]
    print(f"the server ended {ended}, preempted {m['vllm:num_preemptions_total']:.0f}; clients read {answered} answers and left {left}")
    if wrong or not answered <= whole <= answered + left or ended["abort"] > left:
        failures.append(f"{answered} answers were read and {left} left, but the server counts {ended}")


def ends(soak, server, failures):
    """SIGTERM: what is under way is finished, and the exit code is 0."""
    before = soak.counts["answered"]

    def stream():
        try:
            with soak.connect() as s:
                s.sendall(soak.long_stream(None, stream_options={"include_usage": True}))
                soak.answered(soak.read(s), True)
        except Exception as e:
            failures.append(f"at SIGTERM: {e}")

    threads = [threading.Thread(target=stream) for _ in range(4)]
    [t.start() for t in threads]
    while soak.metrics()["vllm:num_requests_running"] < 4 and any(t.is_alive() for t in threads):
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    [t.join() for t in threads]
    try:
        code = server.process.wait(40)
    except subprocess.TimeoutExpired:
        code = "still running after 40 s"
    if code != 0 or soak.counts["answered"] != before + 4:
        failures.append(f"after SIGTERM: {code}, {soak.counts['answered'] - before} of 4 streams ended")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--binary", default="target/release/osprey")
    a.add_argument("--seconds", type=int, default=600)
    a.add_argument("--clients", type=int, default=16)
    a.add_argument("flags", nargs="*", help="flags of osprey serve, after --")
    o = a.parse_args()
    server = Server(o.binary, o.flags)
    soak = Soak(server.port)
    try:
        soak.model = json.loads(soak.ask("GET", "/v1/models").body)["data"][0]["id"]
        parts = [(o.seconds / 5, range(o.clients)), (o.seconds * 4 / 5, range(o.clients, 2 * o.clients))]
        early, late = (run(soak, server, seconds, seeds) / 2**20 for seconds, seeds in parts)
        failures = soak.failures
        emptied(soak, failures)
        peak = server.memory()[1] / 2**20
        print(f"memory of the empty server: {early:.1f} MiB after a fifth of the time, {late:.1f} at the end; {peak:.0f} at most")
        if late > 1.05 * early:
            failures.append(f"memory grew from {early:.1f} to {late:.1f} MiB")
        ends(soak, server, failures)
        failures += [f"log: {line}" for line in server.bad]
    finally:
        server.process.kill()
    print(f"{dict(soak.counts)}")
    for failure, n in collections.Counter(failures).most_common(30):
        print(f"FAILED {n} times: {failure}")
    sys.exit(1 if failures else 0)


main()
