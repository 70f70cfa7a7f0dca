"""A small W&B server: what it is sent is kept in memory, so that tests see what `wandb sync` and online runs send.

It answers the few requests that runs, and agents of a sweep of method grid, need, as their names and fields are in the
client of wandb 0.31.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "0123456789" * 4


@dataclass
class Stored:
    """A run as the server has it: history, summary, config, sweep, whether it has ended, and the names of its files."""

    history: list[str] = field(default_factory=list)
    summary: str = "{}"
    config: str = "{}"
    name: str = ""
    sweep: str | None = None
    is_complete: bool = False
    files: set[str] = field(default_factory=set)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.history]


@dataclass
class Sweep:
    """A sweep as the server has it: what was asked for, the points that no agent has yet, and the ids of its runs."""

    config: str
    points: list[dict[str, Any]]
    run_ids: list[str] = field(default_factory=list)


class Server:
    """Serves while it is open; a context manager.

    Args:
        runs: what it has already.
    """

    def __init__(self, runs: dict[str, Stored] | None = None) -> None:
        self.runs = {} if runs is None else runs
        self.artifacts: list[str] = []
        self.committed: list[str] = []  # artifacts, of which all files have come
        self.uploads: dict[str, int] = {}  # bytes of files, by their paths
        self.sweeps: dict[str, Sweep] = {}
        self.refusal: int | None = None  # status of every answer from now on
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Goes away, as a network does."""
        self._http.shutdown()
        self._http.server_close()

    def named(self, name: str) -> Stored:
        (run,) = [run for run in self.runs.values() if run.name == name]
        return run

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Returns what GraphQL is asked for."""
        project = {"id": "p", "name": "searchkit", "entity": {"id": "e", "name": "me"}}
        match operation:
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "UpsertBucket":
                is_new = given["name"] not in self.runs
                run = self.runs.setdefault(given["name"], Stored())
                run.name, run.config = given.get("displayName") or run.name, given.get("config") or run.config
                run.sweep = given.get("sweep") or run.sweep
                return {
                    "upsertBucket": {"bucket": self._bucket(given["name"]) | {"project": project}, "inserted": is_new}
                }
            case "RunResumeStatus":
                bucket = self._bucket(given["name"]) if given["name"] in self.runs else None
                return {"model": {**project, "bucket": bucket}}
            case "CreateRunFiles":
                self.runs[given["run"]].files |= set(given["files"])
                files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
            case "UpsertSweep":
                name = f"sweep{len(self.sweeps)}"
                self.sweeps[name] = _sweep(given["config"])
                return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}
            case "SweepWithRuns":
                found = {"config": self.sweeps[given["sweep"]].config, "runs": {"edges": []}}
                return {"project": {"sweep": found}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": given["sweep"]}}}
            case "Heartbeat":
                commands = [] if json.loads(given["runState"]) else [self._next_command(given["id"])]
                return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                self.artifacts.append(given["input"]["artifactCollectionName"])
                sequence = {"id": "s", "latestArtifact": None}
                artifact = {"id": f"a{len(self.artifacts)}", "state": "PENDING", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                manifest = {"id": "m", "file": self._upload("manifest")}
                return {operation[0].lower() + operation[1:]: {"artifactManifest": manifest}}
            case "CreateArtifactFiles":
                files = [
                    self._upload(one["name"]) | {"artifact": {"id": one["artifactID"]}}
                    for one in given["input"]["artifactFiles"]
                ]
                return {"createArtifactFiles": {"files": {"edges": [{"node": one} for one in files]}}}
            case "CommitArtifact":
                self.committed.append(given["artifactID"])
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
        return {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def _upload(self, name: str) -> dict[str, Any]:
        """Returns where a file of an artifact is to be sent."""
        known = {"id": name, "name": name, "displayName": name, "storagePath": name}
        return {**known, "uploadUrl": f"{self.url}/artifacts/{name}", "uploadHeaders": [], "uploadMultipartUrls": None}

    def _next_command(self, name: str) -> dict[str, Any]:
        """Returns what an agent that waits is to do."""
        sweep = self.sweeps[name]
        if not sweep.points:
            return {"type": "exit"}
        sweep.run_ids.append(f"{name}run{len(sweep.run_ids)}")
        return {"type": "run", "run_id": sweep.run_ids[-1], "program": "unused", "args": sweep.points.pop(0)}

    def _bucket(self, id: str) -> dict[str, Any]:
        run = self.runs[id]
        tail = json.dumps(run.history[-1:])
        lines = {"logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0}
        said = {"summaryMetrics": run.summary, "config": run.config, "displayName": run.name, "historyTail": tail}
        return {"id": f"b-{id}", "name": id, "eventsTail": "[]", "tags": [], "wandbConfig": '{"t": 1}', **lines, **said}

    def stream(self, id: str, sent: dict[str, Any]) -> None:
        """Takes lines of a run's files."""
        run = self.runs[id]
        run.is_complete = bool(sent.get("complete"))
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.history[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
            elif name == "wandb-summary.json":
                run.summary = part["content"][-1]


def _sweep(config: str) -> Sweep:
    parameters = yaml.safe_load(config)["parameters"]
    values = [one.get("values", [one.get("value")]) for one in parameters.values()]
    points = [
        {name: {"value": value} for name, value in zip(parameters, point, strict=True)}
        for point in itertools.product(*values)
    ]
    return Sweep(config, points)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Says nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        self.server_state.uploads[self.path] = len(self._body())
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server_state.refusal is not None:
            self._send({"errors": [{"message": "permission denied"}]}, status=self.server_state.refusal)
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation) (\w+)", asked["query"])
            assert operation is not None
            self._send({"data": self.server_state.answer(operation[1], asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.server_state.stream(self.path.split("/")[-2], json.loads(body))
        self._send({"exitcode": None, "limits": {}})

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, answer: dict[str, Any], *, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
