#!/usr/bin/env python3
"""Measures whether disk and memory stay flat under load when finished transactions are kept for a short time.

    tests/measure/retention.py target/release/unanimous [--seconds 300] [--retain 5s] [--clients 8]

Starts the coordinator on a folder of its own and a participant in this process, commits as fast as the clients can, prints
a line every ten seconds, and checks at the end what retention promises: what is dropped is 404 with `retained_since`, its key
can be used again, and what a branch never acknowledged (`heuristic_unknown`) is still there. Exits non-zero if it isn't.
"""
import argparse, http.client, http.server, json, os, pathlib, subprocess, sys, tempfile, threading, time

COMMITTED = {"prepare": (200, {"vote": "prepared"}), "commit": (200, {"state": "committed"}), "abort": (200, {"state": "aborted"})}
# A participant that has lost the branch: the coordinator shows it as `heuristic_unknown`.
LOST = COMMITTED | {"commit": (404, {"type": "/problems/unknown-branch", "title": "", "status": 404, "detail": ""})}


class Participant(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        _, kind, call = self.path.split("/")
        status, body = (LOST if kind == "lost" else COMMITTED)[call]
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Client:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=70)

    def call(self, method, path, body=None, key=None):
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def resident(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024


def on_disk(folder):
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total / 2**20


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("binary")
    args.add_argument("--seconds", type=int, default=300)
    args.add_argument("--retain", default="5s")
    args.add_argument("--clients", type=int, default=8)
    args = args.parse_args()
    participant = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Participant)
    threading.Thread(target=participant.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{participant.server_address[1]}"
    with tempfile.TemporaryDirectory() as home:
        data, port = pathlib.Path(home) / "data", 20000 + os.getpid() % 10000
        flags = ["serve", "--listen", f"127.0.0.1:{port}", "--data-dir", data, "--retain", args.retain, "--log", "warn"]
        coordinator = subprocess.Popen([args.binary, *flags])
        try:
            return measure(args, base, data, port, coordinator.pid)
        finally:
            coordinator.terminate()
            coordinator.wait()


def measure(args, base, data, port, pid):
    client = Client(port)
    while True:
        try:
            if client.call("GET", "/readyz")[0] == 200:
                break
        except OSError:
            client = Client(port)
            time.sleep(0.05)

    def body(kind):
        branches = [{"participant": f"{base}/{kind}", "payload": {"n": n, "text": "x" * 100}} for n in range(2)]
        return {"branches": branches, "commit": True, "respond": "finished", "metadata": {"order": "x" * 100}}

    _, lost = client.call("POST", "/v1/transactions", body("lost"), key="lost")
    status, first = client.call("POST", "/v1/transactions", body("well"), key="first")
    assert (status, first["state"]) == (200, "committed"), first
    ended, counts = threading.Event(), [0] * args.clients

    def work(at):
        mine = Client(port)
        while not ended.is_set():
            status, answer = mine.call("POST", "/v1/transactions", body("well"), key=f"{at}-{counts[at]}")
            assert status == 200, answer
            counts[at] += 1

    workers = [threading.Thread(target=work, args=(at,)) for at in range(args.clients)]
    for worker in workers:
        worker.start()
    began, lines = time.monotonic(), []
    print("seconds  transactions  MiB in memory  MiB on disk")
    while (now := time.monotonic() - began) < args.seconds:
        time.sleep(min(10, args.seconds - now))
        lines.append((sum(counts), resident(pid), on_disk(data)))
        print(f"{time.monotonic() - began:7.0f}  {lines[-1][0]:12}  {lines[-1][1]:13.1f}  {lines[-1][2]:11.1f}", flush=True)
    ended.set()
    for worker in workers:
        worker.join()
    faults, client = [], Client(port)
    status, gone = client.call("GET", f"/v1/transactions/{first['id']}")
    if status != 404 or not gone.get("retained_since"):
        faults.append(f"the first transaction is not dropped: {status} {gone}")
    status, again = client.call("POST", "/v1/transactions", body("well"), key="first")
    if status != 200 or again["id"] == first["id"]:
        faults.append(f"the key of the first can't be used again: {status} {again}")
    status, kept = client.call("GET", f"/v1/transactions/{lost['id']}")
    if status != 200 or not kept["heuristic"] or kept["branches"][0]["state"] != "heuristic_unknown":
        faults.append(f"what was never acknowledged is not there: {status} {kept}")
    status, found = client.call("GET", "/v1/transactions?idempotency_key=lost&heuristic=true")
    if [item["id"] for item in found["items"]] != [lost["id"]]:
        faults.append(f"what was never acknowledged is not found: {status} {found}")
    third = len(lines) // 3
    for at, what in ((1, "memory"), (2, "disk")):
        early, late = (max(line[at] for line in part) for part in (lines[:2 * third], lines[2 * third:]))
        print(f"{what}: at most {early:.1f} MiB in the first two thirds, {late:.1f} MiB in the last")
    print("\n".join(faults) or "dropped, found and kept as promised")
    return 1 if faults else 0


sys.exit(main())
