#!/usr/bin/env python3
"""A bank whose accounts take part in transactions: the wire protocol with Python's standard library alone.
The numbers in the comments are the rules of participant-sdk/PROTOCOL.md.

Always true: all that is known stands in one SQLite database; a message is one transaction of it, which is on disk before
the answer leaves, so this process may be killed at any moment; what is prepared here is ended by its coordinator alone.
"""
import argparse, contextlib, datetime, http.client, http.server, json, os, random, re, sqlite3, sys, threading, time
from urllib.parse import parse_qsl, urlsplit

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")  # P-6.5
PREPARED, COMMITTED, ABORTED = (200, {"vote": "prepared"}), (200, {"state": "committed"}), (200, {"state": "aborted"})
SCHEMA = """
    CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
    CREATE TABLE IF NOT EXISTS coordinators (id TEXT PRIMARY KEY, epoch TEXT, url TEXT, horizon TEXT);
    CREATE TABLE IF NOT EXISTS branches (coordinator TEXT, xid TEXT, branch TEXT, state TEXT, payload TEXT,
        account TEXT, cents INTEGER, reason TEXT, since TEXT, PRIMARY KEY (coordinator, xid, branch));
    -- The locks: of an account's branches one at most is prepared.
    CREATE UNIQUE INDEX IF NOT EXISTS locked ON branches (account) WHERE state = 'prepared';"""

def problem(status, name, detail, **members):
    return status, {"type": f"/problems/{name}", "title": name, "status": status, "detail": detail, **members}

