"""Methods that run both bases, on bases of true names and shapes: an adapter that nobody here made, from end to end.

    OMP_NUM_THREADS=1 python bench/activations.py [--methods calibrated,auto] [--folder FOLDER]

The bases are random (see bench/true_shapes.py), so fidelity cannot be asked; what is asked is whether two models of
some 800 million parameters run, what that takes, and which of the adapter's sites get an update. The probe is as small
as one can be (two pictures of 16x16 latents, one step each), and only the sites of the adapter are compiled: those of
attention, 1280 wide at most. Tokenizer and scheduler are those of examples/digits.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.true_shapes import CONFIGS, make_base  # noqa: E402 - after the path
from lorax.adapter import Site  # noqa: E402
from lorax.base_model import BaseModel  # noqa: E402
from lorax.base_pair import pairing  # noqa: E402
from lorax.calibration import collect_statistics  # noqa: E402
from lorax.checkpoint import open_checkpoint  # noqa: E402
from lorax.compile import compilation  # noqa: E402
from lorax.convert import Conversion, convert_adapters, norm_shares  # noqa: E402
from lorax.load_model import load_pair  # noqa: E402
from lorax.plan import Plan  # noqa: E402
from lorax.probe import ProbeSettings  # noqa: E402
from lorax.probes import PROBES  # noqa: E402
from lorax.read import AdapterFiles, read_adapter  # noqa: E402
from tasks.bases import known_base  # noqa: E402

DIGITS = ROOT / "examples" / "digits"
ADAPTER = DIGITS / "catalogue" / "pokemon_sd15.safetensors"
PROBE = ProbeSettings(prompts=("a house", "a tree"), samples=2, timesteps=(300, 700), steps=1, guidance=1.0)
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


def make_pipeline(folder: Path, base: BaseModel, parent: BaseModel | None) -> Path:
    """Writes a base that can be run, for small pictures, and returns its folder."""
    make_base(folder, base, parent=parent)
    (folder / "unet" / "config.json").write_text(json.dumps({**CONFIGS[base.version], "sample_size": 16}))
    (folder / "text_encoder" / "config.json").write_text(json.dumps(CLIP))
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(DIGITS / "bases" / "digits-v1" / part, folder / part)
    shutil.copy(DIGITS / "bases" / "digits-v1" / "model_index.json", folder)
    return folder


def measure(folder: Path, methods: list[str]) -> None:
    """Prints what each method makes of the adapter, and what it takes."""
    names = ("sd1.5", "bk-sdm-small")
    known = [known_base(name) for name in names]
    folders = [
        make_pipeline(folder / name, base, parent)
        for name, base, parent in zip(names, known, (None, known[0]), strict=True)
    ]
    source, target = (open_checkpoint(each, name=each.name) for each in folders)
    adapter = read_adapter(AdapterFiles(ADAPTER), candidates=[source.base])
    began = time.process_time()
    models = load_pair(source.folder, target.folder)
    probe = PROBES["neutral"].draw(*models, None, PROBE)
    wanted = {
        site: origin
        for site, origin in pairing(source, target).items()
        if isinstance(origin, Site) and origin in adapter.updates
    }
    statistics = collect_statistics(*models, pairs=wanted, probe=probe)
    print(
        f"statistics of {len(statistics)} sites: {time.process_time() - began:.0f} CPU seconds, models loaded",
        flush=True,
    )
    for method in methods:
        began = time.process_time()
        work = compilation(source, target, method=method, settings={})
        sites = [work.site(index, statistics) for index, (site, _) in enumerate(work.matches) if site in wanted]
        (found,) = convert_adapters(Plan(work.head, tuple(sites)), [adapter])
        spent = time.process_time() - began
        kept = f"{norm_shares(found).kept:.0%} of norm² kept" if isinstance(found, Conversion) else found.reason
        planned = sum(site.term is not None for site in sites)
        print(f"{method}: {planned} of {len(adapter.updates)} sites, {kept}, {spent:.0f} CPU seconds", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB, both models in float32 among it")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="calibrated,procrustes,auto")
    parser.add_argument("--folder", type=Path, help="where some gigabytes go for a while; otherwise a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        measure(Path(folder), chosen.methods.split(","))


if __name__ == "__main__":
    main()
