"""Which parameter a LoRA of peft's target_parameters is for: the name in the file is that of the module around it.

peft wraps a module once for each of its parameters, in the order in which the module holds them, so the first one lies
innermost: `experts.base_layer.lora_A` is for gate_up_proj and `experts.lora_A` for down_proj.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INNER = "base_layer"
# The order in which the experts of transformers hold their parameters.
_ORDER = ("gate_proj", "up_proj", "gate_up_proj", "w1", "w2", "w3", "input_linear", "down_proj", "output_linear")


def parameter_respelling(parameters: Sequence[str]) -> Callable[[str], str]:
    """Gives what puts the parameter's name behind the module's: "….experts" becomes "….experts.down_proj"."""
    by_module: dict[str, list[str]] = {}
    for parameter in dict.fromkeys(parameters):
        module, _, name = parameter.rpartition(".")
        by_module.setdefault(module, []).append(name)
    for names in by_module.values():
        names.sort(key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))

    def respell(spelling: str) -> str:
        bare, depth = spelling, 0
        while bare.endswith(f".{INNER}"):
            bare, depth = bare.removesuffix(f".{INNER}"), depth + 1
        for module, names in by_module.items():
            if (not module or bare == module or bare.endswith(f".{module}")) and depth < len(names):
                return f"{bare}.{names[len(names) - 1 - depth]}"
        return bare

    return respell


def nested_name(module: str, parameter: str, written: Sequence[str]) -> str:
    """Gives the name that peft has for the LoRA of a parameter when these parameters of the module have one."""
    ordered = sorted(written, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return module + f".{INNER}" * (len(ordered) - 1 - ordered.index(parameter))
