"""Every page of the documentation is followed: its blocks are run, or are known not to be."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import torch

from ckmigrate.cli.app import app
from ckmigrate.compile import start, trace
from ckmigrate.meta import Meta
from ckmigrate.revisions.script import read_script
from tests.pages import ROOT, Reader, blocks, commands, tools
from tests.scripted import schema

DOCS = ROOT / "docs"
GENERATED = {"commands.md", "cookbook.md", "errors.md", "operations.md"}
"""Pages that their generators hold; the scripts of the cookbook are run by tests/cookbook."""
PAGES = sorted(p for p in DOCS.glob("*.md") if p.name not in GENERATED)

NOT_RUN = {
    "batch.md": {
        "5 checkpoints, 41 GB, 1:32 min": "times differ; test_report_batch.py prints this table",
        "ckmigrate upgrade runs/ --out-dir migrated --keep-going --json-lines": "needs jq",
    },
    "checkpoints.md": {
        "ckmigrate upgrade llama/ -o llama-new": "one model in every way; see test_cli_folders.py",
        "ckmigrate upgrade step-1000 -o step-1000-new": "the same of DCP; see test_cli_dcp.py",
        "[tool.ckmigrate]\nweights": "an excerpt, about files of the reader's",
        "names = {id(p): n for n, p in": "lines for the reader's training code",
        "[tool.ckmigrate]\ncarry": "an excerpt, about a class of the reader's",
    },
    "migrations.md": {
        '"""Split the attention projection."""': "run by a test below",
        "from ckmigrate import Checkpoint, concat": "run by a test below",
        "def verify(old, new):": "run by a test below",
        "def upgrade(ck: Checkpoint) -> None:": "run by a test below",
    },
    "python.md": {
        "MigratedOnLoad: old.pt is at base": "a line of the output above it",
        "import torch.distributed.checkpoint as dcp": "about a training run of the reader's",
        "from lightning.pytorch import Trainer": "about a training run of the reader's",
        "from transformers import Trainer": "about a training run of the reader's",
    },
    "resume.md": {
        "names = {id(p): name for name, p in": "lines for the reader's training code",
        "ckmigrate upgrade last.pt -o resumed.pt --param-order": "see test_resume_optimizers.py",
        "[tool.ckmigrate]\nmodel": "an excerpt, about code of the reader's",
        'ck.compute("scale", "log_scale"': "a line; see test_compute.py",
        'ck.meta.rename("hyper_parameters.n_head"': "lines; see test_resume_backbone.py",
        "ckmigrate upgrade last.ckpt -o resumed.ckpt": "one run in every way; see tests/resume",
    },
    "performance.md": {"python -m benchmarks --list": "takes minutes; see test_benchmarks.py"},
}
"""Why a block that begins so is not run: all others of all pages are."""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_block_runs_or_says_why_not(page: Path) -> None:
    idle = [block for block in blocks(page) if not block.runs]
    known = NOT_RUN.get(page.name, {})
    begins = [next((b for b in known if block.text.startswith(b)), None) for block in idle]
    assert begins == list(known), "say in NOT_RUN why a block is not run, or run it"
    assert all(block.kind for block in idle), "every block names its language"


def test_the_scripts_on_the_page_about_writing_them_do_what_is_said(tmp_path: Path) -> None:
    idle = [block.text for block in blocks(DOCS / "migrations.md") if not block.runs]
    whole, excerpt, invariant, metadata = idle
    first = tmp_path / "0001_split.py"
    first.write_text(whole, encoding="utf-8")
    named = {f"transformer.blocks.{i}.attn.qkv.weight": (12, 4) for i in range(2)}
    split = trace([read_script(first)], start(schema(named)), {}).end
    assert sorted(split.entries)[0] == "encoder.blocks.0.attn.k.weight"
    assert split.schema["encoder.blocks.1.attn.v.weight"].shape == (4, 4)
    second = tmp_path / "0002_join.py"
    literals = 'revision = "0123456789"\nrevises = None\napi = 1\n\n'
    second.write_text(f"{literals}{excerpt}\n\n{invariant}", encoding="utf-8")
    joined = trace(
        [read_script(second)], start(schema({"a.weight": (8, 40), "b.weight": (5, 8)})), {}
    )
    assert joined.end.schema["ab.weight"].shape == (8, 37)
    verify = read_script(second).load().verify
    assert verify is not None
    verify({"pos": torch.zeros(2)}, {"encoder.pos": torch.zeros(2)})
    with pytest.raises(AssertionError):
        verify({"pos": torch.zeros(2)}, {"encoder.pos": torch.ones(2)})
    third = tmp_path / "0003_metadata.py"
    imports = "from ckmigrate import Checkpoint\n\n"
    third.write_text(f"{imports}{literals}{metadata}", encoding="utf-8")
    for old, new in (({"n_head": 8}, {"num_heads": 8}), ({}, {})):
        state = start(schema({"attn.w": (1,)}), meta=Meta({"hyper_parameters": dict(old)}))
        end = trace([read_script(third)], state, {}).end
        assert list(end.entries) == ["mixer.w"]
        assert end.meta.tree == {"hyper_parameters": dict(new)}


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.runs for b in blocks(p))], ids=str)
def test_following_a_page_shows_what_it_shows(page: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    assert Reader(project, tools(tmp_path / "bin")).follow(page) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_excerpts_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "python":
            ast.parse(block.text)
        elif block.kind == "toml":
            tomllib.loads(block.text)


def test_commands_that_are_not_run_are_understood() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "sh":
                for arguments in commands(block.text):
                    understood(arguments)
                    seen += 1
    assert seen > 5


def understood(arguments: list[str]) -> None:
    """UsageError where there is no such command, option or argument."""
    root = click.Context(app, info_name="ckmigrate")
    name, *rest = arguments
    command = app.get_command(root, name)
    assert command is not None, f"there is no command {name}"
    with command.make_context(name, rest, parent=root):
        pass


@pytest.mark.parametrize("command", [["gone"], ["plan", "--gone", "x"]])
def test_a_command_that_does_not_exist_is_noticed(command: list[str]) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        understood(command)


def test_every_page_is_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w-]+)$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == listed


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="the site's generator is not installed; CI runs `make site`",
)
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html"]
    subprocess.run([*build, str(DOCS), str(tmp_path)], check=True, cwd=ROOT)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    fetched = re.compile(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?:https?:)?//")
    assert not [p.name for p in pages if fetched.search(p.read_text(encoding="utf-8"))]
    assert not [
        p
        for p in tmp_path.rglob("*.css")
        if re.search(r"(url\(|@import)\W*(https?:)?//", p.read_text())
    ]
