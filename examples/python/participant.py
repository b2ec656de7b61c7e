"""A bank whose accounts take part in transactions: the wire protocol with Python's standard library alone.

All that is known stands in one SQLite database. A message is one transaction of it, on disk before the answer leaves.
So this process may be killed at any moment. Only its coordinator ends a prepared branch, or an operator (`resolve`)."""
import contextlib, http.server, json, os, random, re, sqlite3, sys, threading, time, urllib.parse, urllib.request, uuid

USAGE = """usage: participant.py PORT DATABASE ACCOUNTS CENTS [COORDINATOR...]
           serves, and obeys the coordinators at these URLs alone; without any, those at loopback addresses
       participant.py resolve DATABASE TRANSACTION BRANCH commit|abort REASON
           ends a branch in doubt by hand while nothing serves the database: for a coordinator that is gone for good"""
UUID, NAME = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
URL, NIL = re.compile(r"https?://[^\s?#@]{1,2000}"), "00000000-0000-0000-0000-000000000000"
LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?")
METHODS = {"/prepare": "POST", "/commit": "POST", "/abort": "POST", "/branches": "GET", "/accounts": "GET"}
MAX_BODY, MAX_ANSWER, MAX_DEPTH = 1 << 20, 64 << 10, 100  # bytes, bytes, levels of arrays and objects
MAX_COORDINATORS, MAX_FORMER, MAX_FORGOTTEN, MAX_TOLD, HOUR = 16, 10_000, 1_000, 1_000, 3_600
ENDED = {"commit": "committed", "abort": "aborted"}

SCHEMA = """
    -- For one process alone. A commit is on disk when it returns. What a killed process had not synced is synced first.
    PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_checkpoint(TRUNCATE);
    CREATE TABLE IF NOT EXISTS store (participant_id TEXT);
    CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
    -- Each message writes its coordinator's row anew, under a new rowid: the lowest is the one longest unused.
    CREATE TABLE IF NOT EXISTS coordinators (id TEXT PRIMARY KEY, epoch TEXT, url TEXT, horizon TEXT);
    -- By coordinator, transaction and name. A state is prepared, commit or abort: what is refused is aborted, with the
    -- reason. A row without payload is the tombstone of an abort that came first.
    CREATE TABLE IF NOT EXISTS branches (id TEXT, xid TEXT, branch TEXT, state TEXT, payload TEXT, reason TEXT,
        account TEXT AS (json_extract(payload, '$.account')), added INTEGER AS (json_extract(payload, '$.cents')),
        since TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), PRIMARY KEY (id, xid, branch));
    CREATE UNIQUE INDEX IF NOT EXISTS locks ON branches (account) WHERE state = 'prepared';  -- at most one at a time"""
ADDED_COLUMNS = [  # by later versions, also to the databases of earlier ones
    ("coordinators", "place", "INTEGER NOT NULL DEFAULT 1"),  # 0: it gave up its place, epoch and horizon stay
    ("branches", "prepared_epoch", "TEXT"),                   # under which it was prepared
    ("branches", "resolved", "TEXT"),                         # why an operator ended it
    ("branches", "tell_until", "INTEGER")]                    # its coordinator is told its end until then; 0: it knows
INDEXES = """
    CREATE INDEX IF NOT EXISTS kept ON branches (id) WHERE state != 'abort' OR resolved IS NOT NULL;
    CREATE INDEX IF NOT EXISTS to_tell ON branches (tell_until) WHERE tell_until > 0"""

KEY = "(id, xid, branch) = (?, ?, ?)"

BRANCHES = "SELECT {} FROM branches JOIN coordinators USING (id) WHERE {} ORDER BY xid LIMIT {}"
ITEM = """json_object('transaction', xid, 'branch', branch, 'state', state, 'since', since, 'coordinator',
    json_object('id', id, 'epoch', epoch, 'url', url, 'horizon', horizon))"""
