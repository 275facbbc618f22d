import base64
import builtins
import json
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
import torch

from learned_opt import (
    Checkpoint,
    CheckpointError,
    LearnedOptimizer,
    UpdateRule,
    load_checkpoint,
    save_checkpoint,
)
from learned_opt.sharing import push_to_hub

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face Hub as an upload and a download of small files need, in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created: dict[str, dict[str, object]] = {}
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.tokens: set[str | None] = set()

    def files(self, repo: str, revision: str) -> dict[str, bytes]:
        """What a branch holds, by its name or by the commit that stands for it."""
        return next(
            files
            for (owner, branch), files in self.branches.items()
            if owner == repo and revision in (branch, commit_of(branch))
        )


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.tokens.add(self.headers.get("authorization"))
        match self.parts():
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.answer_json({"errors": [], "warnings": []})
            case ["api", "models", user, name, "branch", branch]:
                known = (f"{user}/{name}", branch) in self.server.branches
                self.server.branches.setdefault((f"{user}/{name}", branch), {})
                self.answer_json({}, status=409 if known else 200)
            case ["api", "models", _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self.answer_json({"files": modes})
            case ["api", "models", user, name, "commit", branch]:
                self.commit(f"{user}/{name}", branch, [json.loads(line) for line in body.splitlines()])
            case _:
                self.answer_json({"error": self.path}, status=404)

    def do_GET(self) -> None:
        match self.parts():
            case ["api", "models", user, name, "revision", branch]:
                self.answer_json({"id": f"{user}/{name}", "sha": commit_of(branch)})
            case ["api", "models", user, name, "tree", revision]:
                files = self.server.files(f"{user}/{name}", revision).items()
                self.answer_json(
                    [
                        {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
                        for path, data in files
                    ]
                )
            case [user, name, "resolve", revision, path]:
                data = self.server.files(f"{user}/{name}", revision)[path]
                self.answer(200, data, ETag=f'"{sha1(data).hexdigest()}"', X_Repo_Commit=revision)
            case _:
                self.answer_json({"error": self.path}, status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]

    def create(self, wanted: dict[str, object]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        known = repo in self.server.created
        self.server.created.setdefault(repo, wanted)
        self.server.branches.setdefault((repo, "main"), {})
        self.answer_json({"url": f"{self.server.url}/{repo}"}, status=409 if known else 200)

    def commit(self, repo: str, branch: str, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                data = base64.b64decode(line["value"]["content"])
                self.server.branches[repo, branch][line["value"]["path"]] = data
            else:
                self.server.messages.append(line["value"]["summary"])
        commit = commit_of(branch)
        self.answer_json({"commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"})

    def answer_json(self, value: object, *, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def commit_of(branch: str) -> str:
    return sha1(branch.encode()).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, trained) -> Path:
    rule = UpdateRule()
    save_checkpoint(tmp_path / "mine", rule.config, trained(rule), {"seed": 1})
    (tmp_path / "mine" / "state.pt").write_bytes(b"of the meta-training run")
    return tmp_path / "mine"


def test_what_is_uploaded_loads_again(hub, folder, tmp_path) -> None:
    address = push_to_hub(folder, "me/flt-mine", token="hf_secret", license="mit", private=True)
    assert address == f"{hub.url}/me/flt-mine/commit/{commit_of('main')}"
    assert hub.created["me/flt-mine"]["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_secret"}

    downloaded = huggingface_hub.snapshot_download("me/flt-mine", local_dir=tmp_path / "downloaded")
    sent, received = load_checkpoint(folder), load_checkpoint(downloaded)
    assert received.config == sent.config
    assert received.facts == {**sent.facts, "license": "mit"}
    torch.testing.assert_close(received.meta, sent.meta, rtol=0, atol=0)
    LearnedOptimizer.from_pretrained(downloaded, [torch.ones(3, requires_grad=True)])


def test_only_the_rule_is_uploaded_with_a_card_for_readers_of_the_hub(hub, folder) -> None:
    push_to_hub(folder, "me/flt-mine", license="mit")
    files = hub.files("me/flt-mine", "main")
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    card = files["README.md"].decode()
    assert 'snapshot_download("me/flt-mine")' in card
    assert 'license: "mit"' in card
    assert "README.md" in {path.name for path in folder.iterdir()}
    assert 'from_pretrained("path/to/mine"' in (folder / "README.md").read_text()


def test_a_branch_and_a_message_are_kept_and_a_second_upload_replaces_the_first(hub, trained) -> None:
    rule = UpdateRule()
    for seed in (1, 2):
        checkpoint = Checkpoint(rule.config, trained(rule, seed=seed), {"seed": seed})
        push_to_hub(checkpoint, "me/flt", revision="next", commit_message=f"Seed {seed}")
    assert hub.messages == ["Seed 1", "Seed 2"]
    assert hub.files("me/flt", "main") == {}
    assert json.loads(hub.files("me/flt", "next")["config.json"])["facts"] == {"seed": 2}


def test_a_shipped_rule_is_shared_by_name(hub) -> None:
    push_to_hub("flt-base", "me/copy")
    assert hub.messages == ["Upload a learned optimizer"]
    shipped = json.loads(hub.files("me/copy", "main")["config.json"])
    assert shipped["facts"] == load_checkpoint("flt-base").facts


def test_nothing_is_sent_of_a_rule_that_cannot_be_loaded(hub, folder) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        push_to_hub(folder, "me/flt-mine")
    assert not hub.created


def test_a_missing_hub_library_is_said_with_the_extra(folder, monkeypatch) -> None:
    importing = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "huggingface_hub":
            raise ModuleNotFoundError("No module named 'huggingface_hub'", name=name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'learned-opt\[hub\]'"):
        push_to_hub(folder, "me/flt-mine")
