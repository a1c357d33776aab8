"""A server for tests of the chat page: it plays scripts, keeps conversations as src/api does, and writes down what it was sent.

A script is a list of steps; one is taken for each question:
  ("say", text) ("think", text) ("gate",) ("progress", {...}) ("sources", {...}) ("error", {...}) ("finish", reason)
  ("cut",)      breaks the connections; the answer goes on
  ("status", code, body, headers)   instead of an answer; body: a dict for JSON, else the text of a proxy
  ("drop",)     instead of an answer: no reply at all, and nothing is stored
  ("lost",)     stores the question and goes on, but the reply never comes
"""
import http.server
import json
import pathlib
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
CSP = ("default-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
       "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types shell")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
         ".svg": "image/svg+xml", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json"}
RECEIPT = {"path": "light", "why": "easy", "class": "fact", "prompt_tokens": {"computed": 20, "ram": 80, "ssd": 0, "s3": 0, "spliced": 0, "upstream": 0},
           "flops": {"spent": 6e10, "dense": 9e10}, "attention": {"kept": 1, "epsilon": 0, "max_bound": 0, "kv_bytes": {"read": 0, "dense": 0}, "prefill": {"keep": 0, "values_read": 1}},
           "decode": {"steps": 9, "tokens": 12, "drafted": 4, "accepted": 3}, "ms": {"attach": 0.1, "load": 0, "queue": 1, "intent": 0, "retrieval": 0, "prefill": 100, "decode": 900}}
USAGE = {"prompt_tokens": 100, "completion_tokens": 12, "total_tokens": 112, "sparing": RECEIPT}


class Stream:
    def __init__(self, key, chat, message):
        self.key, self.chat, self.message = key, chat, message
        self.asked = None
        self.events, self.lock, self.is_over, self.cuts = [], threading.Condition(), False, 0

    def put(self, data, event=None):
        with self.lock:
            lines = ([f"event: {event}"] if event else []) + ["data: " + (data if isinstance(data, str) else json.dumps(data))]
            self.events.append("\n".join([f"id: {len(self.events) + 1}", *lines]) + "\n\n")
            self.lock.notify_all()

    def end(self):
        with self.lock:
            self.is_over = True
            self.lock.notify_all()

    def cut(self):
        with self.lock:
            self.cuts += 1
            self.lock.notify_all()