class Bank:
    def __init__(self, path, accounts, opening):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")  # with WAL: COMMIT returns when it is on disk (P-4.10)
        # A killed process may have written what it never synced: that is read now, so it must be on disk first.
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.executescript(SCHEMA)
        with self.transaction():
            names = [(f"account-{n:02}", opening) for n in range(1, accounts + 1)]
            self.db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?)", names)

    @contextlib.contextmanager
    def transaction(self):
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield
                self.db.execute("COMMIT")
            except sqlite3.Error as error:  # after a failed sync nothing can be believed but what a new start reads
                print(f"the database failed, so this process ends: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            except BaseException:
                self.db.execute("ROLLBACK")
                raise

    def rows(self, select, *values):
        return self.db.execute(select, values).fetchall()

    def told(self, call, message):
        """Carries out a call of a coordinator, and gives the answer."""
        who, xid, name = message["coordinator"], message["transaction"], message["branch"]
        if not (BRANCH.fullmatch(name) and all(map(UUID.fullmatch, (xid, who["id"], who["epoch"], who["horizon"])))):
            raise ValueError("an id, an epoch or a branch's name is not of its form")
        if not LOOPBACK.fullmatch(who["url"]):
            return problem(403, "forbidden-participant", f"the coordinator {who['url']} is not on this bank's list")
        with self.transaction():
            known = self.rows("SELECT * FROM coordinators WHERE id = ?", who["id"])
            if known and who["epoch"] < known[0]["epoch"]:  # P-4.13
                return problem(412, "stale-epoch", "a higher epoch is known", epoch=known[0]["epoch"], coordinator=who["id"])
            horizon = max(who["horizon"], known[0]["horizon"] if known else "")
            if not known or (who["epoch"], who["url"], horizon) != tuple(known[0])[1:]:
                self.db.execute("REPLACE INTO coordinators VALUES (?, ?, ?, ?)", (who["id"], who["epoch"], who["url"], horizon))
                # P-4.12: what has ended below the horizon is forgotten, what is prepared never.
                self.db.execute("DELETE FROM branches WHERE coordinator = ? AND xid < ? AND state != 'prepared'", (who["id"], horizon))
            key = (who["id"], xid, name)
            branch = self.rows("SELECT * FROM branches WHERE coordinator = ? AND xid = ? AND branch = ?", *key)
            return getattr(self, call)(key, branch[0] if branch else None, message, xid < horizon)

    def keep(self, key, state, payload=None, account=None, cents=None, reason=None):
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.db.execute("INSERT INTO branches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*key, state, payload, account, cents, reason, since))

    def prepare(self, key, branch, message, is_below):
        payload = json.dumps(message.get("payload"), sort_keys=True)
        if branch:  # a repeat, or a prepare that its abort has overtaken, of which no payload was kept (P-4.6, P-4.7)
            if branch["payload"] not in (None, payload):
                return problem(422, "invalid", "`payload` differs from that of the first prepare; nothing was changed")
            voted = branch["state"] in ("prepared", "committed")
            return PREPARED if voted else (409, {"vote": "abort", "reason": branch["reason"] or "it was aborted"})
        account, cents, refusal = self.work(message, is_below)
        if not is_below:  # below the horizon every repeat is refused alike: nothing need be kept
            self.keep(key, "refused" if refusal else "prepared", payload, account, cents, refusal)
        return (409, {"vote": "abort", "reason": refusal}) if refusal else PREPARED

    def work(self, message, is_below):
        """What a prepare asks for: the account and how much to add to it, or why not."""
        posting = message.get("payload")
        if is_below or message["remaining_ms"] <= 0 or posting is None:  # P-4.8
            return None, None, "it is too late, or brings no work"
        account, cents = (posting.get("account"), posting.get("cents")) if isinstance(posting, dict) else (None, None)
        if type(account) is not str or type(cents) is not int or len(posting) != 2:
            return None, None, "a posting is {\"account\": its name, \"cents\": a whole number}"
        balance = self.rows("SELECT cents FROM accounts WHERE name = ?", account)
        if not balance:
            return None, None, f"there is no account {account}"
        if self.rows("SELECT 1 FROM branches WHERE account = ? AND state = 'prepared'", account):
            return None, None, f"lock-conflict: another transaction has {account}"
        if not 0 <= balance[0]["cents"] + cents < 2**63:
            return None, None, f"overdrawn: {account} holds {balance[0]['cents']} cents, and {cents} are to be added"
        return account, cents, None

    def end(self, key, branch, state):
        """Ends a prepared branch as its coordinator has decided."""
        if state == "committed":
            self.db.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (branch["cents"], branch["account"]))
        self.db.execute("UPDATE branches SET state = ? WHERE coordinator = ? AND xid = ? AND branch = ?", (state, *key))

    def commit(self, key, branch, _message, _is_below):
        if not branch:
            return problem(404, "unknown-branch", "there is no trace here of a vote of this branch")  # P-4.9
        if branch["state"] == "prepared":
            self.end(key, branch, "committed")
        is_aborted = branch["state"] in ("refused", "aborted")
        return (409, {"state": "heuristic_abort", "detail": branch["reason"] or "it was aborted"}) if is_aborted else COMMITTED

    def abort(self, key, branch, _message, is_below):
        if not branch and not is_below:
            self.keep(key, "aborted")  # a tombstone: a prepare that comes after it is refused (P-4.7)
        elif branch and branch["state"] == "prepared":
            self.end(key, branch, "aborted")
        is_committed = branch and branch["state"] == "committed"
        return (409, {"state": "heuristic_commit", "detail": "it is committed"}) if is_committed else ABORTED

    def in_doubt(self):
        with self.lock:
            return self.rows("SELECT b.*, c.epoch, c.url, c.horizon FROM branches b JOIN coordinators c ON c.id = b.coordinator "
                             "WHERE b.state = 'prepared' ORDER BY b.xid")

    def ask(self, doubt):
        """Asks a coordinator about a branch in doubt, and obeys (P-5). True if that has ended the doubt."""
        url, key = urlsplit(doubt["url"]), (doubt["coordinator"], doubt["xid"], doubt["branch"])
        # http.client follows no redirect and uses no proxy.
        connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
        with contextlib.closing(connection):
            query = f"coordinator={key[0]}&epoch={doubt['epoch']}&branch={key[2]}"
            connection.request("GET", f"{url.path.rstrip('/')}/v1/transactions/{key[1]}/decision?{query}")
            answer = connection.getresponse()
            body = json.loads(answer.read(65536))
        state = {"commit": "committed", "abort": "aborted"}.get(body["decision"]) if answer.status == 200 else None
        if not state or body["coordinator"]["id"] != key[0]:
            return False
        with self.transaction():  # P-5.3: unless it was decided, or a higher epoch was met, meanwhile
            still = "SELECT 1 FROM branches JOIN coordinators ON id = coordinator WHERE coordinator = ? AND xid = ? AND branch = ?"
            if self.rows(still + " AND state = 'prepared' AND epoch = ?", *key, doubt["epoch"]):
                self.end(key, doubt, state)
        return True
