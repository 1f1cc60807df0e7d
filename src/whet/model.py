"""A network with its tokenizer, its name and its lineage.

Hugging Face is the currency: the network is a ``transformers`` module, weights are safetensors, the folder that
:meth:`Model.save` writes loads with ``AutoModelForCausalLM.from_pretrained``. Beside the weights lies ``whet.json`` with
parents, tensor hashes, the chat template's hash and the receipts of the steps that led here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whet.errors import ModelError, unknown
from whet.nonfinite import refuse_nonfinite
from whet.weight_files import check_weights

log = logging.getLogger("whet")

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OtherTemplate = Literal["refuse", "allow"]
"""What measuring and exporting do with a chat template that is not the one stored with the weights."""
LINEAGE_FILE = "whet.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")
BUNDLED = Path(__file__).parent / "models"
"""Models shipped inside the package, by folder name."""


@dataclass(frozen=True)
class Model:
    """A network (in evaluation mode unless it is being trained), its tokenizer, name and lineage.

    ``lineage`` is what ``whet.json`` holds: ``parents`` (names and weight hashes), ``step`` (what made it), ``receipts``.
    ``quantized`` maps a linear layer's name to its codes (a ``quantize.pipeline.QuantizedLinear``) when the weights are
    the decoded values of a quantizer; it is what packed files and exports are written from.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    lineage: Mapping[str, Any] = field(default_factory=dict)
    quantized: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def device(self) -> Any:
        return self.network.device

    @property
    def context(self) -> int:
        """Longest sequence in tokens that the positions allow."""
        return int(getattr(self.config, "max_position_embeddings", 0) or 0)

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding: token ids below this can be read."""
        network: Any = self.network
        return int(network.get_input_embeddings().weight.shape[0])

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def copy(self, name: str | None = None) -> Model:
        """A model whose weights can change without changing this one's."""
        return replace(self, network=copy.deepcopy(self.network), name=name or self.name)

    def with_lineage(self, step: Mapping[str, Any], name: str, parents: list[Model] | None = None) -> Model:
        """The same network under a new name, remembering the step that made it and its parents' weight hashes."""
        lineage = {
            "parents": [
                {"name": p.name, "weights": p.lineage.get("weights"), "step": p.lineage.get("step")} for p in (parents or [self])
            ],
            "step": dict(step),
            **({"template": self.lineage["template"]} if "template" in self.lineage else {}),
        }
        return replace(self, name=name, lineage=lineage)

    def save(self, folder: str | Path, max_shard_size: str = "5GB") -> Path:
        """Writes weights, configuration, tokenizer and ``whet.json``; returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size)
        self.tokenizer.save_pretrained(folder)
        lineage = {
            **self.lineage,
            "name": self.name,
            "weights": weights_hash(self.network.state_dict()),
            "template": self.lineage.get("template") or template_hash(self.tokenizer),
        }
        (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1, default=str))
        return folder


def load_model(reference: str | Path, *, dtype: str = "auto", device: str | None = None) -> Model:
    """Loads a bundled model, a local folder or a hub id.

    Args:
        reference: ``"nano"``, a folder that ``transformers`` can load, or a hub id.
        dtype: ``auto`` keeps the checkpoint's; else ``float32``, ``bfloat16`` or ``float16``.
        device: default: the first accelerator, else the CPU.

    Raises:
        ModelError: no such model, no safetensors weights, weights that are not finite or do not fit the configuration, a
            damaged file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise ModelError(unknown("dtype", str(dtype), DTYPES))
    path, name = resolve(reference)
    if Path(path).is_dir():
        check_weights(Path(path))
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        # What a wrong configuration or tokenizer file raises in there has no common class.
        raise ModelError(f"cannot load model {str(reference)!r}: {first_lines(error)}") from error
    network, loaded = found
    _refuse_misfit(loaded, str(reference))
    refuse_nonfinite(network.state_dict(), str(reference))
    if getattr(network.config, "whet_online", None):
        from whet.online import attach

        attach(network)
    network = network.to(device or default_device())
    network.eval()
    lineage = read_lineage(Path(path))
    lineage.setdefault("weights", weights_hash(network.state_dict()))
    return Model(network, tokenizer, name, lineage)


def bundled_models() -> list[str]:
    """Names of the models shipped inside the package."""
    return sorted(p.name for p in BUNDLED.glob("*") if (p / "config.json").is_file())


