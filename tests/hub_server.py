"""A Hugging Face Hub on this machine with the few calls that loading and uploading need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import close_session


class Hub:
    """Repositories by name: a commit for every revision, and the files of each commit.

    asked: every request. tokens: the Authorization header of every one that changes something.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.revisions: dict[str, dict[str, str]] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.tokens: list[str] = []

    def put(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        self.revisions.setdefault(name, {})["main"] = commit
        self.files[name, commit] = files


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        """Create a repository, say how files are to be sent, or take a commit with their content inside."""
        self.hub.asked.append(f"{self.command} {self.path}")
        self.hub.tokens.append(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.strip("/").split("?")[0].split("/")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.send(200, json.dumps({"url": f"{self.hub.url}/{name}", "id": name}).encode(), {})
        elif parts == ["api", "validate-yaml"]:
            self.send(200, json.dumps({"errors": [], "warnings": []}).encode(), {})
        elif parts[4] == "preupload":
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": one["path"], **how} for one in json.loads(body)["files"]]
            self.send(200, json.dumps({"files": files}).encode(), {})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            sent = [line["value"] for line in lines if line["key"] == "file"]
            commit = hashlib.sha1(body).hexdigest()
            self.hub.put("/".join(parts[2:4]), commit, {one["path"]: base64.b64decode(one["content"]) for one in sent})
            url = f"{self.hub.url}/{parts[2]}/{parts[3]}/commit/{commit}"
            self.send(200, json.dumps({"commitOid": commit, "commitUrl": url, "success": True}).encode(), {})

    def answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("?")[0].split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            commit = self.hub.revisions.get(name, {}).get(revision)
            if commit is None:
                self.send(
                    404, b"{}", {"X-Error-Code": "RevisionNotFound" if name in self.hub.revisions else "RepoNotFound"}
                )
            else:
                siblings = [{"rfilename": file} for file in self.hub.files[name, commit]]
                self.send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), {})
            return
        name, commit, file = "/".join(parts[:2]), "".join(parts[3:4]), "/".join(parts[4:])
        content = self.hub.files.get((name, commit), {}).get(file)
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            tag = hashlib.sha256(content).hexdigest()
            self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """An empty Hub that runs until the block ends."""
    close_session()  # the client keeps the proxies of the first call
    handler = type("OneHub", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
