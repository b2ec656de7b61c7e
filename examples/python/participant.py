"""A bank whose accounts take part in transactions: the wire protocol with Python's standard library alone.
Always true: all that is known stands in one SQLite database; a message is one transaction of it, on disk before the
answer leaves, so this process may be killed at any moment; what is prepared is ended by its coordinator alone."""
import argparse, contextlib, http.client, http.server, json, random, re, sqlite3, threading, time, urllib.request

UUID, NAME = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
SCHEMA = """
    PRAGMA locking_mode = EXCLUSIVE;                        -- a second process is refused
    PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;   -- together: a commit is on disk when it returns
    PRAGMA wal_checkpoint(TRUNCATE);    -- what a killed process wrote and never synced is synced before it is believed
    CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
    CREATE TABLE IF NOT EXISTS coordinators (id TEXT PRIMARY KEY, epoch TEXT, url TEXT, horizon TEXT);
    -- A branch, by its coordinator's id, its transaction and its name. Its state: prepared, commit or abort.
    CREATE TABLE IF NOT EXISTS branches (id TEXT, xid TEXT, branch TEXT, state TEXT, payload TEXT, reason TEXT,
        account TEXT AS (json_extract(payload, '$.account')), added INTEGER AS (json_extract(payload, '$.cents')),
        since TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), PRIMARY KEY (id, xid, branch));
    -- The locks: of the branches on an account one at most is prepared.
    CREATE UNIQUE INDEX IF NOT EXISTS locked ON branches (account) WHERE state = 'prepared';"""
IN_DOUBT = "SELECT {} FROM branches JOIN coordinators USING (id) WHERE state = 'prepared' ORDER BY xid"

def problem(status, name, detail, **members):
    return status, {"type": f"/problems/{name}", "title": name, "status": status, "detail": detail, **members}

class Bank:
    def __init__(self, path, accounts, cents):
        self.lock, self.db = threading.Lock(), sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
        self.db.executescript(SCHEMA)
        with self.db:
            for number in range(1, accounts + 1):
                self.sql("INSERT OR IGNORE INTO accounts VALUES (?, ?)", f"account-{number:02}", cents)

    def sql(self, statement, *values):
        return self.db.execute(statement, values).fetchall()

    def told(self, call, message):
        """Carries out a call of a coordinator; gives the answer's status and body."""
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
                is_late = xid < horizon or message["remaining_ms"] <= 0
                reason = "it comes too late" if is_late else self.refusal(message.get("payload"))
                state = "abort" if reason else "prepared"
            case "prepare", _ if first not in (None, payload):  # a tombstone has none
                return problem(422, "invalid", "`payload` differs from the first prepare's; nothing was changed")
            case "commit", None:
                return problem(404, "unknown-branch", "there is no trace here of a vote of this branch")
            case "abort", None:  # leaves a tombstone: the prepare may still come
                state, reason = "abort", "it was aborted"
            case "commit" | "abort", "prepared":
                state = self.end(key, call)
        if not found and xid >= horizon:
            self.sql("INSERT INTO branches (id, xid, branch, state, reason, payload) VALUES (?, ?, ?, ?, ?, ?)",
                     *key, state, reason, payload)
        if call == "prepare":
            return (409, {"vote": "abort", "reason": reason}) if state == "abort" else (200, {"vote": "prepared"})
        if call != state:
            return 409, {"state": f"heuristic_{state}", "detail": reason}
        return 200, {"state": {"commit": "committed", "abort": "aborted"}[state]}

    def refusal(self, posting):
        """Why a posting can't be promised, if so."""
        account, cents = (posting.get("account"), posting.get("cents")) if type(posting) is dict else (None, None)
        held = self.sql("SELECT cents FROM accounts WHERE account = ?", account) if type(account) is str else []
        if not held or type(cents) is not int:
            return f"that is no whole number of `cents` for an `account` here: {posting}"
        if self.sql("SELECT 1 FROM branches WHERE account = ? AND state = 'prepared'", account):
            return f"lock-conflict: another transaction has {account}"
        if not 0 <= held[0][0] + cents < 2**63:
            return f"overdrawn: {account} holds {held[0][0]} cents, {cents} are to be added"

    def end(self, key, decision):
        self.sql("UPDATE branches SET state = ?, reason = ? WHERE (id, xid, branch) = (?, ?, ?)",
                 decision, f"its coordinator has decided {decision}", *key)
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
        with self.lock, self.db:
            # Unless a decision came meanwhile, or a coordinator with a higher epoch.
            is_still_so = (id, xid, branch, epoch) in self.sql(IN_DOUBT.format("id, xid, branch, epoch"))
            counts = response.status == 200 and answer["coordinator"]["id"] == id
            if is_still_so and counts and answer["decision"] in ("commit", "abort"):
                self.end((id, xid, branch), answer["decision"])

    def ask_for_ever(self):
        """Asks about what is in doubt at the start, and then about what has been for a round."""
        pause, before = 1, set(self.sql(IN_DOUBT.format("id, xid, branch, epoch, url")))
        while True:
            with self.lock:
                doubts = set(self.sql(IN_DOUBT.format("id, xid, branch, epoch, url"))) & before
            for doubt in doubts:
                with contextlib.suppress(OSError, http.client.HTTPException, KeyError, TypeError, ValueError):
                    self.ask(*doubt)
            ...
