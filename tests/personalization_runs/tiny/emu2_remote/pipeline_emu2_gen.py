"""Remote code of the stand-in for Emu2; it is copied into the saved folder."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from PIL import Image


@dataclass
class EmuVisualGenerationPipelineOutput(BaseOutput):
    image: Image.Image
    nsfw_content_detected: bool | None


class EmuVisualGenerationPipeline(DiffusionPipeline):
    """Called as the published one: no generator, a single picture, classifier-free guidance against the empty text."""

    def __init__(self, tokenizer, multimodal_encoder, feature_extractor, safety_checker, scheduler, unet, vae):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            multimodal_encoder=multimodal_encoder,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
            scheduler=scheduler,
            unet=unet,
            vae=vae,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    def encode(self, inputs):
        pixels = [
            item if isinstance(item, str) else self.feature_extractor(item, return_tensors="pt").pixel_values
            for item in inputs
        ]
        return self.multimodal_encoder.generate_image(pixels, self.tokenizer)

    @torch.no_grad()
    def __call__(self, inputs, height=1024, width=1024, num_inference_steps=50, guidance_scale=3.0):
        inputs = inputs if isinstance(inputs, list) else [inputs]
        context = torch.cat([self.encode([""]), self.encode(inputs)])
        conditions = {
            "text_embeds": context.mean(1),
            "time_ids": context.new_tensor([[height, width, 0, 0, height, width]]).repeat(2, 1),
        }
        self.scheduler.set_timesteps(num_inference_steps, device=context.device)
        shape = (1, self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)
        latents = torch.randn(shape, device=context.device, dtype=context.dtype) * self.scheduler.init_noise_sigma
        for step in self.scheduler.timesteps:
            noisy = self.scheduler.scale_model_input(torch.cat([latents, latents]), step)
            without, given = self.unet(noisy, step, context, added_cond_kwargs=conditions).sample.chunk(2)
            guided = without + guidance_scale * (given - without)
            latents = self.scheduler.step(guided, step, latents).prev_sample
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        images, flagged = self.image_processor.postprocess(pixels, output_type="np"), [None]
        if self.safety_checker is not None:
            seen = self.feature_extractor(self.numpy_to_pil(images), return_tensors="pt").pixel_values
            images, flagged = self.safety_checker(images=images, clip_input=seen.to(pixels))
        return EmuVisualGenerationPipelineOutput(self.numpy_to_pil(images)[0], flagged[0])
