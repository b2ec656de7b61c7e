"""A bank whose accounts take part in transactions: the wire protocol with Python's standard library alone.
Always true: all that is known stands in one SQLite database; a message is one transaction of it, on disk before the
answer leaves, so this process may be killed at any moment; what is prepared is ended by its coordinator alone."""
import contextlib, http.server, json, random, re, sqlite3, sys, threading, time, urllib.request

UUID, NAME = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
SCHEMA = """
    -- For one process alone; a commit is on disk when it returns; what a killed process had not synced is synced first.
    PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_checkpoint(TRUNCATE);
    CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
    CREATE TABLE IF NOT EXISTS coordinators (id TEXT PRIMARY KEY, epoch TEXT, url TEXT, horizon TEXT);
    -- By coordinator, transaction and name. A state is prepared, commit or abort: what is refused is aborted.
    CREATE TABLE IF NOT EXISTS branches (id TEXT, xid TEXT, branch TEXT, state TEXT, payload TEXT, reason TEXT,
        account TEXT AS (json_extract(payload, '$.account')), added INTEGER AS (json_extract(payload, '$.cents')),
        since TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), PRIMARY KEY (id, xid, branch));
    CREATE UNIQUE INDEX IF NOT EXISTS locks ON branches (account) WHERE state = 'prepared';  -- at most one at a time"""
IN_DOUBT = "SELECT {} FROM branches JOIN coordinators USING (id) WHERE state = 'prepared' ORDER BY xid"
ITEM = """json_object('transaction', xid, 'branch', branch, 'state', state, 'since', since, 'coordinator',
    json_object('id', id, 'epoch', epoch, 'url', url, 'horizon', horizon))"""

def problem(status, name, detail, **members):
    return status, {"type": f"/problems/{name}", "title": name, "status": status, "detail": detail, **members}

