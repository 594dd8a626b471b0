"""What a small migration leaves in a ledger: one adapter of each fate, told as the flow tells it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from catalogs.entry import CatalogEntry, Terms
from catalogs.policy import Policy, decide

MIGRATION = "digits-v1-to-v2"
PLAN = hashlib.sha256(b"plan").hexdigest()
SOURCE_FINGERPRINT = hashlib.sha256(b"v1").hexdigest()
TARGET_FINGERPRINT = hashlib.sha256(b"v2").hexdigest()

LOST = "unet:mid_block.attentions.0.proj_in"
"""The site of every conversion of the story that has no home in the target."""

Fact = tuple[str, str, Mapping[str, object]]


def digest(text: str) -> str:
    """Returns a sha256 that stands for some content."""
    return hashlib.sha256(text.encode()).hexdigest()


def entry(stem: str, **changes: object) -> CatalogEntry:
    """Returns an entry as the folder source would make it."""
    values: dict[str, object] = {
        "catalogue": "digits",
        "entry_id": f"{stem}.safetensors",
        "name": stem.title(),
        "weights": f"/catalogue/{stem}.safetensors",
        "base_label": "Digits v1",
        "terms": Terms(licence="cc-by-4.0", allow_derivatives=True),
        "trigger_words": (f"{stem} style",),
        "size_bytes": 81920,
        "origin": f"https://civitai.com/models/7?modelVersionId={len(stem)}",
        "creator": "somebody",
    }
    return CatalogEntry(**{**values, **changes})  # type: ignore[arg-type]


def started(run_id: str, *, migration: str = MIGRATION) -> Fact:
    """A run begins."""
    settings = {"name": migration, "gate": {"divergence_gain": 0.5}, "pairs": [{"method": "calibrated"}]}
    return ("run_started", run_id, {"migration": migration, "settings": settings, "code_version": "0.1.0+abc1234"})


def seen(one: CatalogEntry) -> Fact:
    """The source names an entry and the policy decides."""
    return ("entry_seen", one.key, {"entry": one.to_json(), "decision": decide(one, Policy()).to_json()})


def stored(one: CatalogEntry) -> Fact:
    """The entry's weights reach the store."""
    body = {"entry_key": one.key, "size": one.size_bytes, "role": "weights"}
    return ("file_stored", digest(one.entry_id), body)


def read(one: CatalogEntry) -> Fact:
    """The file turns out to be an adapter."""
    body = {
        "entry_key": one.key,
        "file_sha256": digest(one.entry_id),
        "dialect": "kohya",
        "algorithms": ["lora"],
        "ranks": [4],
        "dtype": "float16",
        "sites": 24,
        "base": "digits-v1",
        "evidence": ["names and shapes: 24 of 24 modules", "ss_base_model_version: digits v1"],
        "unmappable": [["lora_te_text_projection.lora_up.weight", "no-source-site"]],
    }
    return ("adapter_read", digest(f"weights of {one.entry_id}"), body)


def compiled() -> Fact:
    """The plan of the pair is compiled."""
    similarity = [
        {
            "site": f"unet:down_blocks.{i // 8}.to_q.{i % 8}",
            "weight_distance": 0.02 * i,
            "left": 1 - 0.03 * i,
            "right": 0.9,
        }
        for i in range(24)
    ]
    body = {
        "key": digest("key"),
        "method": "calibrated",
        "settings": {"ridge": 0.01},
        "source": "digits-v1",
        "target": "digits-v2",
        "source_fingerprint": SOURCE_FINGERPRINT,
        "target_fingerprint": TARGET_FINGERPRINT,
        "path": f"plans/{PLAN}.safetensors",
        "seconds": 3.5,
        "sites": 24,
        "similarity": similarity,
    }
    return ("plan_compiled", PLAN, body)


def conversion_id(one: CatalogEntry) -> str:
    """Returns the id that this entry's conversion has in the story."""
    return digest(f"conversion of {one.entry_id}")


