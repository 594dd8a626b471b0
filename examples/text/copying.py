"""Print what plain copying does: the loss of each adapter of text-v1 on another base, and the share of lift it keeps.

python examples/text/copying.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # so that `examples.text` is found when this file is run as a script

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from examples.text.measure import loss  # noqa: E402

TARGETS = ("text-v2", "text-other")


def copied_loss(target: str, domain: str) -> float:
    """Gives nats per byte of a target base with the adapter of text-v1, on the domain's held-out sample."""
    base = AutoModelForCausalLM.from_pretrained(HERE / "bases" / target, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(HERE / "adapters" / domain)).eval()
    return loss(model, (HERE / "held_out" / f"{domain}.txt").read_bytes())


def main() -> None:
    """Prints a row per domain."""
    natives = json.loads((HERE / "index.json").read_text())["natives"]
    print("| domain | " + " | ".join(f"`{target}`" for target in TARGETS) + " |")
    for native in (one for one in natives if one["base"] == TARGETS[0] and one["seed"] == 0):
        cells = []
        for target in TARGETS:
            own = next(
                one for one in natives if (one["base"], one["domain"], one["seed"]) == (target, native["domain"], 0)
            )
            found, without = copied_loss(target, native["domain"]), own["held_out_loss_without"]
            kept = (without - found) / (without - own["held_out_loss_with"])
            cells.append(f"{found:.2f} ({kept:.2f})")
        print(f"| `{native['domain']}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