TO_ASK = BRANCHES.format("id, xid, branch, prepared_epoch, epoch, rtrim(url, '/')", "state = 'prepared'", -1)
TO_ACKNOWLEDGE = BRANCHES.format("id, xid, branch, state, epoch, rtrim(url, '/')",
                                 "tell_until > 0 AND tell_until > strftime('%s') + 0", MAX_TOLD)
FORGOTTEN = """branch {branch} of transaction {xid} is in doubt, and its coordinator at {url} has forgotten it.
    This database is probably older than the coordinator's retention (put back from a backup), or it was called by
    mistake and then away for longer than that. The branch is kept. Compare with the other participants and decide.
    Then stop this process and run: participant.py resolve {path} {xid} {branch} commit|abort REASON"""


class Problem(Exception):
    """An error as the answer to a call. Raised, it takes back whatever the call has changed."""

    def __init__(self, status, name, detail, **members):
        body = {"type": f"/problems/{name}", "title": name, "status": status, "detail": detail}
        self.answer = status, body | members


def implausible(field, why):
    return Problem(400, "implausible", f"`{field}` {why}", field=field)


def depth(value):
    """Returns how deep arrays and objects are nested."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def parse(text):
    """Reads a JSON object as strictly as the protocol asks. Raises ValueError or RecursionError."""
    def unique(members):
        value = {}
        for name, inner in members:
            if name in value:
                raise ValueError(f"`{name[:64]}` is there twice")
            value[name] = inner
        return value

    def no_number(name):
        raise ValueError(f"{name} is no number")

    value = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=no_number)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # raises at half of a surrogate pair, and at 1e999
    return value


def is_json(headers, default):
    """Returns whether Content-Type (`default` if there is none) and Content-Encoding are those of plain JSON."""
    media = headers.get_content_type() if "Content-Type" in headers else default
    plain = headers.get("Content-Encoding", "identity").lower() == "identity"
    return plain and (media == "application/json" or media.endswith("+json"))


def is_ahead(uuid7):
    """Returns whether the time of an id or epoch is more than an hour ahead of the clock."""
    return int(uuid7[:8] + uuid7[9:13], 16) > (time.time() + HOUR) * 1000


class Message:
    """A coordinator's message, each member of which has its form. Members that the protocol lacks are ignored."""

    def __init__(self, call, text, names):
        """Adds transaction and branch to `names`, as every answer names them. Raises a Problem."""
        try:
            self.call, self.members = call, parse(text or b"{}")
        except (ValueError, RecursionError) as error:
            raise Problem(400, "malformed", f"the body: {error}") from None
        self.transaction = names["transaction"] = self.text("transaction", UUID)
        self.branch = names["branch"] = self.text("branch", NAME)
        self.id, self.epoch = self.text("coordinator.id", UUID), self.text("coordinator.epoch", UUID)
        self.url, self.horizon = self.text("coordinator.url", URL), self.text("coordinator.horizon", UUID)
        self.participant_id = self.text("participant_id", UUID) if self.member("participant_id") is not None else None
        self.payload, self.remaining_ms = self.member("payload"), self.member("remaining_ms")
        if call == "prepare" and type(self.remaining_ms) is not int:
            raise Problem(400, "malformed", "`remaining_ms` is missing, or is no whole number")
        self.key = self.id, self.transaction, self.branch

    def member(self, path):
        value = self.members
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def text(self, path, form):
        value = self.member(path)
        if not (isinstance(value, str) and form.fullmatch(value)):
            raise Problem(400, "malformed", f"`{path}` is missing, or does not have its form")
        return value


