"""Upgrade the checkpoint of release 1.0 to today's architecture, measure both, train on from both.

`python -m examples.digits.demo` runs the `ckmigrate` command that is installed beside the Python
that runs it. It ends with exit code 1 if the accuracy or the logits differ, or if training does not
go on from the upgraded checkpoint as it does from the old one.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from examples.digits.evaluate import CHECKPOINT, accuracy, load, logits
from examples.digits.resume import next_losses

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "out" / "digits-2.0.pt"
TOLERANCE = 1e-4


def run(*arguments: str, expected: tuple[int, ...] = (0,)) -> None:
    """Echo a ckmigrate command, run it in the repository, end the demo if it fails."""
    print(f"\n$ {shlex.join(('ckmigrate', *arguments))}", flush=True)
    command = Path(sys.executable).with_name("ckmigrate")
    if not command.exists():
        raise SystemExit(f"{command} does not exist; install the project first: pip install -e .")
    code = subprocess.run([command, *arguments], cwd=ROOT, check=False).returncode
    if code not in expected:
        raise SystemExit(f"ckmigrate {arguments[0]} ended with exit code {code}")


def compare() -> bool:
    """Print what both models say to the held-out images; whether they say the same."""
    old, new = load(CHECKPOINT, "v1_0"), load(OUTPUT)
    before, after = accuracy(old), accuracy(new)
    # Release 1.0 had six further classes, which no image belongs to.
    difference = (logits(old)[:, :10] - logits(new)).abs().max().item()
    print(f"\nrelease 1.0, its own architecture      accuracy {before:.4%}")
    print(f"the same weights, today's architecture accuracy {after:.4%}")
    print(f"largest difference between logits      {difference:.1e}")
    return before == after and difference <= TOLERANCE


def resume() -> bool:
    """Print the next losses of both; whether today's model goes on as the old one does."""
    old, new = next_losses(CHECKPOINT, "v1_0"), next_losses(OUTPUT, "current")
    fresh = next_losses(OUTPUT, "current", forget=True)
    print("\ntraining goes on with the optimizer of each: loss of the next batches")
    print("  release 1.0      today")
    for one, other in zip(old, new, strict=True):
        print(f"  {one:11.6f}  {other:9.6f}")
    print(f"largest difference                     {distance(old, new):.1e}")
    print(f"with a fresh optimizer it would be     {distance(old, fresh):.1e}")
    return distance(old, new) <= TOLERANCE < distance(old, fresh)


def distance(one: list[float], other: list[float]) -> float:
    """The largest difference between losses of one step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Identify, plan, upgrade, compare, resume."""
    source, target = (str(path.relative_to(ROOT)) for path in (CHECKPOINT, OUTPUT))
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.unlink(missing_ok=True)
    # Exit code 1 is the answer "an upgrade is pending", not a failure.
    run("current", source, expected=(0, 1))
    run("plan", source, expected=(0, 1))
    run("upgrade", source, "-o", target)
    run("current", target)
    if not compare():
        raise SystemExit("the upgrade changed what the model computes")
    if not resume():
        raise SystemExit("training does not go on from the upgraded checkpoint")


if __name__ == "__main__":
    main()
