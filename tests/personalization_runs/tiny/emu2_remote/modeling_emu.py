"""Remote code of the stand-in for Emu2; it is copied into the saved folder."""

import torch
from transformers import PreTrainedModel

from .configuration_emu import EmuConfig


class EmuForCausalLM(PreTrainedModel):
    """Reads texts and pictures in the order given, then predicts one embedding after the other."""

    config_class = EmuConfig

    def __init__(self, config: EmuConfig):
        super().__init__(config)
        width = config.width
        self.embed_tokens = torch.nn.Embedding(config.n_tokens, width)
        self.visual = torch.nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.project_up = torch.nn.Linear(width, width)
        self.decoder = torch.nn.GRU(width, width, batch_first=True)
        self.project_down = torch.nn.Linear(width, width)
        self.post_init()

    def _init_weights(self, module):
        """As torch initialised them."""

    @torch.no_grad()
    def generate_image(self, inputs, tokenizer):
        """Embeddings [1, n_queries, width] of a list of texts and of pixel tensors [1, 3, height, width]."""
        parts = []
        for item in inputs:
            if isinstance(item, str):
                ids = tokenizer(item, return_tensors="pt").input_ids.to(self.device)
                parts.append(self.embed_tokens(ids))
            else:
                parts.append(self.project_up(self.visual(item.to(self.device, self.dtype)).flatten(2).transpose(1, 2)))
        sequence = torch.cat(parts, dim=1)
        for _ in range(self.config.n_queries):
            predicted, _ = self.decoder(sequence + 3 * sequence.mean(1, keepdim=True))  # lest the start be forgotten
            sequence = torch.cat([sequence, predicted[:, -1:]], dim=1)
        return self.project_down(sequence[:, -self.config.n_queries :])
