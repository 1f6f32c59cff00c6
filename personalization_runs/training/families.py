"""What differs between Stable Diffusion, SDXL, SD3 and FLUX: text, latents, noise, prediction and its target."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Text = dict[str, "Tensor"]
"""What a network is told of a prompt, by the name of its argument."""


class Family(ABC):
    """Networks that are trained alike.

    Attributes:
        network_name: of the pipeline's denoising network.
        lora_targets: endings of the layers that LoRA goes beside, as diffusers' examples have it.
        key_values: endings of the weights that turn text into keys and values.
        encoders: of each text encoder its component, its tokenizer and its name in files of vectors; that of an only
            one is its token.
    """

    network_name: ClassVar[str] = "transformer"
    lora_targets: ClassVar[tuple[str, ...]]
    key_values: ClassVar[tuple[str, ...]] = ("attn.add_k_proj.weight", "attn.add_v_proj.weight")
    encoders: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.network = getattr(pipeline, self.network_name)
        self.vae = pipeline.vae
        self.device, self.dtype = self.vae.device, self.vae.dtype
        self.scheduler = self._training_scheduler()

    @abstractmethod
    def _training_scheduler(self) -> Any:
        """A scheduler with the noise levels of training: the pipeline's own changes with each image."""

    @abstractmethod
    def text(self, prompt: str) -> Text:
        """What the network is told of a prompt: tensors of one row. Gradients reach the text encoders."""

    @abstractmethod
    def levels(self, n: int, generator: "Generator") -> "Tensor":
        """Noise levels to train at, `n` numbers in [0, 1)."""

    @abstractmethod
    def errors(self, latents: "Tensor", noise: "Tensor", levels: "Tensor", text: Text) -> "Tensor":
        """Mean squared error of the prediction for each row of latents (row, channel, y, x)."""

    def scaled(self, latents: "Tensor") -> "Tensor":
        """Latents of the VAE as the network knows them."""
        config = self.vae.config
        scaled: Tensor = (latents - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor
        return scaled

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Components that are needed for text alone."""
        return tuple(name for name in self.pipeline.components if name.startswith("text_encoder"))


class StableDiffusion(Family):
    """Noise, or velocity, is predicted at levels drawn evenly (Ho et al. 2020)."""

    network_name = "unet"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    key_values = ("attn2.to_k.weight", "attn2.to_v.weight")
    encoders: ClassVar[tuple[tuple[str, str, str], ...]] = (("text_encoder", "tokenizer", ""),)

    def _training_scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def text(self, prompt: str) -> Text:
        return {"encoder_hidden_states": self.pipeline.encode_prompt([prompt], self.device, 1, False)[0]}

    def levels(self, n: int, generator: "Generator") -> "Tensor":
        import torch

        return torch.rand(n, generator=generator)

    def predicted(self, noisy: "Tensor", steps: "Tensor", text: Text) -> "Tensor":
        prediction: Tensor = self.network(noisy, steps, **text, return_dict=False)[0]
        return prediction

    def errors(self, latents: "Tensor", noise: "Tensor", levels: "Tensor", text: Text) -> "Tensor":
        steps = (levels * self.scheduler.config.num_train_timesteps).long().to(self.device)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        is_velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, steps) if is_velocity else noise
        return _squares(self.predicted(noisy.to(self.dtype), steps, text), target)


class StableDiffusionXL(StableDiffusion):
    """Besides, the network is told sizes: those of a whole, square photo."""

    encoders = (("text_encoder", "tokenizer", "clip_l"), ("text_encoder_2", "tokenizer_2", "clip_g"))

    def text(self, prompt: str) -> Text:
        found = self.pipeline.encode_prompt([prompt], device=self.device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": found[0], "text_embeds": found[2]}

    def predicted(self, noisy: "Tensor", steps: "Tensor", text: Text) -> "Tensor":
        import torch

        height, width = (side * self.pipeline.vae_scale_factor for side in noisy.shape[2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(noisy), dtype=self.dtype, device=self.device)
        told = {"text_embeds": text["text_embeds"], "time_ids": sizes}
        hidden = text["encoder_hidden_states"]
        prediction: Tensor = self.network(noisy, steps, hidden, added_cond_kwargs=told, return_dict=False)[0]
        return prediction


class Flow(Family):
    """The way from photo to noise is predicted at logit-normal levels (Esser et al. 2024), all weighing the same."""

    def _training_scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)

    def levels(self, n: int, generator: "Generator") -> "Tensor":
        from diffusers.training_utils import compute_density_for_timestep_sampling

        levels: Tensor = compute_density_for_timestep_sampling("logit_normal", n, 0.0, 1.0, generator=generator)
        return levels.clamp(max=1 - 1e-6)

    def errors(self, latents: "Tensor", noise: "Tensor", levels: "Tensor", text: Text) -> "Tensor":
        index = (levels * self.scheduler.config.num_train_timesteps).long()
        steps = self.scheduler.timesteps[index].to(self.device)
        share = self.scheduler.sigmas[index].to(self.device)[:, None, None, None]
        noisy = (1 - share) * latents + share * noise
        return _squares(self.predicted(noisy.to(self.dtype), steps, text), self.packed(noise - latents))

    def packed(self, latents: "Tensor") -> "Tensor":
        """Latents as the network's output has them."""
        return latents

    @abstractmethod
    def predicted(self, noisy: "Tensor", steps: "Tensor", text: Text) -> "Tensor": ...


class StableDiffusion3(Flow):
    lora_targets = tuple(
        f"attn.{name}"
        for name in ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", "to_k", "to_out.0", "to_q", "to_v")
    )

    def text(self, prompt: str) -> Text:
        # 77 tokens of T5's, as in training scripts; images may have longer prompts.
        found = self.pipeline.encode_prompt(
            [prompt], None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=77
        )
        return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}

    def predicted(self, noisy: "Tensor", steps: "Tensor", text: Text) -> "Tensor":
        prediction: Tensor = self.network(noisy, timestep=steps, **text, return_dict=False)[0]
        return prediction