class Stub:
    def __init__(self, kept=True, key=None, models=("tiny",), documents=True):
        self.kept, self.key, self.models, self.documents = kept, key, list(models), documents
        self.sent, self.scripts, self.chats, self.streams, self.files, self.stores = [], [], {}, {}, {}, {}
        self.max_file, self.facts, self.indexing = 1000, {}, []  # indexing: what a file that is being read has, look by look: (passages, those that wait)
        self.hold_items = None  # an event that lists of messages wait for
        self.gates, self.hidden, self.is_down, self.n, self.lock = threading.Semaphore(0), {}, False, 0, threading.RLock()
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do(self):
                stub.handle(self)
            do_GET = do_POST = do_PATCH = do_DELETE = do

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        for s in self.streams.values():
            s.end()
        self.gates.release(1000)
        if self.hold_items:
            self.hold_items.set()
        self.http.shutdown()
        self.http.server_close()

    def go(self, n=1):
        self.gates.release(n)

    def restart(self):
        """What a restart loses: streams, and answers that were being written."""
        for c in self.chats.values():
            for m in c["items"].values():
                if m["state"] == "running":
                    m["state"] = "failed"
        streams, self.streams = self.streams, {}
        for s in streams.values():
            s.cut()

    def changes(self, n=None):
        """(method, path, body) of each request that changes something, and forgets them; waits for n of them."""
        while True:
            with self.lock:
                out = [s for s in self.sent if s[0] != "GET"]
                if n is None or len(out) >= n:
                    self.sent = []
                    return out
            time.sleep(0.02)

    @staticmethod
    def hang_up(h):
        """A reply that no browser takes: one sends again by itself what was not answered at all."""
        h.close_connection = True
        h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
        h.wfile.flush()
        h.connection.shutdown(2)

    # --- conversations ---

    def chat(self, key, title="", items=(), **more):
        """A conversation that is there already; items: (role, text) or a dict, each the child of the one before."""
        c = self.chats[key] = {"id": key, "object": "conversation", "title": title, "pinned": False, "settings": {}, "leaf": None, "created_at": int(time.time()),
                               "updated_at": int(time.time()), "items": {}, **more}
        for i in items:
            i = i if isinstance(i, dict) else {"role": i[0], "content": i[1]}
            self.add(c, parent=c["leaf"], **i)
        return c

    def add(self, c, role, content, parent=None, id=None, state="complete", **more):
        self.n += 1
        key = id or f"msg_{self.n:08d}"
        c["items"][key] = {"id": key, "type": "message", "role": role, "parent": parent, "content": [{"type": "output_text" if role == "assistant" else "input_text", "text": content}],
                           "state": state, "model": "tiny" if role == "assistant" else "", "receipt": RECEIPT if role == "assistant" and state != "running" else {}, "sources": {}, "error": None,
                           "created_at": int(time.time()), **more}
        c["leaf"], c["updated_at"] = key, time.time()
        return c["items"][key]

    def row(self, c, words=None):
        out = {k: v for k, v in c.items() if k != "items"} | {"live": any(s.chat is c and not s.is_over for s in self.streams.values()), "item_count": len(c["items"]), "snippet": None}
        hits = [m for m in c["items"].values() if words and words.lower() in m["content"][0]["text"].lower()]
        if hits:
            text = hits[0]["content"][0]["text"]
            at = text.lower().index(words.lower())
            out["snippet"] = {"item": hits[0]["id"], "text": text[max(0, at - 20): at + 40], "marks": [[min(at, 20), min(at, 20) + len(words)]]}
        return out if not words or hits or words.lower() in c["title"].lower() else None

    def path(self, c, leaf):
        out, kids = [], {}
        for m in c["items"].values():
            kids.setdefault(m["parent"], []).append(m["id"])
        at = leaf
        while at:
            out.insert(0, c["items"][at])
            at = c["items"][at]["parent"]
        while leaf in kids:
            leaf = kids[leaf][-1]
            out.append(c["items"][leaf])
        return [m | {"siblings": kids[m["parent"]]} for m in out]

    # --- HTTP ---

    def handle(self, h):
        url = urllib.parse.urlsplit(h.path)
        parts, query = url.path.strip("/").split("/"), dict(urllib.parse.parse_qsl(url.query))
        raw = h.rfile.read(int(h.headers.get("Content-Length") or 0))
        is_api = parts[0] in ("v1", "feedback", "metrics")
        if is_api:
            try:
                body = json.loads(raw) if raw and "json" in h.headers.get("Content-Type", "") else raw or None
            except ValueError:
                body = raw
            with self.lock:
                self.sent.append((h.command, h.path, body))
        if self.is_down:
            h.close_connection = True
            h.connection.shutdown(2)
            return
        if not is_api:
            self.page(h, url.path)
        elif self.key and h.headers.get("Authorization") != f"Bearer {self.key}":
            self.reply(h, {"error": {"message": "no such key", "code": "invalid_api_key"}}, 401)
        else:
            self.api(h, parts[1:] if parts[0] == "v1" else parts, query, body)

    def reply(self, h, body, status=200, headers=()):
        text = json.dumps(body).encode() if isinstance(body, (dict, list)) else body.encode() if isinstance(body, str) else body
        h.send_response(status)
        for name, value in {"Content-Type": "application/json" if isinstance(body, (dict, list)) else "text/html", **dict(headers)}.items():
            h.send_header(name, value)
        h.send_header("Content-Length", str(len(text)))
        h.end_headers()
        h.wfile.write(text)

    def page(self, h, path):
        path = path.removeprefix("/a/0") if path.startswith("/a/0/") else path
        f = WEB / {"/": "index.html", "/dashboard": "dashboard.html"}.get(path, path.lstrip("/"))
        if not f.is_file():
            self.reply(h, {"error": {"message": f"no {path}"}}, 404)
            return
        data = f.read_bytes().replace(b"/a/@/", b"/a/0/") if f.suffix == ".html" else f.read_bytes()
        self.reply(h, data, headers={"Content-Type": TYPES.get(f.suffix, "text/plain"), "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})

    def api(self, h, p, query, body):
        if p == ["models"]:
            self.reply(h, {"object": "list", "data": [{"id": m, "root": m, "context_length": 1000, "capabilities": ["completion", "chat"], "file_search": self.documents,
                                                           **({"max_file_bytes": self.max_file} if self.documents else {}), **self.facts.get(m, {})} for m in self.models]})
        elif p == ["chat", "completions"]:
            self.answer(h, body)
        elif p[0] == "streams":
            self.stream(h, p)
        elif p[0] == "conversations" and not self.kept:
            self.reply(h, {"error": {"message": "this path does not take this method"}}, 405)
        elif p[0] == "conversations":
            self.conversations(h, p[1:], query, body)
        elif p[0] == "feedback":
            self.reply(h, {"feedback_id": "f"})
        else:
            self.documents_api(h, p, body)

    def conversations(self, h, p, query, body):
        if not p:
            rows = [r for r in (self.row(c, query.get("query")) for c in self.chats.values()) if r]
            rows.sort(key=lambda r: (not r["pinned"], -r["updated_at"]))
            at = next((i + 1 for i, r in enumerate(rows) if r["id"] == query.get("after")), 0)
            page = rows[at: at + int(query.get("limit", 50))]
            self.reply(h, {"object": "list", "data": page, "first_id": None, "last_id": page[-1]["id"] if page else None, "has_more": at + len(page) < len(rows)})
        elif p[0] == "export":
            self.reply(h, "# exported\n" if query["format"] == "md" else {"version": 1, "conversations": list(self.chats)})
        elif p[0] == "import":
            self.reply(h, {"object": "import", "conversations": len(body["conversations"]), "items": 0, "ids": []})
        elif len(p) == 2 and p[1] == "restore" and p[0] in self.hidden:
            self.chats[p[0]] = self.hidden.pop(p[0])
            self.reply(h, self.row(self.chats[p[0]]))
        elif p[0] not in self.chats:
            self.reply(h, {"error": {"message": "no such conversation"}}, 404)
        elif len(p) > 2 and p[1] == "items":
            self.one_message(h, self.chats[p[0]], p[2])
        elif h.command == "DELETE":
            self.hidden[p[0]] = self.chats.pop(p[0])
            self.reply(h, {"id": p[0], "deleted": True})
        elif h.command == "PATCH":
            self.chats[p[0]].update(body)
            self.reply(h, self.row(self.chats[p[0]]))
        elif len(p) == 1:
            self.reply(h, self.row(self.chats[p[0]]))
        else:
            if self.hold_items:
                self.hold_items.wait()
            c = self.chats[p[0]]
            if query.get("leaf", c["leaf"]) not in c["items"] and c["items"]:
                self.reply(h, {"error": {"message": "no such message"}}, 404)
                return
            all_ = self.path(c, query.get("leaf", c["leaf"])) if c["items"] else []
            end = next((i for i, m in enumerate(all_) if m["id"] == query.get("before")), len(all_))
            first = max(0, end - int(query.get("limit", 60)))
            self.reply(h, {"object": "list", "data": all_[first:end], "has_more": first > 0})

    def one_message(self, h, c, key):
        """DELETE and POST …/restore: what follows a message hangs below its parent until it is back."""
        if h.command == "DELETE":
            m = c["items"].pop(key)
            below = [x for x in c["items"].values() if x["parent"] == key]
            self.hidden[key] = (m, below, c["leaf"])
            for x in below:
                x["parent"] = m["parent"]
            if c["leaf"] == key:
                c["leaf"] = m["parent"]
        else:
            m, below, c["leaf"] = self.hidden.pop(key)
            c["items"][key] = m
            for x in below:
                x["parent"] = key
        self.reply(h, {"id": key, "deleted": h.command == "DELETE"})

    def documents_api(self, h, p, body):
        if p == ["files"]:
            key = f"file-{len(self.files) + 1}"
            name = body.split(b'filename="')[1].split(b'"')[0].decode()
            self.files[key] = {"id": key, "object": "vector_store.file", "filename": name, "usage_bytes": len(body), "status": "completed", "chunk_count": 3, "last_error": None}
            self.reply(h, self.files[key])
        elif p[0] == "files" and h.command == "DELETE":
            self.files.pop(p[1], None)
            for s in self.stores.values():
                s["files"] = [f for f in s["files"] if f != p[1]]
            self.reply(h, {"id": p[1], "deleted": True})
        elif p == ["vector_stores"] and h.command == "POST":
            self.reply(h, self.shown(self.store(body["name"])))
        elif p == ["vector_stores"]:
            self.reply(h, {"object": "list", "data": [self.shown(s) for s in self.stores.values()], "has_more": False})
        elif len(p) == 3 and h.command == "POST":
            self.stores[p[1]]["files"].append(body["file_id"])
            self.reply(h, {"id": body["file_id"], "status": "in_progress"})
        elif len(p) == 3:
            self.reply(h, {"data": [self.files[f] for f in self.stores[p[1]]["files"]]})
        elif len(p) == 5:
            self.reply(h, {"data": [{"type": "text", "chunk_id": "c0", "text": "Before."}, {"type": "text", "chunk_id": "c1", "text": "The quagga died out in 1883. It was a zebra."}]})
        elif self.indexing:
            all_, waiting = self.indexing.pop(0)
            self.reply(h, self.files[p[3]] | {"status": "in_progress", "chunk_count": all_, "waiting_chunks": waiting})
        else:
            self.reply(h, self.files[p[3]])

    def store(self, name, **more):
        key = f"vs_{len(self.stores) + 1}"
        self.stores[key] = {"id": key, "name": name, "files": [], **more}
        return self.stores[key]

    @staticmethod
    def shown(s):
        return {"id": s["id"], "name": s["name"], "file_counts": {"completed": len(s["files"]), "total": len(s["files"])}}

    # --- answers ---

    def answer(self, h, body):
        with self.lock:
            script = self.scripts.pop(0) if self.scripts else [("say", "Hello.")]
            if script[0][0] == "status":
                _, code, text, headers = (*script[0], {}, {})[:4]
                self.reply(h, text, code, headers)
                return
            if script[0][0] == "drop":
                self.hang_up(h)
                return
            again = next((x for x in self.streams.values() if "message_id" in body and x.asked == body["message_id"]), None)
            s = again or self.accept(body)
            self.streams[s.key] = s
            s.asked = body.get("message_id")
        if script[0][0] == "lost":
            self.hang_up(h)
        if again:
            if script != [("say", "Hello.")]:
                self.scripts.insert(0, script)  # it is the next question's
        else:
            threading.Thread(target=self.play, args=(s, script), daemon=True).start()
        if script[0][0] == "lost":
            return
        h.send_response(200)
        h.send_header("Content-Type", "text/event-stream")
        if h.headers.get("X-Sparing-Stream") == "keep":
            h.send_header("X-Sparing-Stream-Id", s.key)
        self.follow(h, s, 0)

    def accept(self, body):
        c, m = self.chats.get(body.get("conversation")), None
        if "conversation" in body:
            c = c or self.chat(body["conversation"])
            asked = [x for x in body["messages"] if x["role"] == "user"]
            key = body["message_id"]
            if asked:
                c["title"] = c["title"] or asked[0]["content"][:40]
                self.add(c, "user", asked[0]["content"], body.get("parent"), key)
                m = self.add(c, "assistant", "", key, key + "-a", "running")
            else:
                old = c["items"][body["parent"]]
                goes_on = old["role"] == "assistant"
                m = self.add(c, "assistant", old["content"][0]["text"] if goes_on else "", old["parent"] if goes_on else old["id"], key, "running")
        self.n += 1
        return Stream(f"str_{self.n}", c, m)

    def play(self, s, script):
        reason, usage = "stop", USAGE
        chunk = lambda delta, reason=None, **more: s.put({"id": s.message["id"] if s.message else "chatcmpl-1", "model": "tiny", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})  # noqa: E731
        for what, *rest in script:
            if what == "gate":
                self.gates.acquire()
            if s.is_over:
                return
            if what == "say":
                if s.message:
                    s.message["content"][0]["text"] += rest[0]
                chunk({"content": rest[0]})
            elif what == "think":
                chunk({"reasoning_content": rest[0]})
            elif what == "progress":
                s.put(rest[0], "sparing.progress")
            elif what == "cut":
                s.cut()
            elif what == "sources":
                more = dict(rest[0])
                chunk({"annotations": more.pop("annotations", [])}, search={"note": more.pop("note", None)}, **{"retrieved": [], "facts": [], **more})
            elif what == "finish":
                reason = rest[0]
            elif what == "error":
                if s.message:
                    s.message["state"] = "failed"
                s.put({"error": rest[0]})
                s.end()
                return
        chunk({}, reason)
        s.put({"choices": [], "usage": usage})
        if s.message:
            s.message.update(state="cut" if reason == "length" else "complete", receipt=RECEIPT)
        s.put("[DONE]")
        s.end()

    def follow(self, h, s, at):
        h.send_header("Connection", "close")
        h.end_headers()
        h.close_connection = True
        cuts = s.cuts
        try:
            while True:
                with s.lock:
                    s.lock.wait_for(lambda: len(s.events) > at or s.is_over or s.cuts != cuts, 0.2)
                    new, over, is_cut = s.events[at:], s.is_over, s.cuts != cuts
                at += len(new)
                for e in new:
                    h.wfile.write(e.encode())
                h.wfile.flush()
                if is_cut or over or self.is_down:
                    break
        except OSError:
            pass
        try:
            h.connection.shutdown(2)
        except OSError:
            pass

    def stream(self, h, p):
        if len(p) == 1:
            self.reply(h, {"object": "list", "data": [{"id": s.key, "object": "stream", "conversation": s.chat["id"] if s.chat else "", "message": s.asked or "",
                                                       "answer": s.message["id"] if s.message else "", "live": not s.is_over, "last_event": len(s.events)} for s in self.streams.values()]})
        elif p[1] not in self.streams:
            self.reply(h, {"error": {"message": "no such stream"}}, 404)
        elif h.command == "DELETE":
            s = self.streams[p[1]]
            if s.message and not s.is_over:
                s.message["state"] = "stopped"
            s.end()
            self.reply(h, {"id": p[1], "deleted": True})
        else:
            h.send_response(200)
            h.send_header("Content-Type", "text/event-stream")
            self.follow(h, self.streams[p[1]], int(h.headers.get("Last-Event-ID", 0)))