class Bank:
    """The accounts and their branches, in a database."""

    def __init__(self, path, coordinators=()):
        self.path, self.coordinators, self.printed = path, {url.rstrip("/") for url in coordinators}, {}
        self.db = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
        self.lock = threading.Lock()  # one thread at a time uses it
        self.db.executescript(SCHEMA)
        for table, column, kind in ADDED_COLUMNS:
            if column not in (row[1] for row in self.sql(f"PRAGMA table_info({table})")):
                self.sql(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self.db.executescript(INDEXES)
        with self.db:
            self.sql("INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", str(uuid.uuid4()))
        [(self.participant_id,)] = self.sql("SELECT participant_id FROM store")

    def sql(self, statement, *values):
        return self.db.execute(statement, values).fetchall()

    def open_accounts(self, accounts, cents):
        with self.db:
            names = ((f"account-{number:02}", cents) for number in range(1, accounts + 1))
            self.db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?)", names)

    def answer(self, method, path, text, names):
        """Carries out a call; adds to `names` what it is about. Nothing has changed if it raises."""
        match method, path:
            case "POST", "/prepare" | "/commit" | "/abort":
                message = Message(path[1:], text, names)
                with self.lock, self.db:  # ends with a commit, or takes all back if anything was raised
                    return self.told(message)
            case "GET", "/branches" | "/branches?state=prepared":
                return 200, {"items": self.objects(BRANCHES.format(ITEM, "state = 'prepared'", 100))}
            case "GET", "/accounts":
                row = "json_object('account', account, 'cents', cents)"
                return 200, {"accounts": self.objects(f"SELECT {row} FROM accounts")}
        if path in METHODS:
            raise Problem(405, "method-not-allowed", f"{path} takes {METHODS[path]}")
        raise Problem(404, "not-found", "here are POST /prepare, /commit and /abort, GET /branches and /accounts")

    def objects(self, statement):
        with self.lock:
            return [json.loads(row) for (row,) in self.sql(statement)]

    def told(self, message):
        """Carries out a coordinator's message. With a Problem that it returns, epoch and horizon are kept."""
        horizon, call, payload = self.admit(message), message.call, None
        if call == "prepare":
            payload = json.dumps(message.payload, sort_keys=True)
        found = self.sql(f"SELECT state, reason, resolved, payload FROM branches WHERE {KEY}", *message.key)
        state, reason, resolved, first = found[0] if found else (None, None, None, None)
        match call, state:
            case "prepare", None:
                in_time = message.transaction >= horizon and message.remaining_ms > 0
                reason = self.refusal(message.payload) if in_time else "it comes too late"
                state = "abort" if reason else "prepared"
            case "prepare", _ if first not in (None, payload):  # a tombstone has none
                return Problem(422, "invalid", "`payload` differs from that of the first prepare").answer
            case "commit", None:
                return Problem(404, "unknown-branch", "there is no trace here of a vote of this branch").answer
            case ("commit" | "abort", "prepared") | ("abort", None):  # None: a tombstone; the prepare may still come
                state = self.end(message.key, call)
        if not found and message.transaction >= horizon:
            prepared_epoch = message.epoch if state == "prepared" else None
            self.sql("INSERT INTO branches (id, xid, branch, state, reason, payload, prepared_epoch)"
                     " VALUES (?, ?, ?, ?, ?, ?, ?)", *message.key, state, reason, payload, prepared_epoch)
        why = resolved or reason
        if call == "prepare":
            refused = 409, {"vote": "abort", "reason": why or "it was aborted before"}
            return refused if state == "abort" else (200, {"vote": "prepared"})
        if call == state:
            return 200, {"state": ENDED[state]}
        return 409, {"state": f"heuristic_{state}", "detail": why}

    def admit(self, message):
        """Judges who speaks, keeps epoch and horizon, returns the horizon that counts. Keeps nothing if it raises."""
        id, epoch, url, horizon = message.id, message.epoch, message.url, message.horizon
        if message.participant_id not in (None, self.participant_id):
            raise Problem(421, "misdirected", f"`participant_id`: this is {self.participant_id}, another store")
        named = url.rstrip("/") in self.coordinators
        if not (named if self.coordinators else LOOPBACK.fullmatch(url)):
            raise Problem(403, "forbidden-coordinator", "`coordinator.url` is none that is obeyed here (COORDINATOR)")
        known = self.sql("SELECT epoch, horizon, place FROM coordinators WHERE id = ?", id)
        highest, furthest, place = known[0] if known else (NIL, NIL, 0)
        if epoch < highest:
            raise Problem(412, "stale-epoch", f"the epoch {highest} is known", epoch=highest, coordinator=id)
        if epoch > highest and is_ahead(epoch):
            raise implausible("coordinator.epoch", "is more than an hour ahead of the clock")
        if horizon > message.transaction:
            raise implausible("coordinator.horizon", "is above `transaction`")
        if not place and not named:
            self.make_place(message.call)
        horizon = furthest if is_ahead(horizon) else max(horizon, furthest)
        self.sql("REPLACE INTO coordinators (id, epoch, url, horizon) VALUES (?, ?, ?, ?)", id, epoch, url, horizon)
        # What has ended below the horizon is forgotten, some at a time, and refused for ever; what is prepared is not.
        self.sql("DELETE FROM branches WHERE rowid IN (SELECT rowid FROM branches WHERE id = ? AND xid < ? AND"
                 " state != 'prepared' AND resolved IS NULL LIMIT ?)", id, horizon, MAX_FORGOTTEN)
        return horizon

    def make_place(self, call):
        """Lets the coordinators longest unused, of which no branch is kept, give up their places for a new one.
        Tombstones don't hold a place, but an abort, which would only leave another one, doesn't take it from them."""
        [(count,)] = self.sql("SELECT count(*) FROM coordinators WHERE place")
        needed = max(0, count + 1 - MAX_COORDINATORS)
        idle = self.sql("""SELECT id, EXISTS (SELECT 1 FROM branches WHERE branches.id = coordinators.id) AS tombstones
            FROM coordinators WHERE place AND NOT EXISTS (SELECT 1 FROM branches WHERE branches.id = coordinators.id
            AND (state != 'abort' OR resolved IS NOT NULL)) ORDER BY tombstones, coordinators.rowid LIMIT ?""", needed)
        if len(idle) < needed or (call == "abort" and any(tombstones for _, tombstones in idle)):
            raise Problem(403, "forbidden-coordinator", f"{count} coordinators are known here, as many as may be unless"
                          " those that are obeyed are named on the command line (COORDINATOR)")
        for id, _ in idle:
            self.sql("UPDATE coordinators SET place = 0 WHERE id = ?", id)
            self.sql("DELETE FROM branches WHERE id = ?", id)
        self.sql("DELETE FROM coordinators WHERE rowid IN (SELECT rowid FROM coordinators WHERE NOT place"
                 " ORDER BY rowid DESC LIMIT -1 OFFSET ?)", MAX_FORMER)

    def refusal(self, posting):
        """Returns why a posting can't be promised, or None."""
        account, cents = (posting.get("account"), posting.get("cents")) if type(posting) is dict else (None, None)
        held = self.sql("SELECT cents FROM accounts WHERE account = ?", account) if type(account) is str else []
        if not held or type(cents) is not int:
            return "`payload` is no whole number of `cents` for an `account` that is here"
        if self.sql("SELECT 1 FROM branches WHERE account = ? AND state = 'prepared'", account):
            return f"lock-conflict: another transaction has {account}"
        if not 0 <= held[0][0] + cents < 2**63:
            return f"overdrawn: {account} holds {held[0][0]} cents, {cents} are to be added"

    def end(self, key, decision, resolved=None, tell_until=None):
        self.sql(f"UPDATE branches SET (state, resolved, tell_until) = (?, ?, ?) WHERE {KEY}",
                 decision, resolved, tell_until, *key)
        if decision == "commit":
            self.sql("UPDATE accounts SET cents = cents + added FROM branches"
                     f" WHERE accounts.account = branches.account AND {KEY}", *key)
        return decision

    def resolve(self, xid, branch, decision, reason):
        """Ends a branch in doubt by hand. From then on it answers as one that was ended so by a call."""
        with self.db:
            if not reason.strip():
                raise ValueError("a reason is needed")
            found = self.sql("SELECT id FROM branches WHERE (xid, branch, state) = (?, ?, 'prepared')", xid, branch)
            if len(found) != 1:
                raise ValueError("it is not in doubt here")
            self.end((found[0][0], xid, branch), decision, resolved=reason)

    def ask(self, id, xid, branch, prepared_epoch, epoch, url):
        """Asks about a branch in doubt, and obeys."""
        query = {"coordinator": id, "epoch": epoch, "branch": branch, "participant_id": self.participant_id}
        query |= {"prepared_epoch": prepared_epoch} if prepared_epoch else {}
        query = urllib.parse.urlencode(query)
        status, answer = request(id, xid, branch, f"{url}/v1/transactions/{xid}/decision?{query}")
        if status == 410 and is_problem(answer, "forgotten"):
            return self.print_hourly(FORGOTTEN.format(xid=xid, branch=branch, url=url, path=self.path))
        who, decision = answer["coordinator"], answer["decision"]
        is_it = who["id"] == id and UUID.fullmatch(who["epoch"]) and who["epoch"] >= epoch
        if status == 200 and is_it and decision in ENDED:  # else `pending`, or no answer
            with self.lock, self.db:  # unless it was ended, or a higher epoch met, meanwhile
                if self.sql(f"SELECT 1 FROM branches JOIN coordinators USING (id) WHERE {KEY} AND (epoch, state) ="
                            " (?, 'prepared')", id, xid, branch, epoch):
                    self.end((id, xid, branch), decision, tell_until=int(time.time()) + HOUR)

    def print_hourly(self, text):
        now = time.monotonic()
        if now - self.printed.get(text, -HOUR) >= HOUR:
            self.printed[text] = now
            print(text, file=sys.stderr, flush=True)

    def acknowledge(self, id, xid, branch, state, epoch, url):
        """Tells a coordinator how a branch has ended here. Nothing relies on that it hears."""
        body = {"state": ENDED[state], "participant_id": self.participant_id, "coordinator": {"id": id, "epoch": epoch}}
        status, answer = request(id, xid, branch, f"{url}/v1/transactions/{xid}/branches/{branch}/acknowledge", body)
        done = status == 200 and answer["state"] == ENDED[state]
        with self.lock, self.db:
            if done or (status in (404, 409) and "/problems/" in answer["type"]):  # the latter: until the next start
                self.sql(f"UPDATE branches SET tell_until = ? WHERE {KEY}", 0 if done else None, id, xid, branch)
            elif status == 412 and is_problem(answer, "stale-epoch") and answer["coordinator"] == id:
                higher = answer["epoch"]
                if UUID.fullmatch(higher) and not is_ahead(higher):  # the next round names it
                    self.sql("UPDATE coordinators SET epoch = max(epoch, ?) WHERE id = ?", higher, id)

    def acknowledge_again(self):
        """Lets the coordinators be told, for an hour, how the oldest branches that are kept have ended."""
        with self.db:
            self.sql("UPDATE branches SET tell_until = ? WHERE rowid IN (SELECT rowid FROM branches"
                     " WHERE state != 'prepared' AND payload IS NOT NULL AND reason IS NULL AND resolved IS NULL"
                     " AND tell_until IS NOT 0 ORDER BY xid LIMIT ?)", int(time.time()) + HOUR, MAX_TOLD)

    def for_ever(self, what, carry_out):
        """Carries out all that there is at the start, then what has been there for a round, with pauses that grow."""
        pause, before, there = 1, None, []
        while True:
            with contextlib.suppress(sqlite3.Error), self.lock:
                there = self.sql(what)
            waiting, silent = [row for row in there if before is None or row in before], set()
            for row in waiting:
                try:
                    if row[-1] not in silent:  # one coordinator that can't be reached holds up no other
                        carry_out(*row)
                except OSError:
                    silent.add(row[-1])
                except Exception:  # no answer that counts: it is carried out again
                    pass
            pause, before = min(2 * pause, 30) if waiting else 1, set(there)
            time.sleep(random.uniform(pause / 2, pause))