class Bank:
    def __init__(self, path, accounts, cents):
        self.lock, self.db = threading.Lock(), sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=0)
        self.db.executescript(SCHEMA)
        with self.db:
            names = ((f"account-{number:02}", cents) for number in range(1, accounts + 1))
            self.db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?)", names)

    def sql(self, statement, *values):
        return self.db.execute(statement, values).fetchall()

    def answer(self, method, path, text):
        match method, path:
            case "POST", "/prepare" | "/commit" | "/abort":
                return self.told(path[1:], json.loads(text))
            case "GET", "/branches" | "/branches?state=prepared":
                return 200, {"items": [json.loads(row) for (row,) in self.sql(IN_DOUBT.format(ITEM) + " LIMIT 100")]}
            case "GET", "/accounts":
                row = "json_object('account', account, 'cents', cents)"
                return 200, {"accounts": [json.loads(row) for (row,) in self.sql(f"SELECT {row} FROM accounts")]}
        return problem(404, "not-found", "here are POST /prepare, /commit and /abort, GET /branches and /accounts")

    def told(self, call, message):
        key = id, xid, name = message["coordinator"]["id"], message["transaction"], message["branch"]
        epoch, url, horizon = (message["coordinator"][member] for member in ("epoch", "url", "horizon"))
        if not (NAME.fullmatch(name) and all(map(UUID.fullmatch, (id, xid, epoch, horizon)))):
            raise ValueError("an id or a name is not of its form")
        if not LOOPBACK.fullmatch(url):
            return problem(403, "forbidden-participant", f"the coordinator {url} is not obeyed here")
        for highest, furthest in self.sql("SELECT epoch, horizon FROM coordinators WHERE id = ?", id):
            if epoch < highest:
                return problem(412, "stale-epoch", f"the epoch {highest} is known", epoch=highest, coordinator=id)
            horizon = max(horizon, furthest)
        self.sql("REPLACE INTO coordinators VALUES (?, ?, ?, ?)", id, epoch, url, horizon)
        # What has ended below the horizon is forgotten, and refused for ever. What is prepared never is.
        self.sql("DELETE FROM branches WHERE id = ? AND xid < ? AND state != 'prepared'", id, horizon)
        found = self.sql("SELECT state, reason, payload FROM branches WHERE (id, xid, branch) = (?, ?, ?)", *key)
        state, reason, first = found[0] if found else (None, None, None)
        payload = json.dumps(message.get("payload"), sort_keys=True) if call == "prepare" else None
        match call, state:
            case "prepare", None:
                in_time = xid >= horizon and message["remaining_ms"] > 0
                reason = self.refusal(message.get("payload")) if in_time else "it comes too late"
                state = "abort" if reason else "prepared"
            case "prepare", _ if first not in (None, payload):  # a tombstone has none
                return problem(422, "invalid", "`payload` differs from the first prepare's; nothing was changed")
            case "commit", None:
                return problem(404, "unknown-branch", "there is no trace here of a vote of this branch")
            case ("commit" | "abort", "prepared") | ("abort", None):  # None: a tombstone; the prepare may still come
                state = self.end(key, call)
        if not found and xid >= horizon:
            self.sql("INSERT INTO branches (id, xid, branch, state, reason, payload) VALUES (?, ?, ?, ?, ?, ?)",
                     *key, state, reason, payload)
        if call == "prepare":
            refused = 409, {"vote": "abort", "reason": reason or "it was aborted before"}
            return refused if state == "abort" else (200, {"vote": "prepared"})
        ended = {"commit": "committed", "abort": "aborted"}[state]
        return (200, {"state": ended}) if call == state else (409, {"state": f"heuristic_{state}", "detail": reason})

    def refusal(self, posting):  # why it can't be promised, if so
        account, cents = (posting.get("account"), posting.get("cents")) if type(posting) is dict else (None, None)
        held = self.sql("SELECT cents FROM accounts WHERE account = ?", account) if type(account) is str else []
        if not held or type(cents) is not int:
            return f"that is no whole number of `cents` for an `account` here: {posting}"
        if self.sql("SELECT 1 FROM branches WHERE account = ? AND state = 'prepared'", account):
            return f"lock-conflict: another transaction has {account}"
        if not 0 <= held[0][0] + cents < 2**63:
            return f"overdrawn: {account} holds {held[0][0]} cents, {cents} are to be added"

    def end(self, key, decision):
        self.sql("UPDATE branches SET state = ? WHERE (id, xid, branch) = (?, ?, ?)", decision, *key)
        if decision == "commit":
            self.sql("UPDATE accounts SET cents = cents + added FROM branches WHERE accounts.account = branches.account"
                     " AND (id, xid, branch) = (?, ?, ?)", *key)
        return decision

    def ask(self, id, xid, branch, epoch, url):
        """Asks about a branch in doubt, and obeys."""
        plain = urllib.request.OpenerDirector()  # uses no proxy, and follows no redirect
        plain.add_handler(urllib.request.HTTPHandler())
        query = f"/v1/transactions/{xid}/decision?coordinator={id}&epoch={epoch}&branch={branch}"
        with plain.open(url.rstrip("/") + query, timeout=10) as response:
            answer = json.load(response)
        if response.status == 200 and answer["coordinator"]["id"] == id and answer["decision"] in ("commit", "abort"):
            with self.lock, self.db:  # unless it was decided, or a higher epoch met, meanwhile
                if (id, xid, branch, epoch) in self.sql(IN_DOUBT.format("id, xid, branch, epoch")):
                    self.end((id, xid, branch), answer["decision"])

    def ask_for_ever(self):
        """Asks about what is in doubt at the start, then about what has been for a round."""
        pause, before = 1, None
        while True:
            with self.lock:
                doubts = set(self.sql(IN_DOUBT.format("id, xid, branch, epoch, url")))
            waiting = doubts if before is None else doubts & before
            for doubt in waiting:
                with contextlib.suppress(Exception):  # whatever goes wrong, it is asked about again
                    self.ask(*doubt)
            pause, before = min(2 * pause, 30) if waiting else 1, doubts
            time.sleep(random.uniform(pause / 2, pause))

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, timeout, disable_nagle_algorithm = "HTTP/1.1", 120, True
    def do_POST(self):
        try:
            text = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1 << 20))
            with self.bank.lock, self.bank.db:  # ends with a commit, or takes all back if anything was raised
                status, body = self.bank.answer(self.command, self.path, text)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self.close_connection = True
            status, body = problem(400, "malformed", f"that is no message of the protocol: {error!r}")
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/problem+json" if "type" in body else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST

if __name__ == "__main__":
    port, path, accounts, cents = sys.argv[1:]
    Handler.bank = Bank(path, int(accounts), int(cents))
    threading.Thread(target=Handler.bank.ask_for_ever, daemon=True).start()
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