def converted(one: CatalogEntry) -> Fact:
    """The adapter is carried over."""
    body = {
        "entry_key": one.key,
        "weights_sha256": digest(f"weights of {one.entry_id}"),
        "plan_id": PLAN,
        "method": "calibrated",
        "source": "digits-v1",
        "target": "digits-v2",
        "files": [{"name": "out.safetensors", "sha256": digest(f"out of {one.entry_id}"), "size": 80000}],
        "weights_sha256_out": digest(f"out weights of {one.entry_id}"),
        "kept_norm": 0.97,
        "dropped_norm_share": 0.0125,
        "sites_total": 24,
        "sites_mapped": 23,
        "dialect": "diffusers",
        "dropped_sites": [{"site": LOST, "target": None, "kept_norm": 0.0, "reason": "no-target-site", "norm": 0.5}],
        "seconds": 0.25,
    }
    return ("converted", conversion_id(one), body)


def scored(one: CatalogEntry, gain: float, *, images: str = "") -> Fact:
    """The conversion is measured beside its anchors."""

    def figures(value: float) -> dict[str, dict[str, float]]:
        return {
            "divergence_gain": {"value": value, "low": value - 0.05, "high": value + 0.05},
            "effect_cosine": {"value": min(1.0, value + 0.1), "low": value, "high": 1.0},
        }

    body: dict[str, object] = {
        "probe_id": digest("probe")[:16],
        "figures": {"converted": figures(gain), "copy": figures(gain - 0.1), "random": figures(-0.2)},
        "seconds": 2.0,
    }
    if images:
        body |= {"images": images, "image_rows": ["source", "source + adapter", "target + converted"]}
    return ("scored", conversion_id(one), body)


def judged(one: CatalogEntry, *, passed: bool) -> Fact:
    """The gate speaks."""
    reasons = [] if passed else [["gate-divergence-gain", "divergence gain 0.21 (low 0.16) is below 0.5"]]
    return ("judged", conversion_id(one), {"passed": passed, "reasons": reasons, "gate": {"divergence_gain": 0.5}})


def outcome(one: CatalogEntry, state: str, reason: str, text: str = "", *, with_conversion: bool = False) -> Fact:
    """The entry ends in a state."""
    body: dict[str, object] = {
        "work_key": digest(f"work {one.entry_id}"),
        "state": state,
        "reason": reason,
        "text": text,
        "conversion_id": conversion_id(one) if with_conversion else None,
        "entry_id": one.entry_id,
        "name": one.name,
    }
    return ("outcome", one.key, body)


BOLD = entry("bold")
FAINT = entry("faint", terms=Terms(licence="cc-by-4.0"))
LOCKED = entry("locked", terms=Terms(allow_derivatives=False))
BROKEN = entry("broken", terms=Terms(), origin="broken.safetensors")


def story(run_id: str = "run-1") -> list[Fact]:
    """Returns a whole run: one published, one rejected, one skipped, one quarantined."""
    facts = [started(run_id), *(seen(one) for one in (BOLD, BROKEN, FAINT, LOCKED))]
    facts += [stored(BOLD), stored(FAINT), stored(BROKEN), read(BOLD), read(FAINT), compiled()]
    facts += [converted(BOLD), converted(FAINT), scored(BOLD, 0.91), scored(FAINT, 0.21)]
    facts += [judged(BOLD, passed=True), judged(FAINT, passed=False)]
    manifest = {"hub": "folder", "slug": f"bold-{conversion_id(BOLD)[:8]}", "manifest_sha256": digest("manifest")}
    released = [{"name": "bold.safetensors", "sha256": digest("released bold")}]
    facts.append(("publication_intended", conversion_id(BOLD), manifest))
    facts.append(("published", conversion_id(BOLD), {**manifest, "location": "hub/bold", "files": released}))
    facts += [
        outcome(BOLD, "published", "gate-passed", with_conversion=True),
        outcome(FAINT, "rejected", "gate-divergence-gain", "0.21 is below 0.5", with_conversion=True),
        outcome(LOCKED, "skipped", "no-derivatives", "its sidecar says that derivatives are not allowed"),
        outcome(BROKEN, "quarantined", "truncated", "the header claims 4096 bytes, the file has 100"),
        ("run_finished", run_id, {"states": {"published": 1}, "seconds": {"total": 12.5}, "report": "reports/1.html"}),
    ]
    return facts
