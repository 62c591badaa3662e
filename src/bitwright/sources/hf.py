"""Networks of transformers from a local folder; nothing is downloaded, no code of it is run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import nn

from bitwright.errors import ModelError
from bitwright.sources.batches import BatchInputs
from bitwright.sources.guard import Foreign, reason, shorten
from bitwright.sources.images import ImagePreprocess
from bitwright.sources.specs import Spec
from bitwright.sources.text import TextPreprocess
from bitwright.sources.zoo import ZooNetwork, check_keys, import_optional, load_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")
MAX_TOKENS = 128
MAX_CONTEXT_TOKENS = 384
# Classes named Model that nevertheless end in scores of words.
_HEADED_MODELS = ("LMHeadModel", "DoubleHeadsModel")
EXAMPLE_TOKENS = 16
_SIDE = 224


def load_hf(spec: Spec, weights: Path | None) -> ZooNetwork:
    """`hf:FOLDER`: config.json, weights and, where they are there, tokenizer or image processor."""
    folder = spec.path
    if not folder.is_dir():
        raise ModelError(
            f"{spec.text!r}: no folder {str(folder)!r}. Nothing is downloaded: fetch the network "
            "first (for example by `hf download NAME --local-dir FOLDER`) and write hf:FOLDER."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{spec.text!r}: the folder holds no config.json. Save the network there.")
    transformers = import_optional("transformers", "text", spec.text)
    _refuse_own_code(transformers, folder, spec.text)
    with _quiet(transformers):
        module = _build(transformers, folder, weights, spec.text)
        accepts = tuple(inspect.signature(module.forward).parameters)
        config = cast("PretrainedConfig", module.config)
        if hasattr(config, "use_cache"):
            config.use_cache = False  # a cache among the outputs is of no use in one pass
        pictures = "pixel_values" in accepts and "input_ids" not in accepts
        image = _image_preprocess(folder) if pictures else None
        # Any key of config.json may hold anything.
        with Foreign(
            ModelError, f"reading the configuration of {spec.text}", remedy="Mend config.json."
        ):
            if pictures:
                return ZooNetwork(module, _image_example(config, image), image)
            text = _text_preprocess(transformers, folder, config, accepts, spec.text)
            return ZooNetwork(module, _text_example(config, text, accepts), text)


def _refuse_own_code(transformers: ModuleType, folder: Path, name: str) -> None:
    """Refuse a folder whose classes are its own, before transformers asks whether to run them.

    Where transformers has the classes too, `trust_remote_code=False` takes its own.
    """
    for file in ("config.json", "tokenizer_config.json"):
        try:
            config = json.loads((folder / file).read_bytes()) if (folder / file).is_file() else {}
        except (OSError, ValueError, RecursionError):
            continue  # transformers, which reads it next, says what is wrong with it
        if not isinstance(config, dict) or not config.get("auto_map"):
            continue
        own_type = config.get("model_type") in transformers.CONFIG_MAPPING
        own_tokens = hasattr(transformers, str(config.get("tokenizer_class")))
        if not (own_tokens if file.startswith("tokenizer") else own_type):
            raise ModelError(
                f"{name!r}: {file} asks for Python code of the folder (auto_map), which is never "
                "run. Build the network in a FILE.py:FUNCTION of your own, with code that you "
                "have read."
            )


def _build(transformers: ModuleType, folder: Path, weights: Path | None, name: str) -> nn.Module:
    with Foreign(ModelError, f"reading the configuration of {name}"):
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    kind = _network_class(transformers, config, name)
    if weights is not None:
        with Foreign(ModelError, f"building {name}"):
            module: nn.Module = kind._from_config(config, attn_implementation="eager")
            module.float().eval()
        load_weights(module, weights, name)
        return module
    with Foreign(ModelError, f"loading {name}"):
        loaded: tuple[nn.Module, Any] = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
        )
    trained, outcome = loaded
    # transformers fills what is missing with random numbers and only warns.
    check_keys("the weights in the folder", name, outcome["missing_keys"])
    return trained.float().eval()


def _network_class(
    transformers: ModuleType, config: PretrainedConfig, name: str
) -> type[PreTrainedModel]:
    """The class that the weights were saved from: it knows the head, the Auto classes do not."""
    names = getattr(config, "architectures", None) or []
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise ModelError(
            f"{name!r}: the architectures in config.json are {shorten(str(names))}: they must be "
            'a list of names, such as ["BertForSequenceClassification"].'
        )
    if not names:
        raise ModelError(
            f"{name!r}: config.json names no architecture. Add "
            '"architectures": ["BertForSequenceClassification"] or what it is.'
        )
    kind: Any = getattr(transformers, names[0], None) if names[0].isidentifier() else None
    if kind is None:
        raise ModelError(
            f"{name!r}: architecture {shorten(names[0])} is not in transformers "
            f"{transformers.__version__}. Update transformers, or build the network in a "
            "FILE.py:FUNCTION: code in the folder is never run."
        )
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ModelError(
            f"{name!r}: architecture {shorten(names[0])} is no class of networks in "
            "transformers. Name the class that the weights were saved from, such as "
            "BertForSequenceClassification."
        )
    found: type[PreTrainedModel] = kind
    return found


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Progress bars and warnings of transformers off: the command has a display of its own."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


# ---- text ------------------------------------------------------------------------------------


def _text_preprocess(
    transformers: ModuleType,
    folder: Path,
    config: PretrainedConfig,
    accepts: tuple[str, ...],
    name: str,
) -> TextPreprocess | None:
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    with Foreign(ModelError, f"loading the tokenizer of {name}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    longest = getattr(config, "max_position_embeddings", None) or MAX_TOKENS
    classes = {str(key): int(value) for key, value in (config.label2id or {}).items()}
    kind = (config.architectures or [""])[0]
    spans = kind.endswith("ForQuestionAnswering")
    return TextPreprocess(
        tokenizer,
        max_length=min(MAX_CONTEXT_TOKENS if spans else MAX_TOKENS, longest),
        accepts=accepts,
        classes=classes,
        joint=not (kind.endswith("Model") and not kind.endswith(_HEADED_MODELS)),
        spans=spans,
    )


def _text_example(
    config: PretrainedConfig, text: TextPreprocess | None, accepts: tuple[str, ...]
) -> BatchInputs:
    """Two rows of tokens, under the names that the tokenizer will use for the real data."""
    names = ["input_ids", "attention_mask"]
    if text is not None:
        names = list(text.tokenizer.model_input_names)
    length = min(EXAMPLE_TOKENS, getattr(config, "max_position_embeddings", EXAMPLE_TOKENS))
    ids = torch.arange(2 * length).reshape(2, length) % int(config.vocab_size)
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {n: values.get(n, torch.zeros_like(ids)) for n in names if n in accepts}


# ---- images ----------------------------------------------------------------------------------


def _image_example(config: PretrainedConfig, image: ImagePreprocess | None) -> BatchInputs:
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        size = (side, side)
    elif side:
        size = (int(side[0]), int(side[1]))
    else:
        size = image.size if image is not None else (_SIDE, _SIDE)
    return {"pixel_values": torch.zeros(2, int(getattr(config, "num_channels", 3)), *size)}


def _image_preprocess(folder: Path) -> ImagePreprocess | None:
    """What preprocessor_config.json says. Read here: transformers' own classes want torchvision."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        size, crop, keep_aspect = _geometry(config)
        normalise = config.get("do_normalize", True)
        if normalise and not {"image_mean", "image_std"} <= config.keys():
            return None  # the defaults differ from class to class: better unknown than wrong
        rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        return ImagePreprocess(
            size,
            tuple(config["image_mean"]) if normalise else (0.0,) * 3,
            tuple(config["image_std"]) if normalise else (1.0,) * 3,
            crop=crop,
            keep_aspect=keep_aspect,
            interpolation=_interpolation(config.get("resample", Image.Resampling.BILINEAR)),
            scale=1.0 / rescale,
            input_name="pixel_values",
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelError(f"{file} cannot be understood: {reason(exc)}. Mend this file.") from exc


def _geometry(config: dict[str, Any]) -> tuple[tuple[int, int], float | None, bool]:
    """Output size, the fraction kept, and whether the picture keeps its aspect on the way.

    A shortest edge keeps it; a height and width squash the picture, as does a bare number.
    """
    size = config["size"]
    by_edge = isinstance(size, dict) and "height" not in size
    if isinstance(size, dict) and not by_edge:
        resized = (int(size["height"]), int(size["width"]))
    else:
        edge = int(size["shortest_edge"] if by_edge else size)
        resized = (edge, edge)
    if config.get("do_center_crop"):
        crop = config["crop_size"]
        kept = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        return (int(kept[0]), int(kept[1])), min(1.0, kept[0] / resized[0]), by_edge
    if config.get("crop_pct"):  # ConvNeXt: small sizes are cropped, large ones are squashed
        return resized, float(config["crop_pct"]) if resized[0] < 384 else None, by_edge
    return resized, 1.0 if by_edge else None, by_edge


def _interpolation(code: int) -> str:
    return Image.Resampling(code).name.lower()
