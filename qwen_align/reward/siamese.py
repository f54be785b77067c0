"""The Siamese reward model: one encoder reads prompt and answer apart, a small head compares what it made of them.

The study (arXiv 2506.21560) names a Siamese DistilBERT beside DeBERTa and DistilBERT, and leaves open what its twins read
(prompt and answer, or chosen and rejected), how tokens become a vector and how two vectors become a score. Chosen here: prompt
and answer, through one set of weights; the mean over all tokens, as Sentence-BERT does (arXiv 1908.10084); and a hidden layer
on (u, v, |u - v|, u * v), InferSent's features (arXiv 1705.02364). It is trained on Bradley-Terry pairs like the others. (Twins
that read chosen and rejected would be the plain pair model: Bradley-Terry scores both with the same weights anyway.)

Prompt and answer never attend to each other, so it sees less than a pair model. Any encoder that AutoModel loads will do.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class Siamese(PreTrainedModel):
    """A shared encoder and a head; `config` is the encoder's own, so a saved folder needs nothing else."""

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

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask)[0]  # (rows, tokens, width)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prompt_input_ids: torch.Tensor,
        prompt_attention_mask: torch.Tensor,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Scores as logits, (rows, 1), of answers in `input_ids` to prompts in `prompt_input_ids`."""
        u = self._pooled(prompt_input_ids, prompt_attention_mask)
        v = self._pooled(input_ids, attention_mask)
        hidden = nn.functional.gelu(self.pre_classifier(torch.cat([u, v, (u - v).abs(), u * v], dim=-1)))
        return SequenceClassifierOutput(logits=self.classifier(hidden))
