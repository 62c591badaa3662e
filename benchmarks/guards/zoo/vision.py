"""Vision models of transformers, each from a configuration of a few layers."""

from __future__ import annotations

import torch

from benchmarks.guards.zoo.common import Builder, hf, image, pixels

# A transformer of two layers, in the names most configurations share.
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_labels": 10,
}  # fmt: skip
PATCHED = {**TINY, "image_size": 64, "patch_size": 16}
FOUR = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64], "num_labels": 10}
SWIN = {
    "image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
    "num_labels": 10,
}  # fmt: skip
PYRAMID = {**FOUR, "num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2]}


def nested(
    name: str, inputs: object, part: str, inner: str, settings: dict, **outer: object
) -> Builder:
    """Like `hf`, with the configuration `inner` of `settings` given as the argument `part`."""

    def builder() -> torch.nn.Module:
        import transformers

        made = getattr(transformers, inner)(attn_implementation="eager", **settings)
        return hf(name, inputs, **{part: made}, **outer)()

    return builder


VISION: dict[str, Builder] = {
    "vit": hf("ViTForImageClassification", pixels(), **PATCHED),
    "deit": hf("DeiTForImageClassificationWithTeacher", pixels(), **PATCHED),
    "beit": hf(
        "BeitForImageClassification", pixels(), use_relative_position_bias=True, **PATCHED
    ),
    "data2vec-vision": hf(
        "Data2VecVisionForImageClassification",
        pixels(),
        use_shared_relative_position_bias=True,
        **PATCHED,
    ),
    "vit-msn": hf("ViTMSNForImageClassification", pixels(), **PATCHED),
    "ijepa": hf("IJepaForImageClassification", pixels(), **PATCHED),
    "dinov2": hf("Dinov2ForImageClassification", pixels(), mlp_ratio=2, **PATCHED),
    "dinov2-swiglu": hf(
        "Dinov2ForImageClassification", pixels(), mlp_ratio=2, use_swiglu_ffn=True, **PATCHED
    ),
    "dinov2-registers": hf(
        "Dinov2WithRegistersForImageClassification", pixels(), num_register_tokens=4, **PATCHED
    ),
    "dinov3-vit": hf("DINOv3ViTModel", pixels(), num_register_tokens=2, **PATCHED),
    "dinov3-convnext": hf("DINOv3ConvNextModel", pixels(), **FOUR),
    "clip-vision": nested(
        "CLIPForImageClassification", pixels(), "vision_config", "CLIPVisionConfig", PATCHED,
        text_config={**TINY, "vocab_size": 200}, num_labels=10,
    ),
    "siglip-vision": nested(
        "SiglipForImageClassification", pixels(), "vision_config", "SiglipVisionConfig", PATCHED,
        text_config={**TINY, "vocab_size": 200}, num_labels=10,
    ),
    "siglip-vision-attention-pool": hf("SiglipVisionModel", pixels(), **PATCHED),
    "aimv2-vision": hf("Aimv2VisionModel", pixels(), **PATCHED),
    "swin": hf("SwinForImageClassification", pixels(), **SWIN),
    "swinv2": hf("Swinv2ForImageClassification", pixels(), **SWIN),
    "swin2sr": hf(
        "Swin2SRForImageSuperResolution", pixels(32), image_size=32, embed_dim=24, depths=[2, 2],
        num_heads=[2, 2], window_size=8,
    ),
    "convnext": hf("ConvNextForImageClassification", pixels(), **FOUR),
    "convnextv2": hf("ConvNextV2ForImageClassification", pixels(), **FOUR),
    "hf-resnet": hf("ResNetForImageClassification", pixels(), embedding_size=16, **FOUR),
    "regnet-y": hf(
        "RegNetForImageClassification", pixels(), embedding_size=16, groups_width=8, **FOUR
    ),
    "bit": hf(
        "BitForImageClassification", pixels(), embedding_size=16, num_groups=4,
        **{**FOUR, "hidden_sizes": [32, 64, 96, 128]},
    ),
    "textnet": hf(
        "TextNetForImageClassification", pixels(), stem_out_channels=16, num_labels=10,
        hidden_sizes=[16, 16, 32, 48, 64],
        conv_layer_kernel_sizes=[[[3, 3], [3, 1]], [[1, 3], [3, 3]], [[3, 3]], [[3, 1], [1, 3]]],
        conv_layer_strides=[[1, 2], [1, 2], [2], [1, 2]],
    ),
    "hgnet-v2": hf(
        "HGNetV2ForImageClassification", pixels(), num_labels=10, stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 48, 64], stage_mid_channels=[8, 16, 16, 24],
        stage_out_channels=[32, 48, 64, 96], stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[2, 2, 2, 2], hidden_sizes=[32, 48, 64, 96],
        depths=[1, 1, 2, 1], use_learnable_affine_block=True,
    ),
    "pp-lcnet": hf("PPLCNetForImageClassification", pixels(), scale=0.5, num_labels=10),
    "mobilenet-v1-tf": hf(
        "MobileNetV1ForImageClassification", pixels(), depth_multiplier=0.25, num_labels=10
    ),
    "mobilenet-v2-tf": hf(
        "MobileNetV2ForImageClassification", pixels(), depth_multiplier=0.35, num_labels=10
    ),
    "mobilenet-v2-deeplab": hf(
        "MobileNetV2ForSemanticSegmentation", pixels(), depth_multiplier=0.35, num_labels=10,
        output_stride=16,
    ),
    "mobilevit": hf(
        "MobileViTForImageClassification", pixels(), num_labels=10, image_size=64,
        hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 12, 16, 24, 32, 40, 80],
    ),
    "mobilevitv2": hf(
        "MobileViTV2ForImageClassification", pixels(), num_labels=10, image_size=64,
        n_attn_blocks=[1, 1, 1], base_attn_unit_dims=[32, 48, 64], width_multiplier=0.5,
    ),
    "hf-efficientnet": hf(
        "EfficientNetForImageClassification", pixels(), num_labels=10, image_size=64,
        width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640,
    ),
    "poolformer": hf("PoolFormerForImageClassification", pixels(), mlp_ratio=2.0, **FOUR),
    "segformer": hf(
        "SegformerForSemanticSegmentation", pixels(), decoder_hidden_size=32, **PYRAMID
    ),
    "segformer-classifier": hf("SegformerForImageClassification", pixels(), **PYRAMID),
    "glpn": hf("GLPNForDepthEstimation", pixels(), decoder_hidden_size=16, **PYRAMID),
    "pvt": hf("PvtForImageClassification", pixels(), image_size=64, **PYRAMID),
    "pvt-v2": hf("PvtV2ForImageClassification", pixels(), image_size=64, **PYRAMID),
    "pvt-v2-linear": hf(
        "PvtV2ForImageClassification", pixels(), image_size=64, linear_attention=True, **PYRAMID
    ),
    "levit": hf(
        "LevitForImageClassification", pixels(), image_size=64, hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4], depths=[2, 2, 2], key_dim=[8, 8, 8], num_labels=10,
    ),
    "cvt": hf(
        "CvtForImageClassification", pixels(), embed_dim=[16, 32, 48], num_heads=[1, 2, 3],
        depth=[1, 2, 3], num_labels=10,
    ),
    "focalnet": hf(
        "FocalNetForImageClassification", pixels(), image_size=64, embed_dim=16, mlp_ratio=2.0,
        use_layerscale=True, normalize_modulator=True, **FOUR,
    ),
    "swiftformer": hf(
        "SwiftFormerForImageClassification", pixels(), depths=[1, 1, 2, 1],
        embed_dims=[16, 24, 32, 48], mlp_ratio=2, num_labels=10,
    ),
    "hiera": hf(
        "HieraForImageClassification", pixels(), image_size=[64, 64], embed_dim=16,
        depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], masked_unit_size=[8, 8], num_query_pool=2,
        num_labels=10,
    ),
    "yolos": hf(
        "YolosForObjectDetection", pixels(), num_detection_tokens=5,
        **{**PATCHED, "image_size": [64, 64]},
    ),
    "detr": nested(
        "DetrForObjectDetection", pixels(), "backbone_config", "ResNetConfig",
        {"embedding_size": 16, **FOUR, "out_features": ["stage4"]}, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=5, num_labels=10,
    ),
    "dpt": hf(
        "DPTForDepthEstimation", pixels(), backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, neck_ignore_stages=[],
        **{**PATCHED, "num_hidden_layers": 4},
    ),
    "depth-anything": nested(
        "DepthAnythingForDepthEstimation", pixels(), "backbone_config", "Dinov2Config",
        {**PATCHED, "num_hidden_layers": 4, "mlp_ratio": 2, "reshape_hidden_states": False,
         "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        patch_size=16, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16, head_hidden_size=8, depth_estimation_type="metric",
    ),
    "upernet": nested(
        "UperNetForSemanticSegmentation", pixels(), "backbone_config", "ConvNextConfig",
        {**FOUR, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, hidden_size=32,
        auxiliary_channels=16, auxiliary_in_channels=48, num_labels=10,
    ),
    "timesformer": hf(
        "TimesformerForVideoClassification", lambda: {"pixel_values": torch.randn(2, 4, 3, 32, 32)},
        num_frames=4, **{**PATCHED, "image_size": 32},
    ),
    "videomae": hf(
        "VideoMAEForVideoClassification", lambda: {"pixel_values": torch.randn(2, 4, 3, 32, 32)},
        num_frames=4, **{**PATCHED, "image_size": 32},
    ),
    "mgp-str": hf(
        "MgpstrForSceneTextRecognition", lambda: {"pixel_values": torch.randn(2, 3, 32, 64)},
        image_size=[32, 64], max_token_length=6, num_bpe_labels=50, num_wordpiece_labels=50,
        **{k: v for k, v in TINY.items() if k != "num_labels"},
    ),
    "superpoint": hf(
        "SuperPointForKeypointDetection", pixels(), encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=32, descriptor_decoder_dim=32,
    ),
    "superpoint-encoder": hf(
        "SuperPointForKeypointDetection", image(64, 1), pick="encoder",
        encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=32,
    ),
    "sam-mask-free-vision": hf(
        "SamVisionModel", pixels(), image_size=64, patch_size=16, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, mlp_dim=64, output_channels=16, window_size=2,
        global_attn_indexes=[1],
    ),
    "vitdet": hf("VitDetModel", pixels(), window_block_indices=[0], window_size=2, **PATCHED),
    "patchtsmixer": hf(
        "PatchTSMixerModel", lambda: {"past_values": torch.randn(2, 32, 3)}, context_length=32,
        patch_length=8, patch_stride=8, num_input_channels=3, d_model=16, num_layers=2,
    ),
    "patchtst": hf(
        "PatchTSTModel", lambda: {"past_values": torch.randn(2, 32, 3)}, context_length=32,
        patch_length=8, patch_stride=8, num_input_channels=3, d_model=16, num_attention_heads=4,
        num_hidden_layers=2, ffn_dim=32, do_mask_input=False,
    ),
}  # fmt: skip