def resolve(reference: str | Path) -> tuple[str, str]:
    """(what ``transformers`` loads, the model's name) of a bundled model, folder or hub id.

    Raises:
        ModelError: neither a bundled name nor a folder with a configuration and safetensors weights nor ``owner/name``.
    """
    path, bundled = Path(reference), bundled_models()
    if str(reference) in bundled:
        return str(BUNDLED / str(reference)), str(reference)
    if path.is_file():
        raise ModelError(f"{path}: this is a file; a model is a folder with config.json and *.safetensors weights")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path}: this folder is no model: it has no config.json")
        if not any(path.glob("*.safetensors")):
            pickles = [file for ending in ("bin", "pt", "pth") for file in path.glob(f"*.{ending}")]
            hint = " It has pickle weights, which can run code; convert them: model.save_pretrained(folder, safe_serialization=True)."
            raise ModelError(f"{path}: no *.safetensors weights.{hint if pickles else ''}")
        return str(path), path.name
    if path.is_absolute() or str(reference).startswith("."):
        raise ModelError(f"{reference}: no such folder")
    if "/" not in str(reference):
        raise ModelError(f"{unknown('model', str(reference), bundled)}; a local folder or a hub id (owner/name) works too")
    return str(reference), str(reference).rpartition("/")[2]


def first_lines(error: Exception) -> str:
    """What an error of another library says, as one line of at most 500 characters."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:500] or type(error).__name__


def _refuse_misfit(loaded: Mapping[str, Any], reference: str) -> None:
    """Refuses weights that leave a part of the network at random, and warns of those that the network has no place for."""
    if loaded["mismatched_keys"]:
        name, found, wanted = min((str(n), *map(tuple, shapes)) for n, *shapes in loaded["mismatched_keys"])
        raise ModelError(
            f"model {reference!r}: tensor {name!r} has shape {found} in the weights, but config.json asks for {wanted}; "
            "weights and configuration are of different models"
        )
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ModelError(
            f"model {reference!r}: the weights lack {len(missing)} tensors of the network, first {missing[0]!r}; they would "
            "be random numbers. Fetch or write the folder again"
        )
    if loaded["unexpected_keys"]:
        left = sorted(loaded["unexpected_keys"])
        log.warning(
            "model %r: the network that config.json describes has no place for %d tensors of the weights, first %r; they are "
            "not used. Is the configuration that of these weights?",
            reference,
            len(left),
            left[0],
        )


def read_lineage(folder: Path) -> dict[str, Any]:
    """What a folder's ``whet.json`` holds; empty if there is none.

    Raises:
        ModelError: the file is damaged.
    """
    file = folder / LINEAGE_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: damaged ({error}); remove this file to use the weights without their history") from error
    hashes = [found.get(key) for key in ("weights", "template", "name")] if isinstance(found, dict) else [0]
    if not all(isinstance(value, (str, type(None))) for value in hashes):
        raise ModelError(f"{file}: damaged: no lineage of a model; remove this file to use the weights without their history")
    return dict(found)


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in name order: the same weights give the same hash on any machine."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(hash_label(name, tensor.dtype, tensor.shape))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def hash_label(name: str, dtype: object, shape: Sequence[int]) -> bytes:
    """What :func:`weights_hash` puts before the bytes of a tensor."""
    return f"{name} {dtype} {tuple(shape)}".encode()


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Hash of the chat template, ``None`` if the tokenizer has none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else None


def checked_template(model: Model, other: OtherTemplate) -> Model:
    """The model, after making sure that its chat template is the one that its weights are used to.

    The hash in the lineage was written when the model was trained or first saved; a model without one is taken as it is.

    Args:
        model: what is about to be measured or exported.
        other: what happens under another template: ``refuse``, or ``allow``, which makes it the model's own from here on.

    Raises:
        ModelError: another template, and ``refuse``.
    """
    stored, now = model.lineage.get("template"), template_hash(model.tokenizer)
    if not stored or stored == now:
        return model
    if other == "refuse":
        raise ModelError(
            f"model {model.name!r} was trained or saved with chat template {stored}, its tokenizer now has {now or 'none'}: it "
            "would answer under a template that its weights do not know. Put the template back, or say other_template: allow "
            "in the task or export"
        )
    return replace(model, lineage={**model.lineage, "template": now, "template_before": stored})


def quiet_transformers() -> None:
    """Turns off the libraries' own progress bars and advice, which whet's receipts replace."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from datasets import disable_progress_bars

    disable_progress_bars()