PLAIN = urllib.request.OpenerDirector()  # uses no proxy, and follows no redirect
PLAIN.add_handler(urllib.request.HTTPHandler())
PLAIN.add_handler(urllib.request.HTTPSHandler())


def request(id, xid, branch, url, body=None):
    """Calls a coordinator about a branch. Returns status and body of an answer that counts, and raises otherwise."""
    headers, data = {"Cache-Control": "no-store", "Unanimous-Coordinator": id}, None
    if body is not None:
        headers["Content-Type"], data = "application/json", json.dumps(body).encode()
    with PLAIN.open(urllib.request.Request(url, data, headers), timeout=10) as response:
        text = response.read(MAX_ANSWER + 1)
        if len(text) > MAX_ANSWER or not is_json(response.headers, default=""):
            raise ValueError("an answer is at most 64 KiB of JSON")
        status, answer = response.status, parse(text)
    if answer.get("transaction") not in (None, xid) or answer.get("branch") not in (None, branch):
        raise ValueError("an answer to another call, which a proxy sent late")
    return status, answer


def is_problem(answer, name):
    return answer["type"].endswith(f"/problems/{name}")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, timeout, disable_nagle_algorithm = "HTTP/1.1", 120, True

    def serve(self):
        names = {"participant_id": self.bank.participant_id}
        try:
            status, body = self.bank.answer(self.command, self.path, self.body(), names)
        except Problem as problem:
            status, body = problem.answer
        except sqlite3.Error as error:
            status, body = Problem(503, "not-ready", f"the database: {error}").answer
        text = json.dumps(body | names).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/problem+json" if "type" in body else "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 405:
            self.send_header("Allow", METHODS[self.path])
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def body(self):
        """Reads the body whole. Raises a Problem; then what is left of it can't be told from the next request."""
        was_closing, self.close_connection = self.close_connection, True
        lengths = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", ",".join(lengths)):
            raise Problem(400, "malformed", "the length of a body stands in `Content-Length`")
        length = int(lengths[0])
        if length > MAX_BODY:
            self.rfile.read(min(length, 8 * MAX_BODY))  # else the client might not receive the answer
            raise Problem(413, "too-large", f"a body has at most {MAX_BODY} bytes")
        text = self.rfile.read(length)
        if len(text) < length:
            raise Problem(400, "malformed", "the body ends before its `Content-Length`")
        self.close_connection = was_closing
        if text and not is_json(self.headers, default="application/json"):
            raise Problem(415, "unsupported-media-type", "`Content-Type` or `Content-Encoding` is none of plain JSON")
        return text

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_):
        """Prints nothing: a message is nothing to report."""


def serve(port, path, accounts, cents, coordinators):
    Handler.bank = bank = Bank(path, coordinators)
    bank.open_accounts(int(accounts), int(cents))
    bank.acknowledge_again()
    for job in ((TO_ASK, bank.ask), (TO_ACKNOWLEDGE, bank.acknowledge)):
        threading.Thread(target=bank.for_ever, args=job, daemon=True).start()
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


def resolve(path, xid, branch, decision, reason):
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such database")
        Bank(path).resolve(xid, branch, decision, reason)
    except (sqlite3.Error, ValueError) as error:  # the database of a participant that runs is locked
        sys.exit(f"{path}, branch {branch} of transaction {xid}: {error}; nothing was changed")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["resolve", path, xid, branch, ("commit" | "abort") as decision, reason]:
            resolve(path, xid, branch, decision, reason)
        case [port, path, accounts, cents, *coordinators] if port.isdecimal():
            serve(port, path, accounts, cents, coordinators)
        case _:
            sys.exit(USAGE)
