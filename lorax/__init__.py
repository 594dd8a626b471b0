"""lorax carries LoRA adapters from one base model to another: tensors and files in, tensors and files out."""

__version__ = "0.1.0"
