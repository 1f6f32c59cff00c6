"""Remote code of the stand-in for Emu2; it is copied into the saved folder."""

from transformers import PretrainedConfig


class EmuConfig(PretrainedConfig):
    model_type = "emu_stand_in"

    def __init__(self, width: int = 32, n_tokens: int = 300, input_px: int = 32, n_queries: int = 4, **kwargs):
        self.width, self.n_tokens, self.input_px, self.n_queries = width, n_tokens, input_px, n_queries
        super().__init__(**kwargs)
