"""Bytes and time that it takes to look into adapter files, against reading them whole.

    python bench/examine.py [--files 1000] [--rank 4]

Makes kohya files as they are trained on Stable Diffusion 1.5: 264 modules, three tensors each, metadata as sd-scripts
writes it. Only their headers are written; the tensors are holes, so that a thousand files take little disk. The bytes
are those that Linux says were asked for (rchar of /proc/self/io); a file that is mapped does not count there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lorax.weight_file import open_weight_file

# Blocks with attention, their widths and their transformer blocks.
ATTENTION = (
    *((f"down_blocks_{block}_attentions_{index}", 320 * 2**block) for block in range(3) for index in range(2)),
    ("mid_block_attentions_0", 1280),
    *((f"up_blocks_{block}_attentions_{index}", 320 * 2 ** (3 - block)) for block in range(1, 4) for index in range(3)),
)
TEXT_LAYERS, TEXT_WIDTH = 12, 768


def modules() -> Iterator[tuple[str, int, int]]:
    """Gives name, inputs and outputs of the modules that sd-scripts trains by default."""
    for place, width in ATTENTION:
        name = f"lora_unet_{place}"
        yield f"{name}_proj_in", width, width
        yield f"{name}_proj_out", width, width
        inner = f"{name}_transformer_blocks_0"
        for attention, context in (("attn1", width), ("attn2", 768)):
            for projection, inputs in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out_0", width)):
                yield f"{inner}_{attention}_{projection}", inputs, width
        yield f"{inner}_ff_net_0_proj", width, 8 * width
        yield f"{inner}_ff_net_2", 4 * width, width
    for layer in range(TEXT_LAYERS):
        name = f"lora_te_text_model_encoder_layers_{layer}"
        for projection in ("q", "k", "v", "out"):
            yield f"{name}_self_attn_{projection}_proj", TEXT_WIDTH, TEXT_WIDTH
        yield f"{name}_mlp_fc1", TEXT_WIDTH, 4 * TEXT_WIDTH
        yield f"{name}_mlp_fc2", 4 * TEXT_WIDTH, TEXT_WIDTH


def header(rank: int) -> tuple[bytes, int]:
    """Returns the header of an adapter in half precision, and the size of its body."""
    metadata = {f"ss_entry_{index}": "a value of usual length" for index in range(70)}
    metadata["ss_tag_frequency"] = json.dumps({"10_style": {f"tag number {index}": index for index in range(400)}})
    fields: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, inputs, outputs in modules():
        sizes = {"alpha": (), "lora_down.weight": (rank, inputs), "lora_up.weight": (outputs, rank)}
        for part, shape in sizes.items():
            end = position + 2 * (shape[0] * shape[1] if shape else 1)
            fields[f"{name}.{part}"] = {"dtype": "F16", "shape": shape, "data_offsets": [position, end]}
            position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), position


def write_files(folder: Path, *, count: int, rank: int) -> list[Path]:
    """Writes the files and returns their paths."""
    text, body = header(rank)
    start = len(text).to_bytes(8, "little") + text
    paths = [folder / f"adapter-{index:04}.safetensors" for index in range(count)]
    for path in paths:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(len(start) + body)
    return paths


def bytes_asked_for() -> int:
    """Returns how many bytes this process has asked the kernel for."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def measure(work: Callable[[Path], object], paths: Sequence[Path]) -> tuple[float, float]:
    """Returns seconds of processor time and bytes asked for, per file."""
    own = -(bytes_asked_for() - bytes_asked_for())  # what asking itself takes
    before, began = bytes_asked_for(), time.process_time()
    for path in paths:
        work(path)
    seconds = time.process_time() - began
    return seconds / len(paths), (bytes_asked_for() - before - own) / len(paths)


def official(path: Path) -> object:
    """Opens a file with safetensors, which maps it, and lists its names."""
    with safe_open(path, "numpy") as file:
        return file.keys()


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=4)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lorax-bench-"))
    try:
        paths = write_files(folder, count=chosen.files, rank=chosen.rank)
        whole = paths[0].stat().st_size
        opened = open_weight_file(paths[0])
        rows: dict[str, Callable[[Path], object]] = {
            "lorax, header only": open_weight_file,
            "safetensors, names only (maps the file)": official,
            "lorax, sha256 of the body": lambda path: open_weight_file(path).weights_sha256(),
            "reading the whole file": lambda path: len(path.read_bytes()),
        }
        printed = Table(
            title=f"{len(paths)} files of {whole:,} bytes, {len(opened.tensors)} tensors, "
            f"header of {opened.header_bytes:,} bytes"
        )
        for column in ("", "ms per file", "files per second", "bytes per file", "of the file"):
            printed.add_column(column, justify="right" if column else "left")
        for name, work in rows.items():
            seconds, asked = measure(work, paths)
            printed.add_row(
                name, f"{seconds * 1000:.2f}", f"{1 / seconds:,.0f}", f"{asked:,.0f}", f"{asked / whole:.2%}"
            )
        Console(width=120).print(printed)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