class Flux(Flow):
    lora_targets = (
        *StableDiffusion3.lora_targets,
        *(f"{name}.net.{layer}" for name in ("ff", "ff_context") for layer in ("0.proj", "2")),
    )
    encoders = (("text_encoder", "tokenizer", "clip_l"), ("text_encoder_2", "tokenizer_2", "t5"))

    def text(self, prompt: str) -> Text:
        hidden, pooled, _ = self.pipeline.encode_prompt([prompt], device=self.device)
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}

    def packed(self, latents: "Tensor") -> "Tensor":
        packed: Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed

    def predicted(self, noisy: "Tensor", steps: "Tensor", text: Text) -> "Tensor":
        import torch

        rows, columns = (side // 2 for side in noisy.shape[2:])
        # Distilled guidance is left alone while training, as diffusers' example does; images have their own.
        guidance = torch.ones(len(noisy), device=self.device) if self.network.config.guidance_embeds else None
        prediction: Tensor = self.network(
            self.packed(noisy),
            timestep=steps / 1000,
            guidance=guidance,
            **text,
            txt_ids=torch.zeros(text["encoder_hidden_states"].shape[1], 3, device=self.device, dtype=self.dtype),
            img_ids=self.pipeline._prepare_latent_image_ids(1, rows, columns, self.device, self.dtype),
            return_dict=False,
        )[0]
        return prediction


FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By the pipeline's class, which the weights' `model_index.json` names."""


def family_of(pipeline: Any) -> Family:
    """How the networks of a pipeline are trained.

    Raises:
        FinerRankError: of this one it is not known.
    """
    name = type(pipeline).__name__
    if name not in FAMILIES:
        raise FinerRankError(f"--weights: {name} cannot be trained here; bring weights of {', '.join(FAMILIES)}")
    return FAMILIES[name](pipeline)


def _squares(prediction: "Tensor", target: "Tensor") -> "Tensor":
    # In float32, whatever the networks compute in: losses are small, and so are differences between them.
    return (prediction.float() - target.float()).square().flatten(1).mean(1)
