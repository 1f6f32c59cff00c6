"""Short names for the encoders of the field."""

ALIASES = {
    "clip": "open_clip:ViT-B-32-quickgelu/openai",
    "dino": "timm:vit_base_patch16_224.dino",
    "dinov2": "timm:vit_base_patch14_dinov2.lvd142m",
    "classical": "classical:",
}
